"""Latents: reading rows, and ways between them. Arrays may be NumPy's or JAX's."""

from typing import Any

import numpy as np
from jaxtyping import Float

from nemui_jax.config import ModelConfig
from nemui_jax.data import layout

PATHS = ("line", "norm", "sphere")  # ways from one latent to another


def read_track(
    track: Float[Any, "row latent"], steps: int, count: int, config: ModelConfig
) -> Float[Any, "query latent"]:
    """The latents of the first `count` queries of a song of `steps` steps, which starts again when it ends.

    A song is whole cells, so that all songs stand at the same time within their cells.
    """
    rows = layout.song_queries(steps, config).row
    return track[rows[np.arange(count) % len(rows)]]


def mix_latents(
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
