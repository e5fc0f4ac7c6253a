"""The units of a mix in time, and where each song is in its own course."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.sampling.analysis import WITHIN_UNIT, AnalyzedSong

PHRASE_BEATS = 16  # about, for which a song is taken to keep a thought
SECTION_PHRASES = 4  # for which a voice stays with a song


class Timeline(NamedTuple):
    """The units of a mix: those of the song that gives its bars."""

    units: Int[np.ndarray, " unit_and_end"]  # first steps, and the end
    section: Int[np.ndarray, " unit"]  # number of the section
    source: Int[np.ndarray, "song unit"]  # the step of each song, were it played in its own order


def places_of_songs(weights: Float[np.ndarray, "song bar"]) -> Float[np.ndarray, " song"]:
    """Where in a mix each song is at home, from 0 to 1: at its beginning, unless its weight is larger later on.

    A morph begins with the beginning of its first song and closes with the end of its last one.
    """
    last = weights.shape[1] - 1
    at = []
    for row in weights:
        peak = np.flatnonzero(row >= row.max() - 1e-9)
        at.append(0.0 if peak[0] == 0 else 1.0 if peak[-1] == last else float(peak.mean() / last))
    return np.array(at)


def make_timeline(
    songs: Sequence[AnalyzedSong], reference: int, count: int, at: Float[np.ndarray, " song"]
) -> Timeline:
    """So many units of the reference song. A song at home at 0 begins there, one at 1 ends at the end.

    Each goes on without a break, whatever its own bars are, and starts again where it ends. What is before the first
    whole bar of the mix may be before the beginning of a song, at a negative step.
    """
    song = songs[reference]
    order = _in_order(song, count, float(at[reference]))
    lengths = np.append(np.diff(song.units), song.unit_steps)[order]
    units = np.concatenate([[0], np.cumsum(lengths)])
    upbeats = song.upbeats if order[0] == 0 and count > song.upbeats else 0
    length = 2 ** max(round(np.log2(PHRASE_BEATS * STEPS_PER_BEAT / song.unit_steps)), 0)
    section = np.maximum(np.arange(count) - upbeats, 0) // (length * SECTION_PHRASES)
    source = [
        song.units[order] if other is song else _steps_in_order(other, units, upbeats, float(home))
        for other, home in zip(songs, at, strict=True)
    ]
    rest = [other.song.steps - steps[-1] for other, steps, home in zip(songs, source, at, strict=True) if home == 1]
    units[-1] = units[-2] + max(units[-1] - units[-2], *rest, 0)  # the end of a last bar is not cut off
    return Timeline(units, section, np.stack(source))


def _in_order(song: AnalyzedSong, count: int, at: float) -> Int[np.ndarray, " unit"]:
    """So many units of a song, which goes on with its first whole one where it ends."""
    units = np.arange(count) + round(at * (len(song.units) - count))
    inside = (units >= 0) & (units < len(song.units))
    return np.where(inside, units, song.upbeats + (units - song.upbeats) % (len(song.units) - song.upbeats))


def _steps_in_order(
    song: AnalyzedSong, units: Int[np.ndarray, " unit_and_end"], upbeats: int, at: float
) -> Int[np.ndarray, " unit"]:
    """The steps of a song from which it plays in each unit of a mix, one of its bars on one of the mix's."""
    count = len(units) - 1
    first, bars = song.units[song.upbeats], song.units[song.upbeats :][song.phase[song.upbeats :] != WITHIN_UNIT]
    unit = upbeats + round(at * (count - 1 - upbeats))
    steps = bars[round(at * (len(bars) - 1))] + units[:-1] - units[unit]
    length = song.unit_steps * max(-(-(song.song.steps - first) // song.unit_steps), 1)
    return steps - (steps - first + units[upbeats]) // length * length
