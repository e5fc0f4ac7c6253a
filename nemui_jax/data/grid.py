"""Songs on the grid of their clock: the parts, their notes and curves, and the bars.

A GridSong is what sampling works on. `grid_song` makes it from a file's song; the decoder makes an equal one from
learned rows. Pitches are in the common key, except those of drums, which are never transposed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

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
    doubled: np.ndarray = field(default_factory=partial(np.empty, 0, pianoroll.GRID))
    """GRID: second notes on the step and pitch of one of `notes`, as where two voices of a score meet. They are played
    back, and not heard otherwise."""

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

    @property
    def layers(self) -> tuple[GridPart, ...]:
        """What rows are learned for: the parts, without doubled notes, and then these as parts without curves."""
        doubled = [replace(part, notes=part.doubled, curves={}) for part in self.parts if len(part.doubled)]
        return tuple(replace(layer, doubled=layer.doubled[:0]) for layer in (*self.parts, *doubled))


def with_layers(song: GridSong, layers: Sequence[GridPart]) -> GridSong:
    """The song with other layers, each in the place of one of its own."""
    doubled = iter(layers[len(song.parts) :])
    parts = tuple(
        replace(new, doubled=next(doubled).notes) if len(part.doubled) else new
        for part, new in zip(song.parts, layers, strict=False)
    )
    return replace(song, parts=parts)


def grid_song(song: Song, clock: Clock, shift: int, name: str = "", with_doubled: bool = True) -> GridSong:
    """A file's song on the grid, as far as the grid can hold it; its doubled notes may be left out."""
    clocked = on_clock(song, clock)
    beats = clocked.beats
    steps = pianoroll.count_steps(song.seconds, beats)
    parts = tuple(_grid_part(part, steps, beats, shift) for part in song.parts if len(part.notes))
    if not with_doubled:
        parts = tuple(replace(part, doubled=part.doubled[:0]) for part in parts)
    bars = np.round(bar_lines(clocked, clock.kind, steps / STEPS_PER_BEAT) * STEPS_PER_BEAT).astype(np.int64)
    return GridSong(name or song.name, parts, steps, shift, beats, clocked.beats_per_quarter, bars, clocked.song)


def _grid_part(part: Part, steps: int, clock: TempoMap, shift: int) -> GridPart:
    notes, doubled = pianoroll.quantize_doubled(part.notes, clock, 0 if part.is_drums else shift)
    if part.is_drums:
        notes["end"], doubled["end"] = notes["step"] + 1, doubled["step"] + 1
    return GridPart(notes, part, sample_curves(part, steps, clock), doubled)
