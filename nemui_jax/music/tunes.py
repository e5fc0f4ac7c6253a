"""Built-in tunes: works in the public domain, notated for this project and rendered as songs.

Each tune is a file scores/NN-name.toml beside this module; to add a tune, add a file. All fields:

    title = "A Waltz"
    composer = "Nobody"                    # none for a traditional tune
    style = "romantic"
    meter = "3/4"
    pickup = "1/4"                         # length of an incomplete first bar, which is bar 0
    tempo = 120                            # quarter notes a minute
    tempo_changes = { 3 = 110, 4 = 92.5 }  # from those bars on
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

A voice is made of tokens between spaces:

    !mf %80 C4:8 D4 <E4 G4>:2 r:4 | [ C4:12 E4 G4 ]x4 | !< F#4:2~ F#4:8 Bb3 A3:4' | !f C4:1^ |

- `C4:8` is middle C, an eighth long; a duration holds until the next one. `4.` is dotted, `4..` twice dotted,
  `12` the eighth of a triplet (a twelfth of a whole note). `r` rests, `<C4 E4>` is a chord, `#` and `b` alter.
- After the duration `~` ties to the same pitches in the next chord, `'` is staccato, `^` accents.
- `!p` (ppp to fff) is a dynamic; `!<` and `!>` are hairpins, from the dynamic in force to the next one.
- `%80` lets notes sound for 80 % of their length from here on (95 at the start).
- `[ ... ]xN` repeats what is inside, bar lines included, and may be nested.
- `|` ends a bar, whose length is verified.

The rendering depends on nothing but the tune. Velocity is the dynamic's, with an accent on the bar's first beat and a
smaller one on its other beats, an arc over every four bars, the top notes of chords brought out, and a little
unevenness. Each chord of a voice is up to 15 ms early or late, by a hash of its position.
"""

import re
import tomllib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from math import pi, sin
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nemui_jax.music import midi_writer
from nemui_jax.music.song import METER, NOTE, PEDAL, Part, Song, TempoMap, pedal_controls

_SCORES = Path(__file__).with_name("scores")
MAX_SHIFT_SECONDS = 0.015  # how far a chord is moved from its place in the score
_LEVELS = {"ppp": 24, "pp": 34, "p": 45, "mp": 56, "mf": 67, "f": 81, "ff": 96, "fff": 110}
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ACCENT = 14  # what `^` adds to the velocity
_STACCATO = 0.45
_PITCH = r"[A-G][#b]?\d"
_PHRASE = re.compile(r"\{(\w+)(?:\((\w+)\)|([+-]\d))?\}")
_TOKEN = re.compile(
    rf"(?P<bar>\|)|!(?P<mark>[pmf]+|<|>)|%(?P<hold>\d+)|(?P<open>\[)|\]x(?P<times>\d+)"
    rf"|(?P<chord>r|{_PITCH}|<{_PITCH}(?: {_PITCH})*>)(?::(?P<denominator>\d+)(?P<dots>\.*))?(?P<signs>[~'^]*)"
)


@dataclass(frozen=True)
class Tune:
    """A piece in the notation above, with its phrases written out. Lengths and positions are in whole notes."""

    name: str  # as in the file's name
    title: str
    composer: str  # the name in brackets: "" for traditional tunes
    style: str
    meter: tuple[int, int]
    tempo: float
    voices: tuple[str, ...]
    pedal: str = ""  # "bar", "half", "beat" or "": how often the sustain pedal changes
    program: int = 0
    pickup: Fraction = Fraction(0)  # length of an incomplete first bar, 0 for none
    tempos: tuple[tuple[int, float], ...] = ()  # (bar, tempo) from that bar on; the first whole bar is 1
    roll: float = 0.004  # seconds from one note of a chord to the next


_FIELDS = {field.name for field in fields(Tune)} - {"name", "tempos"} | {"tempo_changes", "phrases"}


class _Event(NamedTuple):
    """A note of a voice, in whole notes from the start."""

    start: Fraction
    length: Fraction
    pitch: int
    level: float  # velocity before the expression
    hold: float
    rank: int  # place in its chord, from the bottom
    top: bool
    voice: int


def read(path: Path) -> Tune:
    """The tune in a file `NN-name.toml`. ValueError names the file and says what is wrong."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        phrases: dict[str, str] = {}
        for name, text in data.pop("phrases", {}).items():
            phrases[name] = _insert_phrases(text, phrases)
        if unknown := data.keys() - _FIELDS:
            raise ValueError(f"no field {min(unknown)!r}; there are {', '.join(sorted(_FIELDS))}")
        voices = tuple(_insert_phrases(text, phrases) for text in data.pop("voices").values())
        numerator, denominator = (int(number) for number in data.pop("meter").split("/"))
        return Tune(
            name=path.stem.partition("-")[2],
            title=data.pop("title"),
            composer=data.pop("composer", ""),
            style=data.pop("style"),
            meter=(numerator, denominator),
            tempo=float(data.pop("tempo")),
            voices=voices,
            pickup=Fraction(data.pop("pickup", 0)),
            tempos=tuple((int(bar), float(tempo)) for bar, tempo in data.pop("tempo_changes", {}).items()),
            **data,
        )
    except KeyError as error:
        raise ValueError(f"{path.name}: {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from error


def _insert_phrases(text: str, phrases: Mapping[str, str]) -> str:
    """The text with every `{phrase}` written out."""

    def written_out(found: re.Match) -> str:
        name, bars, octaves = found.groups()
        missing = [repr(used) for used in (name, bars) if used and used not in phrases]
        if missing:
            raise ValueError(f"no phrase {missing[0]} above {found[0]}")
        if bars:
            return _fill_pattern(phrases[name], phrases[bars])
        return _transpose(phrases[name], int(octaves or 0))

    return _PHRASE.sub(written_out, text)


def _fill_pattern(pattern: str, bars: str) -> str:
    """One bar after the other: a bar's marks, then the pattern with $1, $2 ... replaced by its pitches."""
    lines = []
    for bar in bars.split("|"):
        marks = [word for word in bar.split() if word[0] in "!%"]
        pitches = [word for word in bar.split() if word[0] not in "!%"]
        if int(max(re.findall(r"\$(\d)", pattern), default="0")) > len(pitches):
            raise ValueError(f"too few pitches in the bar {bar.strip()!r} for the pattern {pattern!r}")
        lines.append(" ".join([*marks, re.sub(r"\$(\d)", lambda found, of=pitches: of[int(found[1]) - 1], pattern)]))
    return " | ".join(lines)


def _transpose(text: str, octaves: int) -> str:
    """The text, that many octaves higher."""
    return re.sub(r"([A-G][#b]?)(\d)", lambda found: f"{found[1]}{int(found[2]) + octaves}", text)


def parse_voice(tune: Tune, voice: int) -> tuple[list[_Event], Fraction]:
    """The notes of one voice (counted from 0), and its length. ValueError names tune, voice and bar."""
    start, bar_start, length, hold = Fraction(0), Fraction(0), Fraction(1, 4), 0.95
    bar = 0 if tune.pickup else 1
    notes: list[_Event] = []
    tied: dict[int, int] = {}  # pitch to index in notes
    marks: list[tuple[Fraction, int, str]] = []  # place, bar, mark

    def fail(reason: str, at: int | None = None) -> ValueError:
        return ValueError(f"{tune.name}, voice {voice + 1}, bar {bar if at is None else at}: {reason}")

    def check_bar() -> None:
        whole = Fraction(*tune.meter) if bar else tune.pickup
        if start - bar_start != whole:
            raise fail(f"lasts {start - bar_start} of a whole note, expected {whole}")

    for token in _expand(_tokens(tune.voices[voice], fail), fail):
        if token["bar"]:
            check_bar()
            bar, bar_start = bar + 1, start
        elif token["mark"]:
            if token["mark"] not in (*_LEVELS, "<", ">"):
                raise fail(f"no dynamic !{token['mark']}")
            marks.append((start, bar, token["mark"]))
        elif token["hold"]:
            hold = int(token["hold"]) / 100
        else:
            if token["denominator"]:
                length = _duration(token, fail)
            tied = _add_chord(notes, tied, token, _Event(start, length, 0, 0, hold, 0, False, voice), fail)
            start += length
    if tied:
        raise fail("a tie leads to no note of its pitch")
    if start != bar_start:
        check_bar()
    levels = _dynamics(marks, fail)
    return [note._replace(level=note.level + levels(note.start)) for note in notes], start


def _duration(token: re.Match, fail: Callable[..., ValueError]) -> Fraction:
    if not int(token["denominator"]):
        raise fail("no duration 0")
    return Fraction(1, int(token["denominator"])) * (2 - Fraction(1, 2 ** len(token["dots"])))


def _add_chord(
    notes: list[_Event], tied: dict[int, int], token: re.Match, blank: _Event, fail: Callable[..., ValueError]
) -> dict[int, int]:
    """Adds a chord's notes to `notes`, or lengthens those tied to it; returns the tied notes' indices by pitch."""
    pitches = sorted(_pitch(name) for name in re.findall(_PITCH, token["chord"]))
    if tied and not tied.keys() & set(pitches):
        raise fail("a tie leads to no note of its pitch")
    accent = _ACCENT if "^" in token["signs"] else 0
    hold = _STACCATO if "'" in token["signs"] else blank.hold
    held = {}
    for rank, pitch in enumerate(pitches):
        index = tied.get(pitch)
        if index is None:
            index = len(notes)
            top = pitch == pitches[-1]
            notes.append(blank._replace(pitch=pitch, level=accent, hold=hold, rank=rank, top=top))
        else:
            notes[index] = notes[index]._replace(length=blank.start + blank.length - notes[index].start)
        if "~" in token["signs"]:
            held[pitch] = index
    return held


def _pitch(name: str) -> int:
    return 12 * (int(name[-1]) + 1) + _STEPS[name[0]] + name.count("#") - name.count("b")


def _tokens(text: str, fail: Callable[..., ValueError]) -> Iterator[re.Match]:
    for match in re.finditer(r"<[^>\s][^>]*>\S*|\S+", text):
        token = _TOKEN.fullmatch(match[0])
        if token is None:
            raise fail(f"cannot read {match[0]!r}")
        yield token


def _expand(tokens: Iterable[re.Match], fail: Callable[..., ValueError]) -> list[re.Match]:
    """The tokens with the repeats written out."""
    stack: list[list[re.Match]] = [[]]
    for token in tokens:
        if token["open"]:
            stack.append([])
        elif token["times"]:
            if len(stack) == 1:
                raise fail("] without [")
            inner = stack.pop()
            stack[-1] += inner * int(token["times"])
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise fail("[ without ]")
    return stack[0]


def _dynamics(marks: list[tuple[Fraction, int, str]], fail: Callable[..., ValueError]) -> Callable[[Fraction], float]:
    """The level at a position, from dynamics and hairpins; mf before the first."""
    points: list[tuple[float, float]] = [(0.0, _LEVELS["mf"])]
    opened = ""
    bar = 0
    for place, bar, mark in marks:
        if mark in _LEVELS:
            goal = _LEVELS[mark]
            step = goal - points[-1][1]
            if (opened == "<" and step <= 0) or (opened == ">" and step >= 0):
                raise fail(f"the hairpin !{opened} leads to !{mark}", bar)
            if not opened:
                points.append((float(place), points[-1][1]))
            points.append((float(place), goal))
            opened = ""
        elif opened:
            raise fail("a hairpin within a hairpin", bar)
        else:
            points.append((float(place), points[-1][1]))
            opened = mark
    if opened:
        raise fail(f"the hairpin !{opened} leads to no dynamic", bar)
    places, levels = zip(*points, strict=True)
    return lambda place: float(np.interp(float(place) + 1e-9, places, levels))


def song(tune: Tune) -> Song:
    """The tune as a song. Its arrays are read-only."""
    parsed = [parse_voice(tune, voice) for voice in range(len(tune.voices))]
    lengths = [length for _, length in parsed]
    if len(set(lengths)) != 1:
        raise ValueError(f"{tune.name}: the voices last {', '.join(map(str, lengths))} whole notes")
    whole = Fraction(*tune.meter)
    changes = [(tune.pickup + (bar - 1) * whole, tempo) for bar, tempo in tune.tempos]
    places, tempos = zip((Fraction(0), tune.tempo), *changes, strict=True)
    if list(places) != sorted(set(places)) or places[-1] >= lengths[0]:
        raise ValueError(f"{tune.name}: tempos must be in order, and within the piece")
    edges = np.array([*places, lengths[0] + 1], float)
    whole_seconds = 240 / np.array(tempos, float)  # of a whole note
    seconds = np.concatenate([[0.0], np.cumsum(np.diff(edges) * whole_seconds)])

    def time(place: Fraction) -> float:
        return float(np.interp(float(place), edges, seconds))

    notes = np.array(
        [_play(tune, event, time) for event in _merge(event for events, _ in parsed for event in events)], NOTE
    )
    notes = notes[np.lexsort((notes["pitch"], notes["onset"]))]
    for pitch in np.unique(notes["pitch"]):
        same = np.flatnonzero(notes["pitch"] == pitch)
        notes["end"][same[:-1]] = np.minimum(notes["end"][same[:-1]], notes["onset"][same[1:]])
    meters = [(0.0, *tune.meter)]
    if tune.pickup:
        meters = [(0.0, *tune.pickup.as_integer_ratio()), (time(tune.pickup), *tune.meter)]
    pedal = pedal_controls(np.array(_pedal(tune, lengths[0], time), PEDAL))
    return Song(
        parts=(Part(_frozen(notes), tune.program, controls=_frozen(pedal)),),
        tempo_map=TempoMap.of_changes(4 * edges[:-1], whole_seconds / 4),
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


def _merge(events: Iterable[_Event]) -> list[_Event]:
    """Notes of one pitch that start together become one: the longest, as loud as the loudest."""
    found: dict[tuple[Fraction, int], _Event] = {}
    for event in events:
        other = found.get((event.start, event.pitch))
        if other is not None:
            event = max(event, other, key=lambda one: one.length * Fraction(one.hold))
            event = event._replace(level=max(event.level, other.level))
        found[event.start, event.pitch] = event
    return list(found.values())


def _beat(tune: Tune) -> Fraction:
    numerator, denominator = tune.meter
    return Fraction(3 if numerator > 3 and numerator % 3 == 0 else 1, denominator)


def _hash(*values: object) -> float:
    """A number in [0, 1) that depends only on the values."""
    return zlib.crc32(repr(values).encode()) / 2**32


def _play(tune: Tune, event: _Event, time: Callable[[Fraction], float]) -> tuple:
    bars = (event.start - tune.pickup) / Fraction(*tune.meter)
    within = bars % 1 * Fraction(*tune.meter)
    level = event.level + (6 if within == 0 else 2 if within % _beat(tune) == 0 else -2)
    level += 5 * sin(pi * float(bars % 4) / 4) - 2.5 + (2 if event.top else -3)
    place = (tune.name, event.voice, str(event.start))
    level += 5 * _hash(*place, event.pitch) - 2.5
    shift = MAX_SHIFT_SECONDS * (_hash(*place, "early") + _hash(*place, "late") - 1) + tune.roll * event.rank
    onset = max(0.0, time(event.start) + shift)
    end = time(event.start + event.length * Fraction(event.hold)) + shift
    return onset, max(end, onset + 0.03), event.pitch, min(127, max(1, round(level)))


def _pedal(tune: Tune, length: Fraction, time: Callable[[Fraction], float]) -> list[tuple[float, int]]:
    """Times and values of the pedal: up as a new harmony begins, down just after it."""
    if not tune.pedal:
        return []
    whole = Fraction(*tune.meter)
    every = {"bar": whole, "half": whole / 2, "beat": _beat(tune)}[tune.pedal]
    rows, place = [], tune.pickup
    while place < length:
        if rows:
            rows.append((time(place) + 0.01, 0))
        rows.append((time(place) + 0.07, 127))
        place += every
    return [*rows, (time(length), 0)]


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


TUNES: tuple[Tune, ...] = tuple(read(path) for path in sorted(_SCORES.glob("*.toml")))
