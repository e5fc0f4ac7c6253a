"""Songs as events in seconds.

Conventions: times are seconds from the start of the song as float64; pitches are MIDI numbers
0 to 127; arrays of events are NumPy structured arrays, sorted by time.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

NOTE = np.dtype(
    [("onset", "f8"), ("end", "f8"), ("pitch", "u1"), ("velocity", "u1"), ("channel", "u1"), ("program", "u1")]
)
PEDAL = np.dtype([("time", "f8"), ("value", "u1")])  # sustain pedal, controller 64, 0 to 127
TEMPO = np.dtype([("time", "f8"), ("quarter_seconds", "f8")])
METER = np.dtype([("time", "f8"), ("numerator", "u1"), ("denominator", "u2")])
MAX_SECONDS = 4 * 3600.0
MIN_NOTE_SECONDS = 0.001
DRUM_CHANNEL = 9  # channel 10 as musicians count
DEFAULT_TEMPO = 500_000  # microseconds per quarter note: 120 bpm
FASTEST_TEMPO = 20_000  # 3,000 bpm


@dataclass(frozen=True)
class Song:
    """What is kept of one file. Arrays are sorted by time (notes by onset, then pitch)."""

    notes: np.ndarray  # NOTE; drums (channel 10) are left out
    pedal: np.ndarray = field(default_factory=lambda: np.empty(0, PEDAL))
    tempos: np.ndarray = field(default_factory=lambda: np.empty(0, TEMPO))
    meters: np.ndarray = field(default_factory=lambda: np.empty(0, METER))
    name: str = ""
    drums: int = 0  # drum notes left out
    warnings: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """End of the last note, in seconds; 0.0 for a song without notes."""
        return float(self.notes["end"].max()) if len(self.notes) else 0.0

    @property
    def program(self) -> int:
        """The program (0 to 127) that most notes use; 0 for a song without notes."""
        return int(np.bincount(self.notes["program"]).argmax()) if len(self.notes) else 0


def cut_song(song: Song, seconds: float) -> Song:
    """The first seconds of a song."""
    parts = {name: getattr(song, name) for name in ("pedal", "tempos", "meters")}
    kept = {name: part[part["time"] < seconds] for name, part in parts.items()}
    return replace(song, notes=cut_notes(song.notes, seconds), **kept)


def cut_notes(notes: np.ndarray, seconds: float) -> np.ndarray:
    """The notes that begin in the first seconds, none sounding longer."""
    kept = notes[notes["onset"] < seconds]
    kept["end"] = np.minimum(kept["end"], seconds)
    return kept


class TickClock(NamedTuple):
    """Ticks and seconds of one file: from ticks[i] on, a tick lasts tick_seconds[i]."""

    ticks: np.ndarray
    seconds: np.ndarray
    tick_seconds: np.ndarray

    def seconds_at(self, ticks: np.ndarray) -> np.ndarray:
        stretch = np.searchsorted(self.ticks, ticks, side="right") - 1
        return self.seconds[stretch] + (ticks - self.ticks[stretch]) * self.tick_seconds[stretch]

    def ticks_at(self, seconds: np.ndarray) -> np.ndarray:
        stretch = np.maximum(np.searchsorted(self.seconds, seconds, side="right") - 1, 0)
        passed = (np.maximum(seconds, 0.0) - self.seconds[stretch]) / self.tick_seconds[stretch]
        return self.ticks[stretch] + np.rint(passed).astype(np.int64)


def changes(rows: list[tuple]) -> list[tuple]:
    """Rows (tick, value, ...) in order: the last of each tick, without those that change nothing."""
    kept: list[tuple] = []
    for row in sorted(rows, key=lambda row: row[0]):
        if kept and kept[-1][0] == row[0]:
            kept.pop()
        if not kept or kept[-1][1:] != row[1:]:
            kept.append(row)
    return kept


def make_tick_clock(tempos: list[tuple[int, int]], division: int) -> TickClock:
    """The clock of tempos (tick, microseconds per quarter), the first at 0, and ticks per quarter."""
    ticks, micros = np.array(changes(tempos), np.int64).T
    tick_seconds = micros * 1e-6 / division
    seconds = np.concatenate([[0.0], np.cumsum(np.diff(ticks) * tick_seconds[:-1])])
    return TickClock(ticks, seconds, tick_seconds)
