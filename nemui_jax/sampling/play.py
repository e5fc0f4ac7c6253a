"""Learned songs to songs that can be heard."""

from nemui_jax.config import Config
from nemui_jax.model.decoder import Decoder, DecoderClass, Params
from nemui_jax.music.song import Song
from nemui_jax.sampling.arrange import to_song
from nemui_jax.sampling.decode import LatentSong, decode_song


def play_back(
    params: Params,
    song: LatentSong,
    config: Config,
    *,
    shift: int | None = None,
    program: int | None = None,
    decoder: DecoderClass = Decoder,
) -> Song:
    """A learned song, played back; `shift` and `program` are as in `arrange.to_song`."""
    return to_song(decode_song(params, song, config, decoder), shift, program)
