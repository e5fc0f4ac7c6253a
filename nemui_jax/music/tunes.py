"""Built-in tunes: works in the public domain or made for this project, notated and rendered as songs.

Each tune is a file scores/NN-name.toml beside this module; to add a tune, add a file. All fields:

    title = "A Waltz"
    composer = "Nobody"                    # none for a traditional tune
    style = "romantic"
    meter = "3/4"
    pickup = "1/4"                         # length of an incomplete first bar, which is bar 0
    tempo = 120                            # quarter notes a minute
    tempo_changes = { 3 = 110, 4 = 92.5 }  # from those bars on
    swing = "2/3"                          # where in its beat an eighth off the beat is played; "1/2" is straight
    pedal = "bar"                          # how often it is pressed anew: "bar", "half" a bar, or "beat"
    program = 0                            # General MIDI; 0 is the piano
    roll = 0.004                           # seconds from one note of a chord to the next, from the bottom
    [phrases]                              # written once, used below by name
    theme = "E5:2 G5:4 | F5:2 D5:4"
    chords = "C3 E3 G3 | B2 D3 G3"
    oompah = "$1:4 <$2 $3> <$2 $3>"
    [voices]                               # of equal length
    melody = "!mf G4:4 | {theme} | {theme+1} |"  # the second time an octave higher
    accompaniment = "!p r:4 | [ {oompah(chords)} | ]x2"  # a bar of the pattern for each bar of chords

`notation` says how a voice is written. A tune for several instruments has `[parts]` in place of `[voices]`, and each
part its own pedal, program, roll and voices. The part named drums is the drum kit, of which `program` is the number:

    [parts.flute]
    program = 73
    volume = 100                           # 0 to 127, as written to the file; without it, the player's default
    pan = 50                               # 0 is left, 64 the middle, 127 right
    voices.solo = "!mf G4:4 | E5:2v G5:4 | F5:4/ D5:2 |"
    [parts.drums]
    voices.hands = "r:4 | [ r stick stick | ]x2"
    voices.feet = "r:4 | [ kick r r | ]x2"

The rendering depends on nothing but the tune. Velocity is the dynamic's, with an accent on the bar's first beat and a
smaller one on its other beats, an arc over every four bars, the top notes of chords brought out, and a little
unevenness. Each chord of a voice is up to 15 ms early or late, by a hash of its position; the voices of a band's part
move together, as one person plays them.
"""

import tomllib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from math import ceil, pi, sin
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nemui_jax.music import midi_writer
from nemui_jax.music.notation import Event, Voice, insert_phrases, parse_voice
from nemui_jax.music.song import (
    CONTROL,
    DRUM_CHANNEL,
    EXPRESSION,
    METER,
    MODULATION,
    NOTE,
    PAN,
    PITCH_BEND,
    SUSTAIN,
    VOLUME,
    Part,
    Song,
    TempoMap,
)

_SCORES = Path(__file__).with_name("scores")
MAX_SHIFT_SECONDS = 0.015  # how far a chord is moved from its place in the score
_CURVE_SECONDS = 0.02  # between two values of a curve
_CHANNELS = [channel for channel in range(16) if channel != DRUM_CHANNEL]
_Time = Callable[[Fraction], float]  # from a place in whole notes to seconds
_Moves = list[tuple[float, int, int]]  # times, controllers and values


class _Curve(NamedTuple):
    """A controller and what it does where a chord has one of its signs."""

    controller: int
    rest: int  # its value where a chord has none
    shapes: Mapping[str, tuple[tuple[float, ...], tuple[int, ...]]]  # by sign: shares of the chord's length; values


_CURVES = (
    _Curve(PITCH_BEND, 0, {"/": ((0, 0.5), (-8192, 0)), "\\": ((0.3, 1), (0, -8192))}),
    _Curve(MODULATION, 0, {"v": ((0.2, 0.6), (0, 80))}),
    _Curve(EXPRESSION, 127, {"<": ((0, 1), (64, 127)), ">": ((0, 1), (127, 64))}),
)


@dataclass(frozen=True)
class TunePart:
    """An instrument of a tune. Its voices have their phrases written out."""

    voices: tuple[str, ...]
    name: str = ""  # "" for the only one
    program: int = 0
    volume: int | None = None
    pan: int | None = None
    pedal: str = ""  # "bar", "half", "beat" or "": how often the sustain pedal changes
    roll: float = 0.004  # seconds from one note of a chord to the next

    @property
    def is_drums(self) -> bool:
        """Whether it is the drum kit."""
        return self.name == "drums"


@dataclass(frozen=True)
class Tune:
    """A piece in the notation above. Lengths and positions are in whole notes."""

    name: str  # as in the file's name
    title: str
    composer: str  # the name in brackets: "" for traditional tunes
    style: str
    meter: tuple[int, int]
    tempo: float
    parts: tuple[TunePart, ...]
    pickup: Fraction = Fraction(0)  # length of an incomplete first bar, 0 for none
    tempos: tuple[tuple[int, float], ...] = ()  # (bar, tempo) from that bar on; the first whole bar is 1
    swing: Fraction = Fraction(1, 2)  # the place in its beat of an eighth off the beat


_PART_FIELDS = {field.name for field in fields(TunePart)} - {"name"}
_SOLO_FIELDS = _PART_FIELDS - {"volume", "pan"}
_FIELDS = {field.name for field in fields(Tune)} - {"name", "tempos", "parts"} | {"tempo_changes", "phrases"}


def read(path: Path) -> Tune:
    """The tune in a file `NN-name.toml`. ValueError names the file and says what is wrong."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        _check_fields(data, _FIELDS | ({"parts"} if "parts" in data else _SOLO_FIELDS), "")
        phrases: dict[str, str] = {}
        for name, text in data.pop("phrases", {}).items():
            phrases[name] = insert_phrases(text, phrases)
        solo = {name: data.pop(name) for name in _SOLO_FIELDS & data.keys()}
        parts = tuple(_read_part(name, part, phrases) for name, part in (data.pop("parts", None) or {"": solo}).items())
        numerator, denominator = (int(number) for number in data.pop("meter").split("/"))
        return Tune(
            name=path.stem.partition("-")[2],
            title=data.pop("title"),
            composer=data.pop("composer", ""),
            style=data.pop("style"),
            meter=(numerator, denominator),
            tempo=float(data.pop("tempo")),
            parts=parts,
            pickup=Fraction(data.pop("pickup", 0)),
            tempos=tuple((int(bar), float(tempo)) for bar, tempo in data.pop("tempo_changes", {}).items()),
            swing=Fraction(data.pop("swing", "1/2")),
        )
    except KeyError as error:
        raise ValueError(f"{path.name}: {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from error


def _read_part(name: str, data: dict[str, Any], phrases: Mapping[str, str]) -> TunePart:
    where = f"part {name}: " if name else ""
    _check_fields(data, _PART_FIELDS, where)
    if "voices" not in data:
        raise ValueError(f"{where}'voices' is missing")
    for field in ("program", "volume", "pan"):
        if not 0 <= data.get(field, 0) <= 127:
            raise ValueError(f"{where}{field} is {data[field]}, expected 0 to 127")
    voices = tuple(insert_phrases(text, phrases) for text in data["voices"].values())
    return TunePart(**data | {"name": name, "voices": voices})


def _check_fields(data: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := data.keys() - known:
        raise ValueError(f"{where}no field {min(unknown)!r}; there are {', '.join(sorted(known))}")


def song(tune: Tune) -> Song:
    """The tune as a song. Its arrays are read-only. ValueError names tune, part, voice and bar."""
    voices = _parse_voices(tune)
    if len(tune.parts) > len(_CHANNELS) + any(part.is_drums for part in tune.parts):
        raise ValueError(f"{tune.name}: more than {len(_CHANNELS)} parts besides drums")
    tempo_map, time = _timing(tune, voices[0][0].length)
    channels = iter(_CHANNELS)
    parts = tuple(
        _render_part(tune, part, parsed, DRUM_CHANNEL if part.is_drums else next(channels), time)
        for part, parsed in zip(tune.parts, voices, strict=True)
    )
    meters = [(0.0, *tune.meter)]
    if tune.pickup:
        meters = [(0.0, *tune.pickup.as_integer_ratio()), (time(tune.pickup), *tune.meter)]
    return Song(
        parts=parts,
        tempo_map=tempo_map,
        meters=_frozen(np.array(meters, METER)),
        name=f"{tune.title} ({tune.composer})" if tune.composer else tune.title,
    )


def write_all(folder: Path) -> list[Path]:
    """Writes every tune to `NN-name.mid` in the folder, which is created if needed; returns the paths in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:02d}-{tune.name}.mid" for number, tune in enumerate(TUNES, 1)]
    for tune, path in zip(TUNES, paths, strict=True):
        midi_writer.write(song(tune), path)
    return paths


def _parse_voices(tune: Tune) -> list[list[Voice]]:
    """The voices of each part, all of one length."""
    parsed, lengths = [], {}
    for part in tune.parts:
        parsed.append([])
        for number, text in enumerate(part.voices, 1):
            where = f"{part.name}, voice {number}" if part.name else f"voice {number}"
            voice = parse_voice(text, tune.meter, tune.pickup, f"{tune.name}, {where}", part.is_drums)
            parsed[-1].append(voice)
            lengths[where] = voice.length
    if len(set(lengths.values())) > 1:
        listed = "; ".join(f"{where}: {length}" for where, length in lengths.items())
        raise ValueError(f"{tune.name}: the voices differ in length, counted in whole notes ({listed})")
    return parsed


def _timing(tune: Tune, length: Fraction) -> tuple[TempoMap, _Time]:
    """The tempo map of a tune of that length, and the seconds at a place in whole notes."""
    whole = Fraction(*tune.meter)
    changes = [(tune.pickup + (bar - 1) * whole, tempo) for bar, tempo in tune.tempos]
    places, tempos = zip((Fraction(0), tune.tempo), *changes, strict=True)
    if list(places) != sorted(set(places)) or places[-1] >= length:
        raise ValueError(f"{tune.name}: tempos must be in order, and within the piece")
    edges = np.array([*places, length + 1], float)
    whole_seconds = 240 / np.array(tempos, float)  # of a whole note
    seconds = np.concatenate([[0.0], np.cumsum(np.diff(edges) * whole_seconds)])

    def time(place: Fraction) -> float:
        return float(np.interp(float(place), edges, seconds))

    return TempoMap.of_changes(4 * edges[:-1], whole_seconds / 4), time


def _render_part(tune: Tune, part: TunePart, voices: Sequence[Voice], channel: int, time: _Time) -> Part:
    players = [part.name or index for index in range(len(voices))]  # who moves together
    events = _merge((event, player) for voice, player in zip(voices, players, strict=True) for event in voice.notes)
    notes = np.array([_play(tune, part, event, player, time) for event, player in events], NOTE)
    notes = notes[np.lexsort((notes["pitch"], notes["onset"]))]
    for pitch in np.unique(notes["pitch"]):
        same = np.flatnonzero(notes["pitch"] == pitch)
        notes["end"][same[:-1]] = np.minimum(notes["end"][same[:-1]], notes["onset"][same[1:]])
    settings = [(0.0, VOLUME, part.volume), (0.0, PAN, part.pan)]
    rows = [row for row in settings if row[2] is not None] + _pedal(tune, part, voices[0].length, time)
    for voice, player in zip(voices, players, strict=True):
        rows += [row for curve in _CURVES for row in _follow(tune, voice, player, curve, time)]
    controls = np.array(rows, CONTROL)
    controls = controls[np.argsort(controls["time"], kind="stable")]
    return Part(_frozen(notes), part.program, channel, part.name, _frozen(controls))


def _merge(events: Iterable[tuple[Event, object]]) -> list[tuple[Event, object]]:
    """Notes of one pitch that start together become one: the longest, as loud as the loudest."""
    found: dict[tuple[Fraction, int], tuple[Event, object]] = {}
    for event, player in events:
        other = found.get((event.start, event.pitch))
        if other is not None:
            level = max(event.level, other[0].level)
            event, player = max((event, player), other, key=lambda one: one[0].length * Fraction(one[0].hold))
            event = event._replace(level=level)
        found[event.start, event.pitch] = event, player
    return list(found.values())


def _beat(tune: Tune) -> Fraction:
    numerator, denominator = tune.meter
    return Fraction(3 if numerator > 3 and numerator % 3 == 0 else 1, denominator)


def _swing(tune: Tune, place: Fraction) -> Fraction:
    """Where in the score a place is played: later than written if it is half a beat after a beat."""
    beat = _beat(tune)
    return place + (tune.swing - Fraction(1, 2)) * beat if (place - tune.pickup) % beat * 2 == beat else place


def _hash(*values: object) -> float:
    """A number in [0, 1) that depends only on the values."""
    return zlib.crc32(repr(values).encode()) / 2**32


def _shift(tune: Tune, player: object, place: Fraction) -> float:
    """How many seconds the chord at a place is played late."""
    about = (tune.name, player, str(place))
    return MAX_SHIFT_SECONDS * (_hash(*about, "early") + _hash(*about, "late") - 1)


def _play(tune: Tune, part: TunePart, event: Event, player: object, time: _Time) -> tuple:
    bars = (event.start - tune.pickup) / Fraction(*tune.meter)
    within = bars % 1 * Fraction(*tune.meter)
    level = event.level + (6 if within == 0 else 2 if within % _beat(tune) == 0 else -2)
    level += 5 * sin(pi * float(bars % 4) / 4) - 2.5 + (2 if event.top else -3)
    level += 5 * _hash(tune.name, player, str(event.start), event.pitch) - 2.5
    shift = _shift(tune, player, event.start) + part.roll * event.rank
    start, end = _swing(tune, event.start), _swing(tune, event.start + event.length)
    onset = max(0.0, time(start) + shift)
    off = time(start + (end - start) * Fraction(event.hold)) + shift
    return onset, max(off, onset + 0.03), event.pitch, min(127, max(1, round(level)))


def _follow(tune: Tune, voice: Voice, player: object, curve: _Curve, time: _Time) -> _Moves:
    """A curve as the signs of a voice's chords shape it; nothing for a voice without such signs."""
    if not any(sign in chord.signs for chord in voice.chords for sign in curve.shapes):
        return []
    starts = [max(0.0, time(_swing(tune, chord.start)) + _shift(tune, player, chord.start)) for chord in voice.chords]
    rows, last = [], curve.rest
    for chord, start, end in zip(voice.chords, starts, [*starts[1:], time(voice.length)], strict=True):
        shape = next((curve.shapes[sign] for sign in chord.signs if sign in curve.shapes), ((0,), (curve.rest,)))
        count = max(1, ceil((end - start) / _CURVE_SECONDS))
        shares = np.arange(count) / count
        for share, value in zip(shares.tolist(), np.rint(np.interp(shares, *shape)).tolist(), strict=True):
            if value != last:
                rows.append((start + share * (end - start), curve.controller, int(value)))
                last = value
    return rows


def _pedal(tune: Tune, part: TunePart, length: Fraction, time: _Time) -> _Moves:
    """The sustain pedal: up as a new harmony begins, down just after it."""
    if not part.pedal:
        return []
    whole = Fraction(*tune.meter)
    every = {"bar": whole, "half": whole / 2, "beat": _beat(tune)}[part.pedal]
    rows, place = [], tune.pickup
    while place < length:
        if rows:
            rows.append((time(place) + 0.01, SUSTAIN, 0))
        rows.append((time(place) + 0.07, SUSTAIN, 127))
        place += every
    return [*rows, (time(length), SUSTAIN, 0)]


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


TUNES: tuple[Tune, ...] = tuple(read(path) for path in sorted(_SCORES.glob("*.toml")))
