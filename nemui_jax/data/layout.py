"""The positions of cells, blocks and latent rows: the only place that knows where a song's music is in the table.

A cell is a part over `knot_steps` steps; a cell has blocks of `block_steps` steps. The decoder answers one query with
one block; a query is the latent row of a cell and a time within the cell. A song's score says which row each cell of
each part is decoded from: equal cells share one, silent cells have none. Notes that double others of their part are a
layer of their own, as if they were a part. With `knot_steps` 0 a cell is a part's whole song. This module does not
import JAX.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32

from nemui_jax.config import ModelConfig

SILENT = -1  # in place of a row

Score = Int32[np.ndarray, "layer cell"]  # the row of each cell, counted from the song's first, or SILENT


@runtime_checkable
class Placed(Protocol):
    """What has rows in the table."""

    @property
    def steps(self) -> int: ...

    @property
    def rows(self) -> int: ...


class Queries(NamedTuple):
    """One query for each block of each row of a song, or of many songs one after another."""

    step: Int32[Any, " query"]  # first step of the block, counted through the rolls (see `dataset.Rolls`)
    row: Int32[Any, " query"]  # latent row
    time: Float32[Any, " query"]  # where the block begins within the cell, 0 to 1


def cell_steps(steps: int, config: ModelConfig) -> int:
    """Steps of a cell of a song of this many steps."""
    return config.knot_steps or max(-(-steps // config.block_steps), 1) * config.block_steps


def count_cells(steps: int, config: ModelConfig) -> int:
    """Cells of each part of a song of this many steps; the last one is padded with silence."""
    return max(-(-steps // cell_steps(steps, config)), 1)


def count_cell_blocks(steps: int, config: ModelConfig) -> int:
    """Blocks in each cell of a song of this many steps."""
    return cell_steps(steps, config) // config.block_steps


def block_times(count: int) -> Float32[np.ndarray, " block"]:
    """The time within its cell of each of the `count` blocks of a cell."""
    return (np.arange(count) / count).astype(np.float32)


def row_queries(song: Placed, config: ModelConfig) -> Queries:
    """The queries for all rows of a song, with steps and rows counted from 0."""
    blocks = count_cell_blocks(song.steps, config)
    index = np.arange(song.rows * blocks)
    return Queries(
        step=(index * config.block_steps).astype(np.int32),
        row=(index // blocks).astype(np.int32),
        time=np.tile(block_times(blocks), song.rows),
    )


def row_starts(songs: Iterable[Placed]) -> list[int]:
    """The first row of each song in the latent table; then the number of rows."""
    return list(itertools.accumulate((song.rows for song in songs), initial=0))


def count_rows(songs: Iterable[Placed]) -> int:
    """Rows of the latent table."""
    return row_starts(songs)[-1]


def count_blocks(songs: Iterable[Placed], config: ModelConfig) -> int:
    """Blocks in all rows."""
    return sum(song.rows * count_cell_blocks(song.steps, config) for song in songs)


def corpus_queries(songs: Sequence[Placed], config: ModelConfig) -> Queries:
    """The queries of all songs; steps and rows are counted through the whole corpus."""
    found, first_step = [], 0
    for song, first_row in zip(songs, row_starts(songs), strict=False):
        queries = row_queries(song, config)
        found.append(queries._replace(step=queries.step + first_step, row=queries.row + first_row))
        first_step += len(queries.step) * config.block_steps
    return Queries(*(np.concatenate(column) for column in zip(*found, strict=True)))
