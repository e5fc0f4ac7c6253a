"""New songs: a few of the learned songs, drawn by seed, mixed with bars that are drawn too."""

from collections.abc import Callable

import numpy as np

from nemui_jax.music.song import Song
from nemui_jax.sampling.mix import AnalyzedSong, count_bars, mix

SONGS_PER_DRAW = 3  # songs that a new song is made of
TEMPERATURE = 1.0


def draw(
    songs: int,
    analyzed: Callable[[int], AnalyzedSong],
    seed: int,
    seconds: float,
    shift: int | None = None,
    program: int | None = None,
) -> tuple[Song, list[int]]:
    """A new song and the indices of the songs that it is made of, out of so many songs."""
    chosen = np.random.default_rng(seed).permutation(songs)[:SONGS_PER_DRAW].tolist()
    sources = [analyzed(index) for index in chosen]
    song = mix(
        sources,
        lambda bars: np.full((len(chosen), bars), 1 / len(chosen)),
        bars=count_bars(sources, seconds),
        shift=shift,
        program=program,
        temperature=TEMPERATURE,
        seed=seed,
    )
    return song, chosen
