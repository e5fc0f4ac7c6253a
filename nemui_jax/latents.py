"""The latent table `[row, latent]`: where each song's rows stand, and how a track is read, mixed and measured.

A song owns consecutive rows, its track. Row `k` of a track stands at knot `k`, `k * knot_steps` steps into the
song; between two knots a latent is read by linear interpolation. A song is decoded by queries, one for each
block of `block_steps` steps. No model code here, and no JAX to import: arrays may be of either kind.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32

from nemui_jax.config import ModelConfig

PATHS = ("line", "norm", "sphere")  # ways from one latent to another


class Queries(NamedTuple):
    """One entry for each block of a song, or of many songs one after another."""

    step: Int32[Any, " query"]  # first step of the block
    row: Int32[Any, " query"]  # rows of the knots before and after it
    next_row: Int32[Any, " query"]
    time: Float32[Any, " query"]  # position between the two knots, 0 to 1


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
    before: Float[Any, "query latent"], after: Float[Any, "query latent"], time: Float[Any, " query"]
) -> Float[Any, "query latent"]:
    """Latents between two knots, by linear interpolation."""
    return before + time[:, None] * (after - before)


def turn(steps: int, config: ModelConfig) -> int:
    """Blocks after which a song of this many steps starts again: whole knots."""
    count = count_queries(steps, config)
    knot_blocks = config.knot_steps // config.block_steps or count
    return -(-count // knot_blocks) * knot_blocks


def along(track: Float[Any, "row latent"], steps: int, count: int, config: ModelConfig) -> Float[Any, "query latent"]:
    """The latents of the first `count` queries of a song of `steps` steps, which starts again when it ends.

    It starts again at a whole knot, so that all songs stand at the same place between their knots at any time.
    """
    own = queries(steps, config)
    index = np.minimum(np.arange(count) % turn(steps, config), len(own.step) - 1)
    return read(track[own.row[index]], track[own.next_row[index]], own.time[index])


def times(count: int, config: ModelConfig) -> Float32[np.ndarray, " query"]:
    """The time within the knot interval of each of the first `count` queries of any stretch."""
    return queries(count * config.block_steps, config).time


def mix(
    stretches: Float[Any, "song query latent"], weights: Float[Any, "song query"], path: str = "line"
) -> Float[Any, "query latent"]:
    """Latents between those of songs, query by query; weights sum to 1.

    `line` is linear interpolation. `norm` gives each sum the weighted mean of its parts' norms, where a plain one falls
    towards the origin between unlike latents. `sphere` goes along the great circle between two songs' directions and
    evenly from one's norm to the other's (Shoemake, 1985). ValueError for another path, or a sphere not between two.
    """
    mixed = (weights[..., None] * stretches).sum(0)
    if path == "line":
        return mixed
    norms = (stretches**2).sum(-1) ** 0.5 + 1e-9
    norm = (weights * norms).sum(0)
    if path == "sphere":
        if len(stretches) != 2:
            raise ValueError(f"a sphere's path is one between two songs, and there are {len(stretches)}")
        first, second = stretches / norms[..., None]
        angle = np.arccos(np.clip((first * second).sum(-1), -1 + 1e-6, 1 - 1e-6))
        share = np.sin(weights * angle) / np.sin(angle)
        return norm[:, None] * (share[0][:, None] * first + share[1][:, None] * second)
    if path != "norm":
        raise ValueError(f"no path {path!r}; there are {', '.join(PATHS)}")
    return mixed * (norm / ((mixed**2).sum(-1) ** 0.5 + 1e-9))[:, None]


def spread(table: Float[Any, "row latent"]) -> Float[Any, " latent"]:
    """The standard deviation of each number of a latent over the table: the unit of noise."""
    return table.std(0)
