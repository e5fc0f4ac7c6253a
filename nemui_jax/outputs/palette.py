"""The colours that all pictures share, without matplotlib."""

from collections.abc import Iterable

import numpy as np

from nemui_jax.music.song import Song

CARD, PANEL, INK, MUTED, LINE = "#1c2128", "#13171d", "#e6edf3", "#9aa4af", "#373e47"
FIRST, SECOND = "#56b4e9", "#f5a623"  # sky blue and orange, distinct with any colour vision
OTHER = "#8b93a1"  # instruments beyond the last of INSTRUMENTS
INSTRUMENTS = (  # none like FIRST or SECOND, which mark differences
    *("#6c8cff", "#5fd38d", "#ff7ab6", "#f3e36b", "#3fd6cf", "#ff6f61", "#b98cff", "#c4dd5a"),
    *("#d9a074", "#e3b5ff", "#1fa187", "#d8576b", "#8fa0d6", "#b5a24a", "#eef1f5", "#8f62b5"),
)
DRUMS = "#c3cad5"
MATCHED = "#c8c8c8"  # notes on both sides, of a single instrument


def instrument_colours(songs: Iterable[Song]) -> dict[int, str]:
    """The colour of each program that the songs use, drums aside; those with most notes come first."""
    count = np.zeros(128, int)
    for song in songs:
        count += np.bincount(song.notes["program"], minlength=128)
    order = np.argsort(-count, kind="stable")[: np.count_nonzero(count)].tolist()
    return {program: INSTRUMENTS[rank] if rank < len(INSTRUMENTS) else OTHER for rank, program in enumerate(order)}
