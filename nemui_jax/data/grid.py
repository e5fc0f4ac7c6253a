"""Songs on the grid of their clock: the parts, their notes and curves, and the bars.

A GridSong is what sampling works on. `grid_song` makes it from a file's song; the decoder makes an equal one from
learned rows. Pitches are in the common key, except those of drums, which are never transposed.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Int

from nemui_jax.data import pianoroll
from nemui_jax.data.curves import Curves, sample_curves
from nemui_jax.music.clock import STEPS_PER_BEAT, Clock, bar_lines, on_clock
from nemui_jax.music.song import Part, Song, TempoMap


@dataclass(frozen=True)
class GridPart:
    """A part on the grid."""

    notes: np.ndarray  # GRID, sorted by step and pitch, in the common key; a drum hit lasts one step
    source: Part  # of which program, channel, name and settings are used, not the notes
    curves: Curves = field(default_factory=dict)  # by name; see `curves`

    @cached_property
    def velocities(self) -> tuple[int, int]:
        """The lowest and the highest velocity of its source: what is learned of a note is where it is between them."""
        velocity = self.source.notes["velocity"]
        return (int(velocity.min()), int(velocity.max())) if len(velocity) else (64, 64)

    @cached_property
    def timings(self) -> tuple[float, float]:
        """How early, below 0, and how late its notes come at most, in steps; both are 0 for a score."""
        timing = self.notes["timing"]
        return (float(timing.min()), float(timing.max())) if len(timing) else (0.0, 0.0)

    @property
    def is_drums(self) -> bool:
        """Whether its pitches are drums."""
        return self.source.is_drums


@dataclass(frozen=True)
class GridSong:
    """A song on the grid of its clock."""

    name: str
    parts: tuple[GridPart, ...]
    steps: int
    shift: int  # semitones from its key to the common key
    clock: TempoMap  # its beats have STEPS_PER_BEAT steps each
    beats_per_quarter: float  # of the clock; see `clock.ClockedSong`
    bars: Int[np.ndarray, " bar"]  # the first step of each bar, ascending from 0 or before, up to the end
    source: Song  # of which meters, key signatures and texts are used, not the notes


def grid_song(song: Song, clock: Clock, shift: int, name: str = "") -> GridSong:
    """A file's song on the grid, as far as the grid can hold it."""
    clocked = on_clock(song, clock)
    beats = clocked.beats
    steps = pianoroll.count_steps(song.seconds, beats)
    parts = tuple(_grid_part(part, steps, beats, shift) for part in song.parts if len(part.notes))
    bars = np.round(bar_lines(clocked, clock.kind, steps / STEPS_PER_BEAT) * STEPS_PER_BEAT).astype(np.int64)
    return GridSong(name or song.name, parts, steps, shift, beats, clocked.beats_per_quarter, bars, clocked.song)


def _grid_part(part: Part, steps: int, clock: TempoMap, shift: int) -> GridPart:
    notes = pianoroll.quantize(part.notes, clock, 0 if part.is_drums else shift)
    if part.is_drums:
        notes["end"] = notes["step"] + 1
    return GridPart(notes, part, sample_curves(part, steps, clock))
