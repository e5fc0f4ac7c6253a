"""Mixes as in the original NeMuI: one row a song, interpolated, and notes where probabilities exceed 0.5.

This is the baseline that mixes are compared with, and how runs of `--preset original` are mixed.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from nemui_jax.config import Config
from nemui_jax.data import layout
from nemui_jax.data.grid import GridPart, GridSong
from nemui_jax.model.decoder import Decoder, DecoderClass, Params
from nemui_jax.model.latents import mix_latents
from nemui_jax.sampling.decode import LatentSong, decode_heads, read_notes


def interpolate(
    params: Params,
    songs: Sequence[LatentSong],
    weights: Float[np.ndarray, "song block"],
    config: Config,
    *,
    noise: float = 0.0,
    unit: Float[Any, " latent"] | float = 1.0,
    seed: int = 0,
    decoder: DecoderClass = Decoder,
) -> GridSong:
    """A mix of songs of one row each, weighted block by block, as long as `weights`; ValueError for more rows.

    It has the clock and the key of the heaviest song. Gaussian noise with `noise` times
    the variance `unit` squared is added to the row.
    """
    if any(len(song.rows) != 1 for song in songs):
        raise ValueError("only songs of one row are interpolated")
    blocks, heaviest = weights.shape[1], songs[int(weights.sum(1).argmax())].grid
    rows = np.stack([np.repeat(song.rows, blocks, 0) for song in songs])
    latent = mix_latents(rows, weights)
    if noise:
        latent = latent + np.sqrt(noise) * unit * np.random.default_rng(seed).normal(size=latent.shape[1])
    heads = decode_heads(params, latent.astype(np.float32), layout.block_times(blocks), config, decoder)
    steps = blocks * config.model.block_steps
    part = heaviest.parts[0]
    notes = read_notes(heads, np.arange(steps), part, config)
    return replace(heaviest, parts=(GridPart(notes, part.source),), steps=steps)
