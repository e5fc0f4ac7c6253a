"""Every song's clock: the times of the beats that its grid divides into steps.

A clock is a TempoMap whose beats last between 0.36 and 0.72 s on average, so that a grid of STEPS_PER_BEAT steps a beat
has steps of 30 to 60 ms. Where quarter notes are slower than that a beat is half a quarter note, where they are faster
two of them; single beats that are far slower than the song's others are halved. The quarter notes are those of the
file's tempo map where the notes follow it, else beats tracked from the notes; where none can be told, the clock is
steady.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from nemui_jax.music.beats import track_beats
from nemui_jax.music.song import BEAT, METER, Song, TempoMap

STEPS_PER_BEAT = 12  # triplets and sixteenths fall on steps
SLOWEST_BEAT_SECONDS = 0.72  # a beat that lasts this long or longer is halved
LONGEST_TRACKED_SECONDS = 0.8  # longer tracked beats are halved one by one: ends of notes need short steps
STEADY_BEAT_SECONDS = 0.6  # of a song whose beats are not known: steps of 50 ms
OFF_BEAT_STEPS = 0.2  # mean distance of onsets from the nearest step; for onsets at random it is 0.25
COARSE_STEP_SECONDS = 0.12  # where more notes than these fall on longer steps, beats with such steps are halved
MOST_COARSE_NOTES = 0.05
# Of tracked beats, below which they are not used. On 24 annotated performances that the network was not trained on,
# confidences were 0.58 and more; onsets at random times have 0.45 to 0.58 where there are 10 to 20 a second, 0.5 to 0.7
# where there are fewer.
LEAST_CONFIDENCE = 0.57
LEAST_BEATS = 24  # of fewer the confidence says nothing
LONGEST_BAR = 12  # tracked beats


class Clock(NamedTuple):
    """Which clock a song has; `on_clock` gives the times of its beats."""

    kind: str  # "file": the file's tempo map; "tracked": the song's `beats`; "steady": beats of equal length
    beats_per_quarter: float  # of the file's tempo map; on a tracked clock, beats for each tracked beat on average


class ClockedSong(NamedTuple):
    """A song under its clock."""

    song: Song  # whose quarter notes are its tracked beats if those are its clock
    beats: TempoMap  # the times of the beats that the grid divides
    beats_per_quarter: float  # a power of two; on a tracked clock some quarters have more, on a steady one it is 1


def steady_clock() -> TempoMap:
    """The clock of a song whose beats are not known."""
    return TempoMap.steady(STEADY_BEAT_SECONDS)


def with_beats(song: Song) -> Song:
    """The song with `beats` tracked from its notes, if these do not follow its tempo map and beats can be told."""
    if len(song.beats) or follows(song.notes, song.tempo_map.counted(_beats_per_quarter(song))):
        return song
    found = track_beats(song.notes, song.pedal)
    inside = found.times >= 0
    if found.confidence < LEAST_CONFIDENCE or inside.sum() < LEAST_BEATS:
        return song
    beats = np.empty(int(inside.sum()), BEAT)
    beats["time"], beats["downbeat"] = found.times[inside], found.downbeats[inside]
    return replace(song, beats=beats)


def choose_clock(song: Song, grid: str = "auto") -> Clock:
    """The clock of a song: its file's tempo map if `grid` is "beats", a steady one if it is "seconds".

    If it is "auto": the tracked beats of a song that has them, else the file's tempo map where the notes follow it,
    else a steady clock.
    """
    if grid == "auto" and len(song.beats):
        tracked = on_clock(song, Clock("tracked", 1.0))
        quarters = tracked.song.tempo_map.beats_at(song.seconds)
        return Clock("tracked", float(tracked.beats.beats_at(song.seconds) / quarters))
    beats_per_quarter = _beats_per_quarter(song)
    of_file = song.tempo_map.counted(beats_per_quarter)
    trusted = grid == "beats" or (grid == "auto" and len(song.notes) > 0 and follows(song.notes, of_file))
    return Clock("file" if trusted else "steady", beats_per_quarter)


def on_clock(song: Song, clock: Clock) -> ClockedSong:
    """The song under this clock.

    On a tracked clock its meters are the tracked bars, if downbeats were told. Any other song stays as it is.
    """
    if clock.kind == "steady":
        return ClockedSong(song, steady_clock(), 1.0)
    if clock.kind == "file":
        beats = song.tempo_map.counted(clock.beats_per_quarter)
        if _is_coarse(song.notes, beats):
            quarters = math.ceil(float(song.tempo_map.beats_at(song.seconds))) + 1
            beats = _halved(song.tempo_map, quarters, clock.beats_per_quarter, STEPS_PER_BEAT * COARSE_STEP_SECONDS)
        return ClockedSong(song, beats, clock.beats_per_quarter)
    quarters, meters = _tracked_quarters(song)
    count = math.ceil(quarters.beat[-1]) + 1
    beats_per_quarter = _divide(float(quarters.seconds_at(count)) / count)
    beats = _halved(quarters, count, beats_per_quarter, LONGEST_TRACKED_SECONDS)
    return ClockedSong(replace(song, tempo_map=quarters, meters=meters), beats, beats_per_quarter)


def _halved(quarters: TempoMap, count: int, beats_per_quarter: float, longest_seconds: float) -> TempoMap:
    """The beats of so many quarter notes, those that are longer than `longest_seconds` halved one by one."""
    edges = quarters.seconds_at(np.arange(math.ceil(count * beats_per_quarter) + 1) / beats_per_quarter)
    counts = 2.0 ** np.maximum(np.ceil(np.log2(np.diff(edges) / longest_seconds)), 0)
    return TempoMap.through(np.concatenate([[0.0], np.cumsum(counts)]), edges)


def _tracked_quarters(song: Song) -> tuple[TempoMap, np.ndarray]:
    """The tracked beats of a song as quarter notes, and METER: its bars, if downbeats were told, else its meters."""
    times, downbeats = song.beats["time"], song.beats["downbeat"]
    # A file begins on a beat, so beats are added from 0 s on; a first beat soon after 0 s is put there.
    added = round(times[0] / (times[1] - times[0]))
    before = np.linspace(0, times[0], added + 1)[:-1] if added else np.zeros(1)
    times = np.concatenate([before, times[0 if added else 1 :]])
    downbeats = np.concatenate([np.zeros(added, bool), downbeats])
    quarters = TempoMap.through(np.arange(len(times)), times)
    return quarters, _meters(downbeats, quarters) if downbeats.any() else song.meters


def _meters(downbeats: Bool[np.ndarray, " beat"], tempo_map: TempoMap) -> np.ndarray:
    """METER: bars that begin on these beats, and bars of the usual length where none is for twice as long or more."""
    starts = np.flatnonzero(downbeats)
    usual = min(int(np.median(np.diff(starts))), LONGEST_BAR) if len(starts) > 1 else 4
    lengths: list[int] = []
    for gap in np.diff(starts, prepend=0).tolist():
        bars = max(gap // usual, 1)
        lengths += [gap - usual * (bars - 1)] + [usual] * (bars - 1)
    lengths = [*(length for length in lengths if length), usual]
    changed = np.flatnonzero(np.diff(lengths, prepend=0))
    meters = np.empty(len(changed), METER)
    meters["time"] = tempo_map.seconds_at(np.concatenate([[0], np.cumsum(lengths)])[changed])
    meters["numerator"], meters["denominator"] = np.array(lengths)[changed], 4
    return meters


def off_beat_steps(notes: np.ndarray, clock: TempoMap) -> float:
    """The mean distance of onsets from the nearest step, or from the nearest middle of two where that is less.

    In steps: 0 for a score, about 0.25 for a performance recorded without regard to the file's tempo.
    """
    if not len(notes):
        return 0.0
    place: Float[np.ndarray, " note"] = clock.beats_at(notes["onset"]) * STEPS_PER_BEAT
    off = float(np.abs(place - np.round(place)).mean())
    return min(off, 0.5 - off)


def follows(notes: np.ndarray, clock: TempoMap) -> bool:
    """Whether notes lie on the steps of a clock."""
    return off_beat_steps(notes, clock) <= OFF_BEAT_STEPS


def _is_coarse(notes: np.ndarray, clock: TempoMap) -> bool:
    """Whether the steps of a clock are too long for the notes that fall on them."""
    place = np.maximum(np.searchsorted(clock.seconds, notes["onset"], side="right") - 1, 0)
    coarse = clock.beat_seconds[place] / STEPS_PER_BEAT > COARSE_STEP_SECONDS
    return len(notes) > 0 and float(coarse.mean()) > MOST_COARSE_NOTES


def _beats_per_quarter(song: Song) -> float:
    """Beats for each quarter note of a song's tempo map."""
    quarters = float(song.tempo_map.beats_at(song.seconds))
    return _divide(song.seconds / quarters) if quarters > 0 else 1.0


def _divide(quarter_seconds: float) -> float:
    """Beats for each quarter note of this length: the power of two that gives beats of the right length."""
    return 2.0 ** (1 + math.floor(math.log2(quarter_seconds / SLOWEST_BEAT_SECONDS)))


def bar_lines(clocked: ClockedSong, kind: str, until: float) -> Float[np.ndarray, " bar"]:
    """The beats on which bars begin, from 0 to before `until`; on a steady clock (its `kind`) every fourth beat.

    A bar is as long as the meter in force says, 4/4 where the song has none. A change of meter begins a bar.
    """
    if kind == "steady":
        return np.arange(0.0, until, 4.0)
    meters, quarters, beats = clocked.song.meters, clocked.song.tempo_map, clocked.beats
    starts = np.maximum(quarters.beats_at(meters["time"]), 0)
    lengths = 4 * meters["numerator"] / np.maximum(meters["denominator"], 1)
    if not len(starts) or starts[0] > 0:
        starts, lengths = np.append(0.0, starts), np.append(4, lengths)
    end = quarters.beats_at(beats.seconds_at(until))
    ends = np.minimum(np.append(starts[1:], end), end)
    found = [np.arange(*span) for span in zip(starts, ends - 1e-6, lengths, strict=True)]
    return beats.beats_at(quarters.seconds_at(np.concatenate(found)))
