"""The positions of cells, blocks and latent rows in a song and in a corpus.

A song is divided into cells of `knot_steps` steps, and a cell into blocks of `block_steps` steps. The decoder answers
one query with one block; a query is the latent row of a cell (see `cell_rows`) and a time within the cell. The last
cell is padded with silence. With `knot_steps` 0 the whole song is one cell. This module does not import JAX.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from nemui_jax.config import Config, ModelConfig


class Queries(NamedTuple):
    """One query for each block of a song, or of many songs one after another."""

    step: Int32[Any, " query"]  # first step of the block
    row: Int32[Any, " query"]  # latent row of its cell
    time: Float32[Any, " query"]  # where the block begins within the cell, 0 to 1


def count_cells(steps: int, config: ModelConfig) -> int:
    """Cells that cover a song of this many steps."""
    return max(-(-steps // config.knot_steps), 1) if config.knot_steps else 1


def count_cell_blocks(steps: int, config: ModelConfig) -> int:
    """Blocks in each cell of a song of this many steps."""
    return (config.knot_steps or max(-(-steps // config.block_steps), 1) * config.block_steps) // config.block_steps


def count_blocks(steps: int, config: ModelConfig) -> int:
    """Blocks in all cells of a song of this many steps; a song that starts again does so after as many."""
    return count_cells(steps, config) * count_cell_blocks(steps, config)


def cell_rows(steps: int, config: ModelConfig) -> Int32[np.ndarray, " cell"]:
    """The row of each cell of a song of this many steps, counted from the song's first row: one row a cell."""
    return np.arange(count_cells(steps, config), dtype=np.int32)


def count_song_rows(steps: int, config: ModelConfig) -> int:
    """Rows in the track of a song of this many steps."""
    return int(cell_rows(steps, config).max()) + 1


def song_queries(steps: int, config: ModelConfig) -> Queries:
    """The queries for all blocks of a song of this many steps, with its steps and rows counted from 0."""
    index, cell_blocks = np.arange(count_blocks(steps, config)), count_cell_blocks(steps, config)
    return Queries(
        step=(index * config.block_steps).astype(np.int32),
        row=cell_rows(steps, config)[index // cell_blocks],
        time=(index % cell_blocks / cell_blocks).astype(np.float32),
    )


def block_times(count: int, config: ModelConfig) -> Float32[np.ndarray, " query"]:
    """The time within its cell of each of the first `count` blocks of any song."""
    return song_queries(count * config.block_steps, config).time[:count]


def row_starts(lengths: Sequence[int], config: Config) -> list[int]:
    """The first row of each song in the latent table, given the songs' lengths in steps; then the number of rows."""
    return list(itertools.accumulate((count_song_rows(steps, config.model) for steps in lengths), initial=0))


def count_corpus_rows(lengths: Sequence[int], config: Config) -> int:
    """Rows of the latent table, given the songs' lengths in steps."""
    return row_starts(lengths, config)[-1]


def count_corpus_blocks(lengths: Sequence[int], config: Config) -> int:
    """Blocks in all songs, given their lengths in steps."""
    return sum(count_blocks(steps, config.model) for steps in lengths)


def corpus_queries(lengths: Sequence[int], config: Config) -> Queries:
    """The queries of all songs, given their lengths in steps; steps and rows are counted through the whole corpus."""
    parts, first_step = [], 0
    for steps, first_row in zip(lengths, row_starts(lengths, config), strict=False):
        part = song_queries(steps, config.model)
        parts.append(part._replace(step=part.step + first_step, row=part.row + first_row))
        first_step += len(part.step) * config.model.block_steps
    return Queries(*(np.concatenate(column) for column in zip(*parts, strict=True)))
