"""Songs on the grid to songs in seconds."""

from dataclasses import replace

import numpy as np

from nemui_jax.data import curves, pianoroll
from nemui_jax.data.grid import GridPart, GridSong
from nemui_jax.music.key import nearest_octave
from nemui_jax.music.song import Part, Song, TempoMap, one_instrument


def to_song(song: GridSong, shift: int | None = None, program: int | None = None) -> Song:
    """A song on the grid as a song in seconds, with the tempo, meter and words of its source.

    `shift` sets the key, as semitones to the common key in any octave; by default it is the song's own. With a
    `program` all parts but drums are merged into one with this program, and drums are left out.
    """
    shift = song.shift if shift is None else nearest_octave(shift, song.shift)
    parts = tuple(_to_part(part, song, shift) for part in song.parts)
    played = replace(song.source, parts=parts, warnings=(), name=song.source.name or song.name)
    return played if program is None else one_instrument(played, program)


def _to_part(part: GridPart, song: GridSong, shift: int) -> Part:
    return replace(
        part.source,
        notes=pianoroll.to_notes(np.concatenate([part.notes, part.doubled]), song.clock, 0 if part.is_drums else shift),
        controls=part_controls(part, song.clock),
    )


def part_controls(part: GridPart, clock: TempoMap) -> np.ndarray:
    """CONTROL: the settings of a part, as they are in its file, and its curves, sorted by time."""
    controls = np.concatenate([curves.settings(part.source), curves.to_controls(part.curves, clock)])
    return controls[np.argsort(controls["time"], kind="stable")]
