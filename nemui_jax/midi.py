"""Songs as events in seconds, read from and written to Standard MIDI Files.

Conventions: times are seconds from the start of the song as float64; pitches are MIDI numbers
0 to 127; arrays of events are NumPy structured arrays, sorted by time.
"""

from dataclasses import dataclass, field

import numpy as np

NOTE = np.dtype(
    [("onset", "f8"), ("end", "f8"), ("pitch", "u1"), ("velocity", "u1"), ("channel", "u1"), ("program", "u1")]
)
PEDAL = np.dtype([("time", "f8"), ("value", "u1")])  # sustain pedal, controller 64, 0 to 127
TEMPO = np.dtype([("time", "f8"), ("quarter_seconds", "f8")])
METER = np.dtype([("time", "f8"), ("numerator", "u1"), ("denominator", "u2")])


class MidiError(ValueError):
    """A file that holds no usable song; the message says what is wrong and what to do."""


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
