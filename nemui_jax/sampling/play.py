"""Tracks to a song: blend, decode, select, arrange."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from nemui_jax.config import Config
from nemui_jax.data import layout
from nemui_jax.model.decoder import Decoder, DecoderClass, Params
from nemui_jax.music.song import Song
from nemui_jax.sampling.arrange import arrange_song
from nemui_jax.sampling.blend import blend_latents, is_single
from nemui_jax.sampling.decode import LatentTrack, decode_latents
from nemui_jax.sampling.select import DecodedSong, decode_song, select_by_density, select_by_threshold


def play_back(
    params: Params, track: LatentTrack, config: Config, program: int | None = None, decoder: DecoderClass = Decoder
) -> Song:
    """A learned song, played back."""
    blocks = layout.count_blocks(track.steps, config.model)
    return play(params, [track], np.ones((1, blocks)), config, program=program, decoder=decoder)


def play(
    params: Params,
    tracks: Sequence[LatentTrack],
    weights: Float[np.ndarray, "song block"],
    config: Config,
    *,
    shift: int | None = None,
    program: int | None = None,
    path: str = "line",
    noise: float = 0.0,
    unit: Float[Any, " latent"] | float = 1.0,
    temperature: float = 0.0,
    seed: int = 0,
    voices: Sequence[DecodedSong] | None = None,
    decoder: DecoderClass = Decoder,
) -> Song:
    """Tracks played together, weighted block by block; a track that ends early starts again.

    The song lasts as many blocks as there are weights, which sum to 1 in each. `shift` is the key it comes out in
    (semitones to the common key; by default the heaviest track's at each moment) and `program` its program (by default
    the heaviest's); `path` is the way between latents (`latents.mix`). Gaussian noise is added to the rows, with
    `noise` times the variance of the table, whose spread is `unit`: likeness to the song falls evenly with it.
    With a `temperature` onsets are drawn, at the same density, in place of taking the likeliest. `voices` are what
    `voice` gives for each track and as many blocks, where they are kept from another time.
    """
    blocks = weights.shape[1]
    stretch = blend_latents(tracks, weights, config, path, noise, unit, seed)
    decoded = decode_latents(params, stretch, layout.block_times(blocks, config.model), config, decoder)
    alone = is_single(weights) & (noise == 0) & (temperature == 0)
    if config.train.loss == "squared" or alone.all():
        grid, pedal = select_by_threshold(decoded, config)
    else:
        voices = [decode_song(params, track, blocks, config, decoder) for track in tracks] if voices is None else voices
        grid, pedal = select_by_density(decoded, voices, weights, alone, config, temperature, seed)
    return arrange_song(tracks, weights, grid, pedal, config, shift, program)
