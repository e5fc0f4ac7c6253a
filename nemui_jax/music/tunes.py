"""Built-in tunes: works in the public domain, written down for this project and rendered as songs.

The notation is one string per voice, of tokens between spaces:

    !mf %80 C4:8 D4 <E4 G4>:2 r:4 | [ C4:12 E4 G4 ]x4 | !< F#4:2~ F#4:8 Bb3 A3:4' | !f C4:1^ |

- `C4:8` is middle C, an eighth long; a duration holds until the next one. `4.` is dotted, `4..` twice dotted,
  `12` the eighth of a triplet (a twelfth of a whole note). `r` rests, `<C4 E4>` is a chord, `#` and `b` alter.
- After the duration `~` ties to the same pitches in the next chord, `'` is staccato, `^` accents.
- `!p` (ppp to fff) is a dynamic; `!<` and `!>` are hairpins, from the dynamic in force to the next one.
- `%80` lets notes sound for 80 % of their length from here on (95 at the start).
- `[ ... ]xN` repeats what is inside, bar lines included, and may be nested.
- `|` ends a bar, whose length is verified. `Tune.pickup` is the length of an incomplete first bar, bar 0.

The rendering depends on nothing but the tune. Velocity is the dynamic's, with an accent on the bar's first beat and a
smaller one on its other beats, an arc over every four bars, the top notes of chords brought out, and a little
unevenness. Each chord of a voice is up to 15 ms early or late, from a hash of its place, and its notes follow each
other by `Tune.roll` seconds from the bottom. `Tune.pedal` is pressed anew every bar, half bar or beat.
"""

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import pi, sin
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nemui_jax.music import midi_writer
from nemui_jax.music.song import METER, NOTE, PEDAL, Part, Song, TempoMap, pedal_controls

MAX_SHIFT_SECONDS = 0.015  # how far a chord is moved from its place in the score
_LEVELS = {"ppp": 24, "pp": 34, "p": 45, "mp": 56, "mf": 67, "f": 81, "ff": 96, "fff": 110}
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ACCENT = 14  # what `^` adds to the velocity
_STACCATO = 0.45
_PITCH = r"[A-G][#b]?\d"
_TOKEN = re.compile(
    rf"(?P<bar>\|)|!(?P<mark>[pmf]+|<|>)|%(?P<hold>\d+)|(?P<open>\[)|\]x(?P<times>\d+)"
    rf"|(?P<chord>r|{_PITCH}|<{_PITCH}(?: {_PITCH})*>)(?::(?P<denominator>\d+)(?P<dots>\.*))?(?P<signs>[~'^]*)"
)


@dataclass(frozen=True)
class Tune:
    """A piece in the notation above. Tempi are quarter notes a minute; positions are whole notes."""

    name: str  # a slug, as in file names
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


def parse_voice(tune: Tune, voice: int) -> tuple[list[_Event], Fraction]:
    """The notes of one voice (counted from 0), and its length. ValueError names tune, voice and bar."""
    start, bar_start, length, hold = Fraction(0), Fraction(0), Fraction(1, 4), 0.95
    bar = 0 if tune.pickup else 1
    notes: list[_Event] = []
    tied: dict[int, int] = {}  # pitch to index in notes
    marks: list[tuple[Fraction, int, str]] = []  # place, bar, mark

    def fail(what: str, at: int | None = None) -> ValueError:
        return ValueError(f"{tune.name}, voice {voice + 1}, bar {bar if at is None else at}: {what}")

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
                if not int(token["denominator"]):
                    raise fail("no duration 0")
                dots = len(token["dots"])
                length = Fraction(1, int(token["denominator"])) * (2 - Fraction(1, 2**dots))
            pitches = sorted(_pitch(name) for name in re.findall(_PITCH, token["chord"]))
            signs, held = token["signs"], {}
            if tied and not tied.keys() & set(pitches):
                raise fail("a tie leads to no note of its pitch")
            for rank, pitch in enumerate(pitches):
                index = tied.pop(pitch, None)
                if index is None:
                    index = len(notes)
                    accent = _ACCENT if "^" in signs else 0
                    part = _STACCATO if "'" in signs else hold
                    notes.append(_Event(start, length, pitch, accent, part, rank, pitch == pitches[-1], voice))
                else:
                    notes[index] = notes[index]._replace(length=start + length - notes[index].start)
                if "~" in signs:
                    held[pitch] = index
            tied = held
            start += length
    if tied:
        raise fail("a tie leads to no note of its pitch")
    if start != bar_start:
        check_bar()
    levels = _dynamics(marks, fail)
    return [note._replace(level=note.level + levels(note.start)) for note in notes], start


def _pitch(name: str) -> int:
    return 12 * (int(name[-1]) + 1) + _STEPS[name[0]] + name.count("#") - name.count("b")


def _tokens(text: str, fail: Callable[..., ValueError]) -> Iterator[re.Match]:
    for match in re.finditer(r"<[^>\s][^>]*>\S*|\S+", text):
        token = _TOKEN.fullmatch(match[0])
        if token is None:
            raise fail(f"cannot read {match[0]!r} at letter {match.start()}")
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


def _figure(pattern: str, bars: str) -> str:
    """One bar after the other: a bar's marks, then the pattern with $1, $2 ... replaced by its pitches."""
    lines = []
    for bar in bars.split("|"):
        marks = [word for word in bar.split() if word[0] in "!%"]
        pitches = [word for word in bar.split() if word[0] not in "!%"]
        lines.append(" ".join([*marks, re.sub(r"\$(\d)", lambda found, of=pitches: of[int(found[1]) - 1], pattern)]))
    return " | ".join(lines)


def _up(text: str, octaves: int) -> str:
    """The text, that many octaves higher."""
    return re.sub(r"([A-G][#b]?)(\d)", lambda found: f"{found[1]}{int(found[2]) + octaves}", text)


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
    pace = 240 / np.array(tempos, float)  # seconds a whole note
    seconds = np.concatenate([[0.0], np.cumsum(np.diff(edges) * pace)])

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
        tempo_map=TempoMap.of_changes(4 * edges[:-1], pace / 4),
        meters=_frozen(np.array(meters, METER)),
        name=f"{tune.title} ({tune.composer})" if tune.composer else tune.title,
    )


def write_all(folder: Path) -> list[Path]:
    """Writes every tune to `NN-name.mid` in the folder, which is made where needed. The paths, in order."""
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


def _hash(*what: object) -> float:
    """A number in [0, 1) that depends on what is given alone."""
    return zlib.crc32(repr(what).encode()) / 2**32


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
    """Up as the new harmony sounds, down just after it."""
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


_BACH_PRELUDE = """!p C4 E4 G4 C5 E5 | C4 D4 A4 D5 F5 | B3 D4 G4 D5 F5 | C4 E4 G4 C5 E5
| !< C4 E4 A4 E5 A5 | C4 D4 F#4 A4 D5 | !mp B3 D4 G4 D5 G5 | !> B3 C4 E4 G4 C5 | A3 C4 E4 G4 C5 | D3 A3 D4 F#4 C5
| !p G3 B3 D4 G4 B4 | !< G3 Bb3 E4 G4 C#5 | F3 A3 D4 A4 D5 | !mf F3 Ab3 D4 F4 B4 | !> E3 G3 C4 G4 C5
| E3 F3 A3 C4 F4 | D3 F3 A3 C4 F4 | G2 D3 G3 B3 F4 | !p C3 E3 G3 C4 E4 | C3 G3 Bb3 C4 E4 | !< F2 F3 A3 C4 E4
| F#2 C3 A3 C4 Eb4 | Ab2 F3 B3 C4 D4 | !mp G2 F3 G3 B3 D4 | !< G2 E3 G3 C4 E4 | G2 D3 G3 C4 F4 | G2 D3 G3 B3 F4
| !f G2 Eb3 A3 C4 F#4 | G2 E3 G3 C4 G4 | G2 D3 G3 C4 F4 | !> G2 D3 G3 B3 F4 | !mf C2 C3 G3 Bb3 E4"""
_CANON = """F#5:2 E5 | D5 C#5 | B4 A4 | B4 C#5 | D5 C#5 | B4 A4 | G4 F#4 | G4 E4
| D4:4 F#4 A4 G4 | F#4 D4 F#4 E4 | D4 B3 D4 A4 | G4 B4 A4 G4
| !mf F#4 D4 E4 C#5 | D5 F#5 A5 A4 | B4 G4 A4 F#4 | D4 D5 D5:4. C#5:8
| D5:8 C#5 D5 D4 C#4 A4 E4 F#4 | D4 D5 C#5 B4 C#5 F#5 A5 B5
| G5 F#5 E5 G5 F#5 E5 D5 C#5 | B4 A4 G4 F#4 E4 G4 F#4 E4
| !< D4 E4 F#4 G4 A4 E4 A4 G4 | F#4 B4 A4 G4 A4 G4 F#4 E4
| D4 B3 B4 C#5 D5 C#5 B4 A4 | G4 F#4 E4 B4 A4 B4 A4 G4"""
_CANON_END = """!f A5:8 F#5:16 G5 A5:8 F#5:16 G5 A5 A4 B4 C#5 D5 E5 F#5 G5
| F#5:8 D5:16 E5 F#5:8 F#4:16 G4 A4 B4 A4 G4 A4 F#4 G4 A4
| G4:8 B4:16 A4 G4:8 F#4:16 E4 F#4 E4 D4 E4 F#4 G4 A4 B4
| G4:8 B4:16 A4 B4:8 C#5:16 D5 A4 B4 C#5 D5 E5 F#5 G5 A5"""
_ELISE = """E5:16 D#5 E5 B4 D5 C5 | A4:8 r:16 C4 E4 A4 | B4:8 r:16 E4 G#4 B4 | C5:8 r:16 E4 E5 D#5
| E5 D#5 E5 B4 D5 C5 | A4:8 r:16 C4 E4 A4 |"""
_ELISE_BASS = """r:4. | A2:16 E3 A3 r:8. | E2:16 E3 G#3 r:8. | A2:16 E3 A3 r:8. | r:4. | A2:16 E3 A3 r:8.
| E2:16 E3 G#3 r:8. |"""
_RAG_START = """E4:16 C5:8 E4:16 C5:8 E4:16 C5:16~ | C5:4~"""
_RAG_TURN = """C5:16 <C5 E5 C6> <D5 F5 D6> <D#5 F#5 D#6> | !f <E5 G5 E6> <C5 E5 C6> <D5 F5 D6> <E5 G5 E6>:8
<B4 D5 B5>:16 <D5 F5 D6>:8 |"""
_RAG_RISE = "<E5 E6>:16 <C5 C6> <D5 D6> <E5 E6>:8 <C5 C6>:16 <D5 D6> <C5 C6>"
_RAG = f"""!mp {_RAG_START} !< {_RAG_TURN} <C5 E5 C6>:4. !mp D4:16 D#4 | {_RAG_START} C5:8 !< <A4 C5 A5>:16 <G4 C5 G5>
| !f <F#4 C5 F#5>:16 <A4 A5> <C5 C6> <E5 E6>:8 <D5 D6>:16 <C5 C6> <A4 A5> | <D5 F5 D6>:4. !mp D4:16 D#4
| {_RAG_START} !< {_RAG_TURN} <C5 E5 C6>:4. <C5 C6>:16 <D5 D6> | {_RAG_RISE} | {_RAG_RISE}
| <E5 G5 E6>:16 <C5 E5 C6> <D5 F5 D6> <E5 G5 E6>:8 <B4 D5 B5>:16 <D5 F5 D6>:8 |"""
_RAG_STRIDE = """C3:8 <E3 G3 C4> <G2 G3> <G3 Bb3 C4> | <F2 F3> <A3 C4> <E2 E3> <G3 C4>
| G2 <E3 G3 C4> G2 <F3 G3 B3> |"""
_RAG_BASS = f"""!p {_RAG_STRIDE} C3 <E3 G3 C4> <E3 G3 C4> <G3 B3> | C3:8 <E3 G3 C4> <G2 G3> <G3 Bb3 C4>
| <F2 F3> <A3 C4> <E2 E3> <G3 C4> | !mf <D2 D3> <D3 F#3 A3 C4> D3 <F#3 A3 C4> | <G3 B3> <G2 G3> <A2 A3> <B2 B3>
| !p {_RAG_STRIDE} C3 <E3 G3 C4> <G3 C4 E4> r | !mf <C3 C4> <G3 C4 E4> <Bb2 Bb3> <G3 C4 E4>
| <A2 A3> <A3 C4 F4> <Ab2 Ab3> <Ab3 C4 F4> | <G2 G3> <G3 C4 E4> G2 <G3 B3> |"""
_GRIEG_B = """B2:8 C#3 D3 E3 F#3 D3 F#3:4 | F3:8 C#3 F3:4 E3:8 C3 E3:4 | B2:8 C#3 D3 E3 F#3 D3 F#3 B3
| A3 F#3 D3 F#3 A3:2"""
_GRIEG_F = """F#3:8 G#3 A#3 B3 C#4 A#3 C#4:4 | D4:8 A#3 D4:4 C#4:8 A#3 C#4:4 | F#3:8 G#3 A#3 B3 C#4 A#3 C#4:4
| D4:8 A#3 D4:4 C#4:2"""
_GRIEG_LOW_B = "B1:4 F#2 B1 F#2 | F2 C#2 E2 C2 | B1 F#2 B1 F#2 | D2 A2 D2 A2"
_GRIEG_LOW_F = "F#2:4 C#2 F#2 C#2 | F#2 D2 F#2 C#2 | F#2 C#2 F#2 C#2 | F#2 D2 F#2 C#2"
_GRIEG_BEAT_B = """[ B1:8 <B2 D3 F#3> ]x4 | [ F2 <C#3 F3> ]x2 [ C2 <G2 C3 E3> ]x2 | [ B1 <B2 D3 F#3> ]x4
| [ D2 <A2 D3 F#3> ]x4"""
_GRIEG_BEAT_F = """[ F#1:8 <F#2 A#2 C#3> ]x4 | [ F#1 <F#2 A#2 D3> ]x2 [ F#1 <F#2 A#2 C#3> ]x2 | [ F#1 <F#2 A#2 C#3> ]x4
| [ F#1 <F#2 A#2 D3> ]x2 [ F#1 <F#2 A#2 C#3> ]x2"""
_DANUBE_BASS = "D3 F#3 A3 | A2 F#3 A3 | D3 F#3 A3 | A2 F#3 A3 | D3 F#3 A3"
_DANUBE_SEVENTH = "A2 E3 G3 | C#3 E3 G3 | A2 E3 G3 | E3 G3 A3"
_KOROBEINIKI = """A4:4 E4:8 F4 G4:4 F4:8 E4 | D4:4 D4:8 F4 A4:4 G4:8 F4 | E4:4. F4:8 G4:4 A4 | F4 D4 D4:2
| r:8 G4:4 Bb4:8 D5:4 C5:8 Bb4 | A4:4. F4:8 A4:4 G4:8 F4 | E4:4 E4:8 F4 G4:4 A4 | F4 D4 D4:2"""
_KOROBEINIKI_BASS = """[ A2:8 <E3 G3 C#4> E3 <G3 C#4> ]x2 | [ D3 <F3 A3> A2 <F3 A3> ]x2
| [ A2 <E3 G3 C#4> E3 <G3 C#4> ]x2
| D3 <F3 A3> A2 <F3 A3> D3 E3 F3 F#3 | [ G3 <Bb3 D4> D3 <G3 Bb3> ]x2 | F3 <A3 C4> C3 <F3 A3> D3 <F3 A3> A2 <F3 A3>
| [ A2 <E3 G3 C#4> E3 <G3 C#4> ]x2 | D3 <F3 A3> A2 <F3 A3> D3:4 r"""
TUNES: tuple[Tune, ...] = (
    Tune(
        "prelude-in-c",
        "Prelude in C, BWV 846",
        "Bach",
        "baroque",
        (4, 4),
        100.0,
        (
            _figure("[ r:8 $3:16 $4 $5 $3 $4 $5 ]x2", _BACH_PRELUDE)
            + """ | !> r:8 F3:16 A3 C4 F4 C4 A3 C4 A3 F3 A3 F3 D3 F3 D3
            | r:8 G4:16 B4 D5 F5 D5 B4 D5 B4 G4 B4 D4 F4 E4 D4 | !p <E4 G4 C5>:1""",
            _figure("[ r:16 $2:4.. ]x2", _BACH_PRELUDE) + " | !mp r:16 C3:2... | r:16 B2:2... | !p C3:1",
            _figure("[ $1:2 ]x2", _BACH_PRELUDE) + " | !mp C2:1 | C2:1 | !p C2:1",
        ),
        pedal="half",
        tempos=((34, 84.0), (35, 66.0)),
    ),
    Tune(
        "minuet-in-g",
        "Minuet in G, BWV Anh. 114",
        "Petzold",
        "baroque",
        (3, 4),
        126.0,
        (
            """%85 !mf [ D5:4 G4:8 A4 B4 C5 | D5:4 G4 G4 | E5:4 C5:8 D5 E5 F#5 | G5:4 G4 G4
            | C5:4 D5:8 C5 B4 A4 | B4:4 C5:8 B4 A4 G4 | F#4:4 G4:8 A4 B4 G4 | B4:4 A4:2
            | !mp D5:4 G4:8 A4 B4 C5 | D5:4 G4 G4 | E5:4 C5:8 D5 E5 F#5 | G5:4 G4 G4
            | !< C5:4 D5:8 C5 B4 A4 | !mf B4:4 C5:8 B4 A4 G4 | A4:4 B4:8 A4 G4 F#4 | G4:2. | ]x2
            !f B5:4 G5:8 A5 B5 G5 | A5:4 D5:8 E5 F#5 D5 | G5:4 E5:8 F#5 G5 D5 | C#5:4 B4:8 C#5 A4:4
            | !mf A4:8 B4 C#5 D5 E5 F#5 | G5:4 F#5 E5 | F#5 A4 C#5 | D5:2.
            | !mp D5:4 G4:8 F#4 G4:4 | E5 G4:8 F#4 G4:4 | D5 C5 B4 | A4:8 G4 F#4 G4 A4:4
            | !< D4:8 E4 F#4 G4 A4 B4 | !f C5:4 B4 A4 | B4:8 D5 G4:4 F#4 | <B3 D4 G4>:2.""",
            """%80 !mp [ <G3 B3>:2 A3:4 | B3:2. | C4 | B3 | A3 | G3 | D4:4 B3 G3 | D4 D3:8 C4 B3 A3
            | !p B3:2 A3:4 | G3 B3 G3 | C4:2. | B3:4 C4:8 B3 A3 G3 | !< A3:2 F#3:4 | !mp G3:2 B3:4
            | C4 D4 D3 | G3:2 G2:4 | ]x2
            !mf G3:2. | F#3 | E3:4 G3 E3 | A3:2 A2:4 | !mp A3:2. | B3:4 D4 C#4 | D4 F#3 A3 | D4 D3 C4
            | !p <B3 D4>:2 <B3 D4>:4 | <C4 E4>:2 <C4 E4>:4 | B3 A3 G3 | D4:2 r:4 | D3:2 F#3:4
            | !mp E3 G3 F#3 | G3 B2 D3 | G3 D3 G2""",
        ),
        program=6,
        tempos=((47, 112.0), (48, 92.0)),
        roll=0.008,
    ),
    Tune(
        "canon-in-d",
        "Canon in D",
        "Pachelbel",
        "baroque",
        (4, 4),
        104.0,
        (
            f"!mp [ r:1 | ]x4 {_CANON} | {_CANON_END} | <D5 F#5>:1",
            f"!p [ r:1 | ]x8 {_CANON} | !f A4:1",
            "!p %90 [ D3:2 A2 | B2 F#2 | G2 D2 | G2 A2 | ]x8 <D2 D3>:1",
            "!p [ <F#3 A3 D4>:2 <E3 A3 C#4> | <D3 F#3 B3> <C#3 F#3 A3> | <D3 G3 B3> <D3 F#3 A3>"
            " | <D3 G3 B3> <E3 A3 C#4> | ]x3 [ r:1 | ]x20 <F#3 A3>:1",
        ),
        pedal="half",
        tempos=((32, 92.0), (33, 70.0)),
    ),
    Tune(
        "fur-elise",
        "Für Elise",
        "Beethoven",
        "classical",
        (3, 8),
        72.0,
        (
            f"""!p E5:16 D#5 | {_ELISE} B4:8 r:16 E4 C5 B4 | A4:8 r E5:16 D#5
            | {_ELISE} B4:8 r:16 E4 C5 B4 | [ A4:8 r:16 !< B4 C5 D5
            | !mf E5:8. G4:16 F5 E5 | D5:8. F4:16 E5 D5 | !> C5:8. E4:16 D5 C5 | B4:8 r:16 E4 !p E5 r
            | r E5 E6 r r D#5 | !> E5 r r D#5 E5 D#5 | !pp {_ELISE} !p B4:8 r:16 E4 C5 B4 | ]x2 A4:4.""",
            f"""!p r:8 | {_ELISE_BASS} A2:16 E3 A3 r:8. | {_ELISE_BASS} [ A2:16 E3 A3 r:8. | !< C3:16 G3 C4 r:8.
            | !mp G2:16 G3 B3 r:8. | !> A2:16 E3 A3 r:8. | !p E2:16 E3 r r r E4
            | E5 r r D#5 E5 r | r D#5 E5 r:8. | !pp r:4. | A2:16 E3 A3 r:8. | E2:16 E3 G#3 r:8.
            | A2:16 E3 A3 r:8. | r:4. | A2:16 E3 A3 r:8. | !p E2:16 E3 G#3 r:8. | ]x2 <A2 A3>:4.""",
        ),
        pedal="bar",
        pickup=Fraction(1, 8),
        tempos=((44, 60.0),),
    ),
    Tune(
        "sonata-in-c",
        "Sonata in C, K. 545, opening",
        "Mozart",
        "classical",
        (4, 4),
        132.0,
        (
            """!mp %90 [ C5:2 E5:4 G5 | B4:4. C5:16 D5 C5:4 r | A5:2 G5:4 C6 | G5:4 F5:16 G5 F5 E5 E5:4 r
            | A4:8 B4:16 C5 D5 E5 F5 G5 A5 G5 F5 E5 D5 C5 B4 A4 | G4:8 A4:16 B4 C5 D5 E5 F5 G5 F5 E5 D5 C5 B4 A4 G4
            | F4:8 G4:16 A4 B4 C5 D5 E5 F5 E5 D5 C5 B4 A4 G4 F4 | E4:8 F4:16 G4 A4 B4 C5 D5 E5 D5 C5 B4 A4 G4 F4 E4
            | !< D4:8 E4:16 F4 G4 A4 B4 C#5 D5 A4 B4 C#5 D5 E5 F5 G5
            | !f A5 B5 C6 B5 A5 G5 F5 E5 F5 G5 A5 G5 F5 E5 D5 C5
            | !mf B4:8' G5' E5' C5' D5' G5' E5' C5' | D5:4' G5' G4' r | !mp ]x2
            C5:2 E5:4 G5 | B4:4. C5:16 D5 C5:4 r | A5:2 G5:4 C6 | G5:4 F5:16 G5 F5 E5 E5:4 r
            | !mf D5:4 F5 E5:8 D5 C5 B4 | C5:4 E4 C4 r""",
            """!p [ C4:8 G4 E4 G4 C4 G4 E4 G4 | D4 G4 F4 G4 C4 G4 E4 G4 | C4 A4 F4 A4 C4 G4 E4 G4
            | B3 G4 D4 G4 C4 G4 E4 G4 | <F3 A3 C4>:4 r r:2 | <E3 G3 C4>:4 r r:2 | <D3 F3 A3>:4 r r:2
            | <C3 E3 A3>:4 r r:2 | !< <F3 A3>:4 r r:2 | !f F3:4 r <F3 A3 D4> r
            | !mp <G3 D4>:4' <G3 C4 E4>' <G3 B3>' <G3 C4 E4>' | <G3 B3>:4' G3' G2' r | !p ]x2
            C4:8 G4 E4 G4 C4 G4 E4 G4 | D4 G4 F4 G4 C4 G4 E4 G4 | C4 A4 F4 A4 C4 G4 E4 G4
            | B3 G4 D4 G4 C4 G4 E4 G4 | !mp F3:4 <A3 D4> G3 <F3 G3> | <C3 E3>:4 <C3 G3> C3 r""",
        ),
        tempos=((29, 124.0), (30, 104.0)),
    ),
    Tune(
        "ode-to-joy",
        "Ode to Joy, from the Ninth Symphony",
        "Beethoven",
        "hymn",
        (4, 4),
        116.0,
        (
            """!p [ r:1 | ]x4 !< F#4:4 F#4 G4 A4 | A4 G4 F#4 E4 | D4 D4 E4 F#4 | E4:4. D4:8 D4:2
            | !mf <D4 F#4>:4 <D4 F#4> <E4 G4> <F#4 A4> | <F#4 A4> <E4 G4> <D4 F#4> <C#4 E4> | <A3 D4> <A3 D4> <C#4 E4>
            <D4 F#4> | <C#4 E4>:4. D4:8 D4:2 | [ <C#4 E4>:4 <C#4 E4> <D4 F#4> <A3 D4> | <C#4 E4> <D4 F#4>:8 <E4 G4>
            <D4 F#4>:4 <B3 D4> | <C#4 E4> <D#4 F#4>:8 <E4 G4> <D#4 F#4>:4 <B3 E4> | !< <F#3 D4> <G#3 E4> A3 !f
            <A3 D4 F#4>~ | <A3 D4 F#4> <A3 D4 F#4> <C#4 E4 G4> <D4 F#4 A4> | <D4 F#4 A4> <C#4 E4 G4>
            <A3 D4 F#4> <G3 C#4 E4> | <F#3 A3 D4> <F#3 A3 D4> <A3 C#4 E4> <A3 D4 F#4>
            | <G3 C#4 E4>:4. <F#3 D4>:8 <F#3 D4>:2 | !mf ]x2 !f <A4 C#5 E5>:2 <D5 F#5>:4 <A4 D5> | <D4 F#4 A4 D5>:1""",
            """!p F#3:4 F#3 G3 A3 | A3 G3 F#3 E3 | D3 D3 E3 F#3 | F#3:4. E3:8 E3:2
            | D3:4 A2 B2 F#2 | G2 A2 B2 C#3 | D3 F#3 G3 D3 | A2 A2 D3:2
            | !mp <D2 D3>:4 <F#2 F#3> <E2 E3> <D2 D3> | <A2 A3> <C#3 A3> <D3 A3> <A2 G3>
            | <F#2 F#3> <B2 F#3> <A2 G3> <D3 F#3>
            | <A2 G3> A2 <D2 F#3>:2 | [ <A2 G3>:4 <A2 G3> <A2 F#3> <D3 F#3> | <A2 G3> <A2 A3> <D3 A3> <G2 B3>
            | <A2 A3> <B2 A3> <B2 A3> <E3 G3> | D3 <E2 D3> <A2 C#3> !f <D2 D3>~ | <D2 D3> <F#2 F#3> <E2 E3> <D2 D3>
            | <G2 G3> <A2 A3> <B2 B3> <C#3 A3> | <D3 A3> <B2 B3> <G2 G3> <D2 D3> | <A2 A3> A2 <D2 D3>:2 | !mp ]x2
            !f <A2 A3>:4 <G2 G3> <F#2 F#3> <E2 E3> | <D2 A2 D3>:1""",
        ),
        pedal="beat",
        tempos=((29, 104.0), (30, 84.0)),
        roll=0.0,
    ),
    Tune(
        "gymnopedie",
        "Gymnopédie No. 1",
        "Satie",
        "impressionist",
        (3, 4),
        86.0,
        (
            """%100 !p [ r:2. | ]x4 r:4 !< F#5 A5 | G5 F#5 C#5 | !mp B4 !> C#5 D5 | A4:2. | !p F#4:2.~ | F#4~
            | F#4~ | F#4
            | r:4 !< F#5 A5 | G5 F#5 C#5 | !mp B4 C#5 D5 | !> A4:2. | C#5 | F#5 | !p E4~ | E4~ | E4
            | !< A4:4 B4 C5 | E5 D5 B4 | D5 C5 B4 | !mf D5:2.~ | D5:2 D5:4 | !< E5 F5 G5 | !f A5 !> C5 D5 | E5 D5 B4
            | !mp D5:2.~ | D5:2 D5:4 | !< G5:2. | !mf F#5 | B4:4 A4 B4 | C#5 D5 E5 | !> C#5 D5 E5 | F#4:2.
            | <C4 E4 A4 C5> | !pp <D4 F#4 A4 D5>""",
            """!pp %100 """
            + _figure(
                "$1:2.",
                """G2 | D2 | G2 | D2 | G2 | D2 | G2 | D2 | G2 | D2 | G2 | D2 | G2 | D2 | G2 | D2 | F#2 | B1 | E2 | E2
                | D2 | A1 | D2 | D2 | D2 | D2 | D2 | D2 | D2 | D2 | D2 | E2 | F#2 | B1 | E2 | E2 | E2""",
            )
            + " | <A2 G3> | <D2 A2 D3>",
            """!pp %100 [ r:4 <B3 D4 F#4>:2 | r:4 <A3 C#4 F#4>:2 | ]x8 r:4 <A3 C#4 F#4>:2 | r:4 <B3 D4 F#4>:2
            | r:4 <G3 B3>:2 | r:4 <B3 D4 G4>:2 | r:4 <F3 A3 D4>:2 | r:4 <A3 C4 E4>:2 | r:4 <G3 B3 E4>:2
            | r:4 <D3 G3 B3 E4>:2 | r:4 <C3 E3 A3 D4>:2 | r:4 <C3 F#3 A3 D4>:2 | r:4 <A3 C4 F4>:2 | r:4 <A3 C4 E4>:2
            | r:4 <D3 G3 B3 E4>:2 | r:4 <C3 E3 A3 D4>:2 | r:4 <C3 F#3 A3 D4>:2 | r:4 <B3 E4 G4>:2
            | r:4 <A3 C#4 F#4>:2 | r:4 <B3 D4 F#4>:2 | r:4 <C#4 E4 A4>:2 | r:4 <A3 C#4 F#4 A4>:2
            | r:4 <B2 A3 D4>:4 <B2 D3 E3 G3> | r:2. | r""",
        ),
        pedal="bar",
        tempos=((38, 76.0), (39, 62.0)),
    ),
    Tune(
        "the-entertainer",
        "The Entertainer",
        "Joplin",
        "ragtime",
        (2, 4),
        80.0,
        (
            f"""!f %90 D6:16 E6 C6 A5:8 B5:16 G5:8 | D5:16 E5 C5 A4:8 B4:16 G4:8 | D4:16 E4 C4 A3:8 B3:16 A3 Ab3
            | G3:8 r <G4 B4 D5 G5>^ !mp D4:16 D#4 | {_RAG} <C5 E5 C6>:4. D4:16 D#4 | {_RAG} <C5 E5 C6>:4
            <C5 E5 G5 C6>:8'^ r""",
            f"""!f %90 D5:16 E5 C5 A4:8 B4:16 G4:8 | D4:16 E4 C4 A3:8 B3:16 G3:8 | D3:16 E3 C3 A2:8 B2:16 A2 Ab2
            | G2:8 r %70 <G1 G2>^ <G3 B3> | {_RAG_BASS} <C3 G3 C4> <G2 G3> <A2 A3> <B2 B3> | {_RAG_BASS}
            <C3 G3 C4> <G2 G3> <C2 C3>'^ r""",
        ),
        roll=0.002,
    ),
    Tune(
        "greensleeves",
        "Greensleeves",
        "",
        "renaissance",
        (6, 8),
        72.0,
        (
            """!mp E4:8 | [ G4:4 A4:8 B4:8. C#5:16 B4:8 | A4:4 F#4:8 D4:8. E4:16 F#4:8 | G4:4 E4:8 E4:8. D#4:16 E4:8
            | F#4:4 D#4:8 B3:4 E4:8 | G4:4 A4:8 B4:8. C#5:16 B4:8 | A4:4 F#4:8 D4:8. E4:16 F#4:8
            | G4:8. F#4:16 E4:8 D#4:8. C#4:16 D#4:8 | E4:4. E4
            | !mf D5:4. D5:8. C#5:16 B4:8 | A4:4 F#4:8 D4:8. E4:16 F#4:8 | G4:4 E4:8 E4:8. D#4:16 E4:8
            | F#4:4 D#4:8 B3:4. | !f D5:4. D5:8. C#5:16 B4:8 | A4:4 F#4:8 D4:8. E4:16 F#4:8
            | !> G4:8. F#4:16 E4:8 D#4:8. C#4:16 D#4:8 | !mp E4:4. E4:4 E4:8 | ]x2 <B3 E4>:2.""",
            "!p r:8 | [ %100 "
            + _figure(
                "$1:8 $2 $3 $4 $5 $6",
                """E2 B2 E3 G3 E3 B2 | D2 A2 D3 F#3 D3 A2 | E2 B2 E3 G3 E3 B2 | B2 F#3 B3 A3 F#3 B2
                | E2 B2 E3 G3 E3 B2 | D2 A2 D3 F#3 D3 A2 | C3 E3 G3 B2 F#3 A3 | E2 B2 E3 G3 E3 B2
                | G2 D3 G3 B3 G3 D3 | D2 A2 D3 F#3 D3 A2 | E2 B2 E3 G3 E3 B2 | B2 F#3 B3 A3 F#3 B2
                | G2 D3 G3 B3 G3 D3 | D2 A2 D3 F#3 D3 A2 | C3 E3 G3 B2 F#3 A3 | E2 B2 E3 G3 E3 B2""",
            )
            + " | ]x2 <E2 B2 E3>:2.",
        ),
        program=24,
        pickup=Fraction(1, 8),
        tempos=((32, 66.0), (33, 54.0)),
        roll=0.03,
    ),
    Tune(
        "irish-washerwoman",
        "The Irish Washerwoman",
        "",
        "dance",
        (6, 8),
        150.0,
        (
            """!mf %80 D5:8 C5 | [ [ B4 G4 G4 D4 G4 G4 | B4 G4 B4 D5 C5 B4 | C5 A4 A4 E4 A4 A4 | C5 A4 C5 E5 D5 C5
            | B4 G4 G4 D4 G4 G4 | B4 G4 B4 D5 C5 B4 | !f C5 B4 C5 A4 D5 C5 | B4 G4 G4 G4 !mf D5 C5 | ]x2
            !f [ G5 D5 G5 G5 D5 G5 | G5 D5 G5 B5 A5 G5 | F#5 D5 F#5 F#5 D5 F#5 | F#5 D5 F#5 A5 G5 F#5
            | !mf E5 G5 G5 D5 G5 G5 | C5 G5 G5 B4 G5 G5 | !< C5 B4 C5 A4 D5 C5 | !f B4 G4 G4 G4 D5 C5 | ]x2 !mf ]x2
            !ff <G4 B4>:4. <G3 B3 D4 G4>""",
            """!p r:8 r | %70 [ !p [ G2:4 <B3 D4>:8 G2:4 <B3 D4>:8 | D3:4 <G3 B3>:8 G2:4 <B3 D4>:8
            | A2:4 <C4 E4>:8 A2:4 <C4 E4>:8 | E3:4 <A3 C4>:8 F#3:4 <A3 C4>:8 | G3:4 <B3 D4>:8 D3:4 <G3 B3>:8
            | G2:4 <B3 D4>:8 G3:4 <B3 D4>:8 | !mf C3:4 <E3 A3>:8 D3:4 <F#3 C4>:8 | G2:4 <G3 B3>:8 G2:4 r:8 | !p ]x2
            [ !mp G2:4 <B3 D4>:8 G2:4 <B3 D4>:8 | B2:4 <G3 D4>:8 G2:4 <B3 D4>:8 | D3:4 <A3 C4>:8 D3:4 <A3 C4>:8
            | A2:4 <F#3 C4>:8 D3:4 <A3 C4>:8 | C3:4 <G3 E4>:8 B2:4 <G3 D4>:8 | A2:4 <E3 C4>:8 G2:4 <D3 B3>:8
            | !< C3:4 <E3 A3>:8 D3:4 <F#3 C4>:8 | !mf G2:4 <G3 B3>:8 G2:4 r:8 | ]x2 !p ]x2 !f <G2 D3>:4. <G1 G2>""",
        ),
        pickup=Fraction(1, 4),
    ),
    Tune(
        "amazing-grace",
        "Amazing Grace",
        "",
        "hymn",
        (3, 4),
        92.0,
        (
            """!mp %98 Eb4:4 | [ Ab4:2 C5:8 Ab4 | C5:2 Bb4:4 | Ab4:2 F4:4 | Eb4:2 Eb4:4 | Ab4:2 C5:8 Ab4 | C5:2 Bb4:4
            | !< Eb5:2.~ | Eb5:2 !f C5:4 | Eb5:4. C5:8 Eb5 C5 | Ab4:2 Eb4:4 | !> F4:4. Ab4:8 Ab4 F4 | !mf Eb4:2 Eb4:4
            | Ab4:2 C5:8 Ab4 | C5:2 Bb4:4 | Ab4:2.~ | Ab4:2 Eb4:4 | !mf ]x2 Ab4:2.""",
            """!mp %98 C4:4 | [ Eb4:2 Eb4:4 | Eb4:2 Db4:4 | C4:2 Db4:4 | C4:2 C4:4 | Eb4:2 Eb4:4 | Eb4:2 F4:4
            | G4:2.~ | G4:2 !f Ab4:4 | Ab4:2 Ab4:4 | Eb4:2 C4:4 | !> Db4:2 Db4:4 | !mf C4:2 C4:4
            | Eb4:2 Eb4:4 | Eb4:2 Db4:4 | C4:4 Db4:2 | C4:2 C4:4 | !mf ]x2 C4:2.""",
            """!mp %98 Ab3:4 | [ C4:2 Ab3:4 | Ab3:2 G3:4 | Ab3:2 Ab3:4 | Ab3:2 Ab3:4 | C4:2 Ab3:4 | Ab3:2 Ab3:4
            | Bb3:2.~ | Bb3:2 !f Eb4:4 | C4:2 C4:4 | C4:2 Ab3:4 | !> Ab3:2 Ab3:4 | !mf Ab3:2 Ab3:4
            | C4:2 Ab3:4 | Ab3:2 G3:4 | Ab3:2.~ | Ab3:2 Ab3:4 | !mf ]x2 Ab3:2.""",
            """!mp %98 Ab2:4 | [ Ab2:2 Ab2:4 | Eb3:2 Eb3:4 | F3:2 Db3:4 | Ab2:2 Ab2:4 | Ab2:2 C3:4 | Ab2:2 D3:4
            | Eb3:2 Db3:4 | C3:2 !f Ab2:4 | Ab3:2 Ab3:4 | Ab2:2 Ab2:4 | !> Db3:2 Db3:4 | !mf Ab2:2 Ab2:4
            | Ab2:2 C3:4 | Eb3:2 Eb3:4 | F3:4 Db3:2 | Ab2:2 Ab2:4 | !mf ]x2 Ab2:2.""",
        ),
        program=19,
        pickup=Fraction(1, 4),
        tempos=((31, 84.0), (33, 66.0)),
        roll=0.0,
    ),
    Tune(
        "lullaby",
        "Lullaby, op. 49 no. 4",
        "Brahms",
        "romantic",
        (3, 4),
        80.0,
        (
            """!p %100 A4:8 A4 | [ C5:4. A4:8 A4:4 | C5:2 A4:8 C5 | F5:4 E5:4. D5:8 | D5:4 C5 G4:8 A4 | Bb4:4 G4 G4:8 A4
            | Bb4:2 G4:8 Bb4 | !< E5 D5 C5:4 E5 | !mf F5:2 F4:8 F4 | F5:2 D5:8 Bb4 | C5:2 A4:8 F4 | Bb4:4 C5 D5
            | C5:2 F4:8 F4 | F5:2 D5:8 Bb4 | !> C5:2 A4:8 F4 | Bb4:4 A4 G4 | !p F4:2 A4:8 A4 | ]x2 !pp F4:2.""",
            "!pp %100 r:4 | [ "
            + _figure(
                "$1:4 <$2 $3>:4. <$2 $3>:8",
                """F2 C4 F4 | F2 C4 F4 | F2 C4 F4 | F2 C4 F4 | C3 Bb3 E4 | C3 Bb3 E4 | C3 Bb3 E4 | F2 A3 C4
                | Bb2 Bb3 D4 | F2 A3 C4 | C3 Bb3 E4 | F2 A3 C4 | Bb2 Bb3 D4 | F2 A3 C4 | C3 Bb3 E4 | F2 A3 C4""",
            )
            + " | ]x2 <F2 C3 A3>:2.",
        ),
        pedal="bar",
        pickup=Fraction(1, 4),
        tempos=((31, 72.0), (32, 64.0)),
        roll=0.012,
    ),
    Tune(
        "mountain-king",
        "In the Hall of the Mountain King",
        "Grieg",
        "romantic",
        (4, 4),
        126.0,
        (
            f"""!pp %60 {_GRIEG_B} | {_GRIEG_B} | !p {_GRIEG_F} | {_GRIEG_F} | !mp {_GRIEG_B} | {_GRIEG_B}
            | !mf %70 {_up(_GRIEG_B, 1)} | !< {_up(_GRIEG_B, 1)} | !f {_up(_GRIEG_F, 1)} | {_up(_GRIEG_F, 1)}
            | !ff {_up(_GRIEG_B, 2)} | {_up(_GRIEG_B, 2)} | !fff <B4 D5 F#5 B5>:4'^ r r:2 | <B4 D5 F#5 B5>:4'^ r r:2
            | <B3 D4 F#4 B4>:4'^ <B4 D5 F#5 B5>:4'^ r:2 | <B3 D4 F#4 B4>:1^""",
            f"""!pp %45 {_GRIEG_LOW_B} | {_GRIEG_LOW_B} | !p {_GRIEG_LOW_F} | {_GRIEG_LOW_F} | !mp {_GRIEG_LOW_B}
            | {_GRIEG_LOW_B} | !mf %60 {_GRIEG_BEAT_B} | !< {_GRIEG_BEAT_B} | !f {_GRIEG_BEAT_F} | {_GRIEG_BEAT_F}
            | !ff {_GRIEG_BEAT_B} | {_GRIEG_BEAT_B} | !fff <B1 B2>:4'^ r r:2 | <B1 B2>:4'^ r r:2
            | <B1 B2>:4'^ <B1 B2>'^ r:2 | %95 <B0 B1>:1^""",
        ),
        tempos=((9, 132.0), (17, 140.0), (25, 150.0), (33, 162.0), (41, 178.0), (49, 168.0)),
        roll=0.0,
    ),
    Tune(
        "silent-night",
        "Silent Night",
        "Gruber",
        "carol",
        (6, 8),
        60.0,
        (
            """!p %98 [ F4:8. G4:16 F4:8 D4:4. | F4:8. G4:16 F4:8 D4:4. | C5:4 C5:8 A4:4. | Bb4:4 Bb4:8 F4:4.
            | !mp G4:4 G4:8 Bb4:8. A4:16 G4:8 | F4:8. G4:16 F4:8 D4:4. | G4:4 G4:8 Bb4:8. A4:16 G4:8
            | F4:8. G4:16 F4:8 D4:4. | !< C5:4 C5:8 Eb5:8. C5:16 A4:8 | Bb4:4. D5
            | !mf Bb4:8. F4:16 D4:8 !> F4:8. Eb4:16 C4:8
            | Bb3:2. | !p ]x2""",
            """!p %98 [ D4:8. Eb4:16 D4:8 Bb3:4. | D4:8. Eb4:16 D4:8 Bb3:4. | Eb4:4 Eb4:8 Eb4:4. | D4:4 D4:8 D4:4.
            | Eb4:4 Eb4:8 G4:8. F4:16 Eb4:8 | D4:8. Eb4:16 D4:8 Bb3:4. | Eb4:4 Eb4:8 G4:8. F4:16 Eb4:8
            | D4:8. Eb4:16 D4:8 Bb3:4. | Eb4:4 Eb4:8 A4:8. A4:16 Eb4:8 | D4:4. F4 | D4:8. D4:16 Bb3:8 A3:4.
            | Bb3:2. | ]x2""",
            "!pp %100 [ "
            + _figure(
                "$1:8 $2 $3 $4 $5 $6",
                """Bb2 F3 Bb3 D4 Bb3 F3 | Bb2 F3 Bb3 D4 Bb3 F3 | F2 C3 F3 A3 F3 C3 | Bb2 F3 Bb3 D4 Bb3 F3
                | Eb2 Bb2 Eb3 G3 Eb3 Bb2 | Bb2 F3 Bb3 D4 Bb3 F3 | Eb2 Bb2 Eb3 G3 Eb3 Bb2 | Bb2 F3 Bb3 D4 Bb3 F3
                | F2 C3 F3 A3 F3 C3 | Bb2 F3 Bb3 D4 Bb3 F3 | F2 D3 F3 F2 C3 F3 | Bb2 F3 Bb3 D4 Bb3 F3""",
            )
            + " | ]x2",
        ),
        pedal="half",
        tempos=((23, 52.0), (24, 46.0)),
    ),
    Tune(
        "blue-danube",
        "The Blue Danube, first waltz",
        "J. Strauss II",
        "waltz",
        (3, 4),
        168.0,
        (
            """!mp D4:4 | [ D4 F#4 A4 | A4:2 %60 <F#5 A5>:4 | <F#5 A5>' r <D5 F#5> | <D5 F#5>' r %95 D4 | D4 F#4 A4
            | A4:2 %60 <G5 A5>:4 | <G5 A5>' r <C#5 G5> | <C#5 G5>' r %95 C#4 | C#4 E4 B4 | B4:2 %60 <G5 B5>:4
            | <G5 B5>' r <C#5 G5> | <C#5 G5>' r %95 C#4 | C#4 E4 B4 | B4:2 %60 <F#5 B5>:4 | <F#5 B5>' r <D5 F#5>
            | <D5 F#5>' r %95 !mf D4 | D4 F#4 A4 | D5:2 %60 <A5 D6>:4 | <A5 D6>' r <F#5 A5> | <F#5 A5>' r %95 D4
            | D4 F#4 A4 | D5:2 %60 <B5 D6>:4 | <B5 D6>' r <G5 B5> | <G5 B5>' r %95 !< E4 | E4 G4 B4 | B4:2.~
            | B4:4 G#4 A4 | !f F#5:2.~ | F#5:4 D5 F#4 | !> F#4:2 E4:4 | B4:2 A4:4 | !mp D4:2 D4:4 | ]x2
            !mf <D4 F#4 A4 D5>:4'^ <D4 F#4 A4 D5>'^ r""",
            "!p r:4 | %70 [ "
            + _figure(
                "$1:4 <$2 $3> <$2 $3>",
                f"""{_DANUBE_BASS} | {_DANUBE_SEVENTH} | {_DANUBE_SEVENTH} | {_DANUBE_BASS} | A2 F#3 A3 | D3 F#3 A3
                | A2 F#3 A3 | E3 G3 B3 | B2 G3 B3 | E3 G3 B3 | B2 G3 B3 | A2 E3 G3 | C#3 E3 G3 | D3 F#3 A3 | A2 F#3 A3
                | B2 G3 B3 | A2 E3 G3 | D3 F#3 A3""",
            )
            + " | ]x2 !mf D2:4'^ <D2 A2 D3>'^ r",
        ),
        pedal="bar",
        pickup=Fraction(1, 4),
        tempos=((2, 176.0), (31, 160.0), (34, 180.0), (63, 150.0)),
    ),
    Tune(
        "moonlight",
        "Moonlight Sonata, opening",
        "Beethoven",
        "romantic",
        (4, 4),
        52.0,
        (
            """!p %100 [ r:1 | ]x4 r:2. G#4:8. G#4:16 | G#4:2. G#4:8. G#4:16 | !< G#4:2 A4 | !mp G#4 !> F#4:4 B4
            | !p E4:1 | <E4 G#4>""",
            """!pp %100 [ [ G#3:12 C#4 E4 ]x4 | ]x2 [ A3 C#4 E4 ]x2 [ A3 D4 F#4 ]x2
            | G#3 B#3 F#4 G#3 C#4 E4 G#3 C#4 D#4 F#3 B#3 D#4 | E3 G#3 C#4 [ G#3 C#4 E4 ]x3 | [ G#3 D#4 F#4 ]x4
            | !< [ G#3 C#4 E4 ]x2 [ A3 C#4 F#4 ]x2 | !p [ G#3 B3 E4 ]x2 [ A3 B3 D#4 ]x2 | !pp [ G#3 B3 E4 ]x4
            | <G#3 B3>:1""",
            """!pp %100 <C#2 C#3>:1 | <B1 B2> | <A1 A2>:2 <F#1 F#2> | <G#1 G#2> <G#1 G#2> | <C#2 G#2 C#3>:1
            | <B#1 G#2 B#2>
            | <C#2 C#3>:2 <F#1 F#2> | <B1 B2> <B1 B2> | <E2 E3>:1 | <E2 B2 E3>""",
        ),
        pedal="half",
        tempos=((9, 48.0), (10, 40.0)),
        roll=0.006,
    ),
    Tune(
        "korobeiniki",
        "Korobeiniki",
        "",
        "folk",
        (4, 4),
        128.0,
        (
            f"!mp {_KOROBEINIKI} | !mf {_up(_KOROBEINIKI, 1)} | !mp %70 {_KOROBEINIKI} | !f {_up(_KOROBEINIKI, 1)}"
            " | %90 <C#5 E5 G5 A5>:4'^ r <F5 A5 D6>:4'^ r",
            f"!p %70 {_KOROBEINIKI_BASS} | !mp {_KOROBEINIKI_BASS} | %50 !p {_KOROBEINIKI_BASS}"
            f" | !mf {_KOROBEINIKI_BASS} | %90 <A2 E3 G3>:4'^ r <D2 D3>:4'^ r",
        ),
        tempos=((9, 138.0), (17, 148.0), (21, 158.0), (25, 168.0), (29, 180.0)),
    ),
)
