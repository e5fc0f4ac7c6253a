"""Latents: interpolating between rows. Arrays may be NumPy's or JAX's."""

from typing import Any

import numpy as np
from jaxtyping import Float

PATHS = ("line", "norm", "sphere")  # kinds of interpolation


def mix_latents(
    stretches: Float[Any, "song query latent"], weights: Float[Any, "song query"], path: str = "line"
) -> Float[Any, "query latent"]:
    """Interpolates between songs' latents, query by query, with weights that sum to 1.

    `line` is linear. `norm` is linear, then scaled to the weighted mean of the songs' norms, because the linear sum of
    unlike latents is closer to the origin than they are. `sphere` interpolates the direction on the great circle
    between two songs (Shoemake, 1985) and the norm linearly. ValueError for another path, or for `sphere` with other
    than two songs.
    """
    mixed = (weights[..., None] * stretches).sum(0)
    if path == "line":
        return mixed
    norms = (stretches**2).sum(-1) ** 0.5 + 1e-9
    norm = (weights * norms).sum(0)
    if path == "sphere":
        if len(stretches) != 2:
            raise ValueError(f"path 'sphere' is between two songs, and there are {len(stretches)}")
        first, second = stretches / norms[..., None]
        angle = np.arccos(np.clip((first * second).sum(-1), -1 + 1e-6, 1 - 1e-6))
        share = np.sin(weights * angle) / np.sin(angle)
        return norm[:, None] * (share[0][:, None] * first + share[1][:, None] * second)
    if path != "norm":
        raise ValueError(f"no path {path!r}; there are {', '.join(PATHS)}")
    return mixed * (norm / ((mixed**2).sum(-1) ** 0.5 + 1e-9))[:, None]


def spread(table: Float[Any, "row latent"]) -> Float[Any, " latent"]:
    """The standard deviation of each latent dimension over the table: the unit of noise."""
    return table.std(0)
