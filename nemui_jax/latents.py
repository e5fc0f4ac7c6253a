"""The latent table `[row, latent]`: where each song's rows stand, and how a track is read, mixed and measured.

A song owns consecutive rows, its track. Row `k` of a track stands at knot `k`, `k * knot_steps` steps into the
song; between two knots a latent is read by linear interpolation. A song is decoded by queries, one for each
block of `block_steps` steps. No model code here.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from nemui_jax.config import ModelConfig


class Queries(NamedTuple):
    """One entry for each block of a song, or of many songs one after another."""

    step: Int32[np.ndarray, " query"]  # first step of the block
    row: Int32[np.ndarray, " query"]  # rows of the knots before and after it
    next_row: Int32[np.ndarray, " query"]
    time: Float32[np.ndarray, " query"]  # position between the two knots, 0 to 1


def count_queries(steps: int, config: ModelConfig) -> int:
    """Blocks that cover a song of this many steps."""
    return max(-(-steps // config.block_steps), 1)


def count_rows(steps: int, config: ModelConfig) -> int:
    """Rows in the track of a song of this many steps."""
    if config.knot_steps == 0:
        return 1
    return -(-(count_queries(steps, config) - 1) * config.block_steps // config.knot_steps) + 1


def queries(steps: int, config: ModelConfig) -> Queries:
    """The queries that play a song of this many steps, its steps and rows counted from 0."""
    count = count_queries(steps, config)
    step = np.arange(count) * config.block_steps
    position = step / (config.knot_steps or count * config.block_steps)
    row = np.floor(position).astype(np.int32)
    next_row = np.minimum(row + 1, count_rows(steps, config) - 1).astype(np.int32)
    return Queries(step.astype(np.int32), row, next_row, (position - row).astype(np.float32))


def read(
    before: Float[Array, "query latent"], after: Float[Array, "query latent"], time: Float[Array, " query"]
) -> Float[Array, "query latent"]:
    """Latents between two knots, by linear interpolation."""
    return before + time[:, None] * (after - before)
