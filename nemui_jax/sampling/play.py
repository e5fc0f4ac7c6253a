"""Latent tracks to a song: blend, decode, select, arrange."""

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
    decoded_songs: Sequence[DecodedSong] | None = None,
    decoder: DecoderClass = Decoder,
) -> Song:
    """A mix of latent tracks, weighted block by block; a track that ends early starts again.

    The song has as many blocks as `weights`, which sum to 1 in each block. `shift` sets its key, as semitones to the
    common key (by default the heaviest track's in each block), `program` its MIDI program (by default the heaviest
    track's), `path` the interpolation (see `latents.mix_latents`). Gaussian noise with `noise` times the variance of
    the table is added to the rows; `unit` is the table's standard deviation. With a `temperature` above 0 onsets are
    drawn at random, at the same density, instead of taking the likeliest. `decoded_songs` are the results of
    `select.decode_song` for each track and as many blocks, if they are there already.
    """
    blocks = weights.shape[1]
    stretch = blend_latents(tracks, weights, config, path, noise, unit, seed)
    decoded = decode_latents(params, stretch, layout.block_times(blocks, config.model), config, decoder)
    alone = is_single(weights) & (noise == 0) & (temperature == 0)
    if config.train.loss == "squared" or alone.all():
        grid, pedal = select_by_threshold(decoded, config)
    else:
        decoded_songs = (
            [decode_song(params, track, blocks, config, decoder) for track in tracks]
            if decoded_songs is None
            else decoded_songs
        )
        grid, pedal = select_by_density(decoded, decoded_songs, weights, alone, config, temperature, seed)
    return arrange_song(tracks, weights, grid, pedal, config, shift, program)
