"""Every song's clock: the times of the beats that its grid divides into steps.

A clock is a TempoMap whose beats last between 0.36 and 0.72 s on average, so that a grid of STEPS_PER_BEAT steps a beat
has steps of 30 to 60 ms. Where quarter notes are slower than that a beat is half a quarter note, where they are faster
two of them.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from nemui_jax.music.song import Song, TempoMap

STEPS_PER_BEAT = 12  # triplets and sixteenths fall on steps
SLOWEST_BEAT_SECONDS = 0.72  # a beat that lasts this long or longer is halved
STEADY_BEAT_SECONDS = 0.6  # of a song whose beats are not known: steps of 50 ms
OFF_BEAT_STEPS = 0.2  # mean distance of onsets from the nearest step; for onsets at random it is 0.25
COARSE_STEP_SECONDS = 0.12  # a grid is too coarse where more than one note in twenty falls on a longer step


class Clock(NamedTuple):
    """Which clock a song has; `clock_of` gives the times of its beats."""

    kind: str  # "file": the file's tempo map; "steady": beats of equal length, unrelated to those of the music
    beats_per_quarter: float  # beats for each quarter note of the file's tempo map


def steady_clock() -> TempoMap:
    """The clock of a song whose beats are not known."""
    return TempoMap.steady(STEADY_BEAT_SECONDS)


def choose_clock(song: Song, grid: str = "auto") -> Clock:
    """The clock of a song: its file's tempo map if `grid` is "beats", a steady one if it is "seconds".

    If it is "auto": the file's where the notes follow it, else the steady one.
    """
    beats_per_quarter = _beats_per_quarter(song)
    trusted = grid == "beats" or (grid == "auto" and _follows(song.notes, song.tempo_map.counted(beats_per_quarter)))
    return Clock("file" if trusted else "steady", beats_per_quarter)


def clock_of(song: Song, clock: Clock) -> TempoMap:
    """The times of the beats of a song under this clock."""
    return song.tempo_map.counted(clock.beats_per_quarter) if clock.kind == "file" else steady_clock()


def off_beat_steps(notes: np.ndarray, clock: TempoMap) -> float:
    """The mean distance of onsets from the nearest step, in steps.

    0 for a score, about 0.25 for a performance recorded without regard to the file's tempo.
    """
    if not len(notes):
        return 0.0
    place: Float[np.ndarray, " note"] = clock.beats_at(notes["onset"]) * STEPS_PER_BEAT
    return float(np.abs(place - np.round(place)).mean())


def _follows(notes: np.ndarray, clock: TempoMap) -> bool:
    """Whether notes lie on the steps of a clock, and its steps are short enough."""
    if not len(notes):
        return False
    place = np.maximum(np.searchsorted(clock.seconds, notes["onset"], side="right") - 1, 0)
    coarse = clock.beat_seconds[place] / STEPS_PER_BEAT > COARSE_STEP_SECONDS
    return bool(off_beat_steps(notes, clock) <= OFF_BEAT_STEPS and coarse.mean() <= 0.05)


def _beats_per_quarter(song: Song) -> float:
    """Beats for each quarter note: the power of two that gives beats of the right length."""
    quarters = float(song.tempo_map.beats_at(song.seconds))
    if quarters <= 0:
        return 1.0
    return 2.0 ** (1 + math.floor(math.log2(song.seconds / quarters / SLOWEST_BEAT_SECONDS)))


def bar_lines(song: Song, clock: Clock, until: float) -> Float[np.ndarray, " bar"]:
    """The beats of this clock on which bars begin, from 0 to before `until`; on a steady clock every fourth beat.

    A bar is as long as the meter in force says, 4/4 where the file has none. A change of meter begins a bar.
    """
    if clock.kind == "steady":
        return np.arange(0.0, until, 4.0)
    starts = np.maximum(song.tempo_map.beats_at(song.meters["time"]), 0) * clock.beats_per_quarter
    lengths = 4 * clock.beats_per_quarter * song.meters["numerator"] / np.maximum(song.meters["denominator"], 1)
    if not len(starts) or starts[0] > 0:
        starts, lengths = np.append(0.0, starts), np.append(4 * clock.beats_per_quarter, lengths)
    ends = np.append(starts[1:], until)
    found = [np.arange(*span) for span in zip(starts, np.minimum(ends, until) - 1e-6, lengths, strict=True)]
    return np.concatenate(found)
