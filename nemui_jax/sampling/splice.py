"""The notes and curves of bars of a song in a new order."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from nemui_jax.data.curves import rest
from nemui_jax.data.grid import GridPart
from nemui_jax.sampling.analysis import AnalyzedSong
from nemui_jax.sampling.chain import Chain
from nemui_jax.sampling.lines import Role
from nemui_jax.sampling.passages import goes_on, merged, moved, unbroken


class Run(NamedTuple):
    """Steps of the new song that are consecutive steps of the other."""

    start: int
    end: int
    source: int  # first step of the song
    shift: int


def runs(
    song: AnalyzedSong, chain: Chain, heard: Bool[np.ndarray, " bar"], units: Int[np.ndarray, " bar_and_end"]
) -> Iterator[Run]:
    """The bars that are `heard`, those in one that follow each other as in the song. `units` are their first steps."""
    source = song.units[chain.place]
    for first, last in unbroken(heard, goes_on(source, chain.shift, units)):
        yield Run(int(units[first]), int(units[last]), int(source[first]), int(chain.shift[first]))


def spliced_notes(notes: np.ndarray, found: list[Run], transposed: bool = True) -> np.ndarray:
    """GRID: the notes that begin in these runs, on the steps of the new song; none sounds beyond the end of its run."""
    return merged(
        [moved(notes, run.source, run.start, run.end - run.start, run.shift if transposed else 0) for run in found]
    )


def spliced_parts(
    song: AnalyzedSong, voices: Bool[np.ndarray, " voice"], found: list[Run], steps: int
) -> dict[int, GridPart]:
    """The parts of a song, by their index in it, that have some of these voices, with what they play in these runs."""
    parts = {}
    for index, part in enumerate(song.song.parts):
        used = [voice for voice, wanted in zip(song.voices, voices, strict=True) if wanted and voice.part == index]
        notes = [spliced_notes(voice.notes, found, voice.role is not Role.DRUMS) for voice in used]
        if not sum(map(len, notes)):
            continue
        curves = {name: np.full(steps, rest(name), np.float32) for name in part.curves}
        for name, curve in curves.items():
            for run in found:
                taken = part.curves[name][run.source : run.source + run.end - run.start]
                curve[run.start : run.start + len(taken)] = taken
        parts[index] = GridPart(merged(notes), part.source, curves)
    return parts
