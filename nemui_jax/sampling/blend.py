"""The songs' weights in each block of a mix, and the mixed latents."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from nemui_jax.config import Config
from nemui_jax.data import layout
from nemui_jax.model import latents
from nemui_jax.sampling.decode import LatentTrack

HOLD_SHARE = 0.1  # of each section of a morph, at its beginning and at its end: one song alone


def blend_latents(
    tracks: Sequence[LatentTrack],
    weights: Float[np.ndarray, "song block"],
    config: Config,
    path: str = "line",
    noise: float = 0.0,
    unit: Float[Any, " latent"] | float = 1.0,
    seed: int = 0,
) -> Float[np.ndarray, "block latent"]:
    """The mixed latents, with Gaussian noise of variance `noise` times the square of `unit` on the rows.

    `path` is as in `latents.mix_latents`.
    """
    blocks = weights.shape[1]
    stretches = np.stack([latents.read_track(track.rows, track.steps, blocks, config.model) for track in tracks])
    stretch = latents.mix_latents(stretches, latent_weights(weights), path)
    if noise:
        steps = blocks * config.model.block_steps
        shape = (layout.count_song_rows(steps, config.model), stretch.shape[1])
        rows = np.random.default_rng(seed).normal(size=shape).astype(np.float32) * np.sqrt(noise) * unit
        stretch = stretch + latents.read_track(rows, steps, blocks, config.model)
    return stretch


def is_single(weights: Float[np.ndarray, "song block"]) -> Bool[np.ndarray, " block"]:
    """The blocks in which one song has all the weight."""
    return (weights == 1).any(0) & (np.count_nonzero(weights, 0) == 1)


def shift_per_block(
    tracks: Sequence[LatentTrack], weights: Float[np.ndarray, "song block"], shift: int | None = None
) -> Int[np.ndarray, " block"]:
    """The semitones to the common key in each block: `shift`, or by default the heaviest track's."""
    if shift is not None:
        return np.full(weights.shape[1], shift)
    return np.array([track.shift for track in tracks])[weights.argmax(0)]


def mix_weights(weights: Sequence[float], blocks: int) -> Float[np.ndarray, "song block"]:
    """The same weights in every block."""
    return np.repeat(np.array(weights, float)[:, None], blocks, 1)


def morph_weights(songs: int, blocks: int) -> Float[np.ndarray, "song block"]:
    """Weights that move from the first song to the last, with each song alone for a while (HOLD_SHARE)."""
    place = np.linspace(0, songs - 1, blocks) if blocks > 1 else np.zeros(1)
    section = np.minimum(place.astype(int), songs - 2)  # the index of its first song
    progress = np.clip((place - section - HOLD_SHARE) / (1 - 2 * HOLD_SHARE), 0, 1)
    weights = np.zeros((songs, blocks))
    weights[section, np.arange(blocks)] = 1 - progress
    weights[section + 1, np.arange(blocks)] = progress
    return weights


def latent_weights(weights: Float[np.ndarray, "song block"]) -> Float[np.ndarray, "song block"]:
    """The weights of latents for the songs' weights: square roots, scaled to a sum of 1; negative ones unchanged.

    Near a song notes change little as its latent moves, half-way between songs they change much. The square root makes
    the change in notes more even.
    """
    if (weights < 0).any():
        return weights
    return np.sqrt(weights) / np.sqrt(weights).sum(0)
