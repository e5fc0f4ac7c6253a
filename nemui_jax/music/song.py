"""Songs: parts, each with its notes and controls, over one tempo map.

Conventions: times are seconds from the start of the song as float64; pitches are MIDI numbers
0 to 127; arrays of events are NumPy structured arrays, sorted by time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

NOTE = np.dtype([("onset", "f8"), ("end", "f8"), ("pitch", "u1"), ("velocity", "u1")])
SONG_NOTE = np.dtype([*NOTE.descr, ("channel", "u1"), ("program", "u1")])  # a note, and the part it is from
CONTROL = np.dtype([("time", "f8"), ("controller", "u1"), ("value", "i2")])
PEDAL = np.dtype([("time", "f8"), ("value", "u1")])  # sustain pedal of a whole song, 0 to 127
METER = np.dtype([("time", "f8"), ("numerator", "u1"), ("denominator", "u2")])
KEY_SIGNATURE = np.dtype([("time", "f8"), ("sharps", "i1"), ("minor", "?")])  # flats are negative
BEAT = np.dtype([("time", "f8"), ("downbeat", "?")])

TEMPO_CHANGE = np.dtype([("beat", "f8"), ("seconds", "f8"), ("beat_seconds", "f8")])
ARRAYS = {  # the arrays of a stored song, beside its JSON
    "notes": NOTE,
    "controls": CONTROL,
    "tempo_map": TEMPO_CHANGE,
    "meters": METER,
    "key_signatures": KEY_SIGNATURE,
    "beats": BEAT,
}

MAX_SECONDS = 4 * 3600.0
MIN_NOTE_SECONDS = 0.001
DEFAULT_QUARTER_SECONDS = 0.5  # 120 bpm, the tempo of a file that gives none
DRUM_CHANNEL = 9  # channel 10 where channels are counted from 1
MODULATION, VOLUME, PAN, EXPRESSION, SUSTAIN, SOSTENUTO, SOFT_PEDAL = 1, 7, 10, 11, 64, 66, 67
# Controllers have their MIDI numbers, and three more numbers stand for:
PITCH_BEND, PRESSURE = 128, 129  # values -8192 to 8191; 0 to 127
PROGRAM_CHANGE = 130  # to the part's program, before the first note on its channel; the value is that program
FIRST_VALUES = {  # of the controllers that are heard, on a channel before any event
    **{MODULATION: 0, VOLUME: 100, PAN: 64, EXPRESSION: 127},
    **{SUSTAIN: 0, SOSTENUTO: 0, SOFT_PEDAL: 0, PITCH_BEND: 0, PRESSURE: 0},
}


class TempoMap(NamedTuple):
    """The times of beats: beat `beat[i]` falls at `seconds[i]`, and from there on a beat lasts `beat_seconds[i]`.

    The only place that converts beats to seconds and back. The first tempo also holds before the first change, the
    last one after the last change.
    """

    beat: Float[np.ndarray, " change"]
    seconds: Float[np.ndarray, " change"]
    beat_seconds: Float[np.ndarray, " change"]

    @staticmethod
    def steady(beat_seconds: float = DEFAULT_QUARTER_SECONDS) -> "TempoMap":
        """Beats of equal length from 0 s on."""
        return TempoMap(np.zeros(1), np.zeros(1), np.array([beat_seconds], float))

    @staticmethod
    def of_changes(beat: Any, beat_seconds: Any) -> "TempoMap":
        """Beats that last `beat_seconds[i]` from `beat[i]` on; `beat[0]` is 0 and falls at 0 s."""
        beat, beat_seconds = np.asarray(beat, float), np.asarray(beat_seconds, float)
        seconds = np.concatenate([[0.0], np.cumsum(np.diff(beat) * beat_seconds[:-1])])
        return TempoMap(beat, seconds, beat_seconds)

    @staticmethod
    def through(beat: Any, seconds: Any) -> "TempoMap":
        """The map on which `beat[i]` falls at `seconds[i]`, both increasing; repeated tempos are left out."""
        beat, seconds = np.asarray(beat, float), np.asarray(seconds, float)
        lengths = np.diff(seconds) / np.diff(beat)
        kept = np.concatenate([[True], np.abs(np.diff(np.log(lengths))) > 1e-6])
        return TempoMap(beat[:-1][kept], seconds[:-1][kept], lengths[kept])

    def seconds_at(self, beats: Any) -> Any:
        """The times of beats (a number or an array, with fractions), in seconds."""
        place = np.maximum(np.searchsorted(self.beat, beats, side="right") - 1, 0)
        return self.seconds[place] + (beats - self.beat[place]) * self.beat_seconds[place]

    def beats_at(self, seconds: Any) -> Any:
        """The beats, with fractions, at these times in seconds."""
        place = np.maximum(np.searchsorted(self.seconds, seconds, side="right") - 1, 0)
        return self.beat[place] + (seconds - self.seconds[place]) / self.beat_seconds[place]

    def counted(self, factor: float) -> "TempoMap":
        """The same times, counted in beats that are `factor` times as short."""
        return TempoMap(self.beat * factor, self.seconds, self.beat_seconds / factor)


class Text(NamedTuple):
    """Words in a song: a lyric, a marker, or plain text."""

    time: float
    kind: str  # "lyrics", "marker", "cue_marker" or "text"
    text: str


@dataclass(frozen=True)
class Part:
    """One instrument: the notes and controls on one channel with one program. Pitches of a drum part are drums."""

    notes: np.ndarray  # NOTE, sorted by onset, then pitch
    program: int = 0
    channel: int = 0
    name: str = ""
    controls: np.ndarray = field(default_factory=lambda: np.empty(0, CONTROL))

    @property
    def is_drums(self) -> bool:
        """Whether it is on the drum channel."""
        return self.channel == DRUM_CHANNEL


@dataclass(frozen=True)
class Song:
    """A song, as far as it is kept from its file."""

    parts: tuple[Part, ...]
    tempo_map: TempoMap = field(default_factory=TempoMap.steady)  # its beats are quarter notes
    meters: np.ndarray = field(default_factory=lambda: np.empty(0, METER))
    key_signatures: np.ndarray = field(default_factory=lambda: np.empty(0, KEY_SIGNATURE))
    texts: tuple[Text, ...] = ()
    name: str = ""
    warnings: tuple[str, ...] = ()
    beats: np.ndarray = field(default_factory=lambda: np.empty(0, BEAT))  # tracked where notes ignore the tempo map

    @cached_property
    def notes(self) -> np.ndarray:
        """SONG_NOTE: the notes of all parts except drums, sorted by onset, then pitch."""
        return merge_notes(part for part in self.parts if not part.is_drums)

    @property
    def drums(self) -> int:
        """The number of drum notes."""
        return sum(len(part.notes) for part in self.parts if part.is_drums)

    @cached_property
    def pedal(self) -> np.ndarray:
        """PEDAL: the highest sustain value of all parts except drums, at each change."""
        return _highest([part for part in self.parts if not part.is_drums], SUSTAIN)

    @cached_property
    def seconds(self) -> float:
        """End of the last note, or onset of the last drum hit, in seconds; 0.0 for a song without notes."""
        ends = (part.notes["onset" if part.is_drums else "end"] for part in self.parts)
        return float(max((times.max() for times in ends if len(times)), default=0.0))

    @property
    def program(self) -> int:
        """The program (0 to 127) with the most notes, drums aside; 0 for a song without notes."""
        return int(np.bincount(self.notes["program"]).argmax()) if len(self.notes) else 0


def merge_notes(parts: Iterable[Part]) -> np.ndarray:
    """SONG_NOTE: the notes of parts, sorted by onset, then pitch, channel and end."""
    merged = [np.empty(0, SONG_NOTE)]
    for part in parts:
        notes = np.empty(len(part.notes), SONG_NOTE)
        for name in NOTE.names or ():
            notes[name] = part.notes[name]
        notes["channel"], notes["program"] = part.channel, part.program
        merged.append(notes)
    notes = np.concatenate(merged)
    return notes[np.lexsort((notes["end"], notes["channel"], notes["pitch"], notes["onset"]))]


def as_notes(notes: np.ndarray) -> np.ndarray:
    """SONG_NOTE as NOTE, sorted by onset, then pitch and end."""
    found = np.empty(len(notes), NOTE)
    for name in NOTE.names or ():
        found[name] = notes[name]
    return found[np.lexsort((found["end"], found["pitch"], found["onset"]))]


def control_events(time: np.ndarray, controller: int, value: np.ndarray) -> np.ndarray:
    """CONTROL: the events of one controller."""
    controls = np.empty(len(time), CONTROL)
    controls["time"], controls["controller"], controls["value"] = time, controller, value
    return controls


def pedal_controls(pedal: np.ndarray) -> np.ndarray:
    """PEDAL as CONTROL."""
    return control_events(pedal["time"], SUSTAIN, pedal["value"])


def one_instrument(song: Song, program: int) -> Song:
    """The song with all parts but drums as one of this program, and the sustain pedal down where any part has it."""
    part = Part(as_notes(song.notes), program, controls=pedal_controls(song.pedal))
    return replace(song, parts=(part,))


def _highest(parts: Sequence[Part], controller: int) -> np.ndarray:
    """PEDAL: the highest value of a controller over all parts, at each change."""
    moves = [part.controls[part.controls["controller"] == controller] for part in parts]
    time = np.concatenate([np.empty(0), *(move["time"] for move in moves)])
    owner = np.repeat(np.arange(len(moves)), [len(move) for move in moves])
    value = np.concatenate([np.empty(0, np.int16), *(move["value"] for move in moves)])
    order = np.argsort(time, kind="stable")
    time, owner, value = time[order], owner[order], value[order]
    highest = np.zeros(len(time), np.int64)
    for index in range(len(moves)):
        from_part = owner == index
        highest = np.maximum(highest, np.append(0, value[from_part])[np.cumsum(from_part)])
    # Of controls at one time the last counts; those that change nothing are left out.
    last = np.append(np.diff(time) > 0, True)[: len(time)]
    time, highest = time[last], highest[last]
    changed = np.diff(highest, prepend=0) != 0
    pedal = np.empty(int(changed.sum()), PEDAL)
    pedal["time"], pedal["value"] = time[changed], highest[changed]
    return pedal


def cut_song(song: Song, seconds: float) -> Song:
    """The first `seconds` of a song."""
    parts = tuple(
        replace(part, notes=cut_notes(part.notes, seconds), controls=part.controls[part.controls["time"] < seconds])
        for part in song.parts
    )
    return replace(
        song,
        parts=parts,
        meters=song.meters[song.meters["time"] < seconds],
        key_signatures=song.key_signatures[song.key_signatures["time"] < seconds],
        texts=tuple(text for text in song.texts if text.time < seconds),
    )


def cut_notes(notes: np.ndarray, seconds: float) -> np.ndarray:
    """The notes that begin in the first `seconds`, none ending later than that."""
    kept = notes[notes["onset"] < seconds]
    kept["end"] = np.minimum(kept["end"], seconds)
    return kept


def retime(song: Song, before: TempoMap, after: TempoMap) -> Song:
    """The song with every event on the same beat, where `before` has the beats' old times and `after` the new ones."""

    def moved(events: np.ndarray, *names: str) -> np.ndarray:
        events = events.copy()
        for name in names:
            events[name] = after.seconds_at(before.beats_at(events[name]))
        return events

    parts = tuple(
        replace(part, notes=moved(part.notes, "onset", "end"), controls=moved(part.controls, "time"))
        for part in song.parts
    )
    # The new tempo map changes wherever one of the three maps does.
    knots = np.concatenate([before.beats_at(song.tempo_map.seconds), before.beat, after.beat])
    knots = np.unique(np.maximum(knots, before.beats_at(0.0)))
    knots = knots[np.diff(knots, prepend=-np.inf) > 1e-6]  # else rounding makes tempos of what lies between two
    knots = np.append(knots, knots[-1] + 1)
    return replace(
        song,
        parts=parts,
        tempo_map=TempoMap.through(song.tempo_map.beats_at(before.seconds_at(knots)), after.seconds_at(knots)),
        meters=moved(song.meters, "time"),
        key_signatures=moved(song.key_signatures, "time"),
        beats=moved(song.beats, "time"),
        texts=tuple(
            text._replace(time=float(after.seconds_at(before.beats_at(np.asarray(text.time))))) for text in song.texts
        ),
    )


# Songs as JSON and plain arrays, for storage


def to_arrays(song: Song) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A song as data for JSON and the arrays named in ARRAYS; `from_arrays` is the inverse."""
    about = {
        "name": song.name,
        "warnings": list(song.warnings),
        "texts": [list(text) for text in song.texts],
        "parts": [[part.program, part.channel, part.name, len(part.notes), len(part.controls)] for part in song.parts],
    }
    tempo_map = np.empty(len(song.tempo_map.beat), TEMPO_CHANGE)
    for name, column in song.tempo_map._asdict().items():
        tempo_map[name] = column
    arrays = {
        "notes": np.concatenate([np.empty(0, NOTE), *(part.notes for part in song.parts)]),
        "controls": np.concatenate([np.empty(0, CONTROL), *(part.controls for part in song.parts)]),
        "tempo_map": tempo_map,
        "meters": song.meters,
        "key_signatures": song.key_signatures,
        "beats": song.beats,
    }
    return about, arrays


def from_arrays(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> Song:
    """The song that `to_arrays` was given. Raises KeyError, TypeError or ValueError for other data."""
    parts, note, control = [], 0, 0
    for program, channel, name, notes, controls in about["parts"]:
        part_notes = arrays["notes"][note : note + notes]
        part_controls = arrays["controls"][control : control + controls]
        parts.append(Part(part_notes, int(program), int(channel), name, part_controls))
        note, control = note + notes, control + controls
    if (note, control) != (len(arrays["notes"]), len(arrays["controls"])):
        raise ValueError("the parts' lengths do not add up to those of the arrays")
    return Song(
        parts=tuple(parts),
        tempo_map=TempoMap(*(arrays["tempo_map"][name] for name in TempoMap._fields)),
        meters=arrays["meters"],
        key_signatures=arrays["key_signatures"],
        texts=tuple(Text(float(time), kind, text) for time, kind, text in about["texts"]),
        name=about["name"],
        warnings=tuple(about["warnings"]),
        beats=arrays["beats"],
    )
