"""Where the blocks and latent rows of a song, and of a corpus, stand. No JAX here."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from nemui_jax.config import Config, ModelConfig


class Queries(NamedTuple):
    """One entry for each block of a song, or of many songs one after another."""

    step: Int32[Any, " query"]  # first step of the block
    row: Int32[Any, " query"]  # rows of the knots before and after it
    next_row: Int32[Any, " query"]
    time: Float32[Any, " query"]  # position between the two knots, 0 to 1


def count_blocks(steps: int, config: ModelConfig) -> int:
    """Blocks that cover a song of this many steps."""
    return max(-(-steps // config.block_steps), 1)


def count_song_rows(steps: int, config: ModelConfig) -> int:
    """Rows in the track of a song of this many steps."""
    if config.knot_steps == 0:
        return 1
    return -(-(count_blocks(steps, config) - 1) * config.block_steps // config.knot_steps) + 1


def song_queries(steps: int, config: ModelConfig) -> Queries:
    """The queries that play a song of this many steps, its steps and rows counted from 0."""
    count = count_blocks(steps, config)
    step = np.arange(count) * config.block_steps
    position = step / (config.knot_steps or count * config.block_steps)
    row = np.floor(position).astype(np.int32)
    next_row = np.minimum(row + 1, count_song_rows(steps, config) - 1).astype(np.int32)
    return Queries(step.astype(np.int32), row, next_row, (position - row).astype(np.float32))


def blocks_until_repeat(steps: int, config: ModelConfig) -> int:
    """Blocks after which a song of this many steps starts again: whole knots."""
    count = count_blocks(steps, config)
    knot_blocks = config.knot_steps // config.block_steps or count
    return -(-count // knot_blocks) * knot_blocks


def block_times(count: int, config: ModelConfig) -> Float32[np.ndarray, " query"]:
    """The time within the knot interval of each of the first `count` queries of any stretch."""
    return song_queries(count * config.block_steps, config).time


def row_starts(lengths: Sequence[int], config: Config) -> list[int]:
    """The first row of each song of so many steps in the latent table, and the number of rows."""
    return list(itertools.accumulate((count_song_rows(steps, config.model) for steps in lengths), initial=0))


def count_corpus_rows(lengths: Sequence[int], config: Config) -> int:
    """Rows in the tracks of all songs."""
    return row_starts(lengths, config)[-1]


def count_corpus_blocks(lengths: Sequence[int], config: Config) -> int:
    """Blocks in all songs."""
    return sum(count_blocks(steps, config.model) for steps in lengths)


def corpus_queries(lengths: Sequence[int], config: Config) -> Queries:
    """The queries of all songs, with steps and rows counted through the whole corpus."""
    parts, step, row = [], 0, 0
    for steps in lengths:
        part = song_queries(steps, config.model)
        parts.append(part._replace(step=part.step + step, row=part.row + row, next_row=part.next_row + row))
        step += len(part.step) * config.model.block_steps
        row += count_song_rows(steps, config.model)
    return Queries(*(np.concatenate(column) for column in zip(*parts, strict=True)))
