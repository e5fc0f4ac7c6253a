"""The notation of the built-in tunes: a voice is text, made of tokens between spaces.

    !mf %80 C4:8 D4 <E4 G4>:2 r:4 | [ C4:12 E4 G4 ]x4 | !< F#4:2~ F#4:8 Bb3 A3:4' | !f C4:1^ |

- `C4:8` is middle C, an eighth long; a duration holds until the next one. `4.` is dotted, `4..` twice dotted,
  `12` the eighth of a triplet (a twelfth of a whole note). `r` rests, `<C4 E4>` is a chord, `#` and `b` alter.
- After the duration `~` ties to the same pitches in the next chord, `'` is staccato, `^` accents.
- Also after the duration, `/` slides up to the pitch from a whole tone below, `\\` falls off by a whole tone, `v` is a
  vibrato, `<` and `>` swell and fade. They act on every note that the part plays at the time, and last no longer than
  the chord they are written on: `D5:8/~ D5:2v` is one note that slides for a sixteenth and later vibrates.
- `!p` (ppp to fff) is a dynamic; `!<` and `!>` are hairpins, from the dynamic in force to the next one.
- `%80` lets notes sound for 80 % of their length from here on (95 at the start).
- `[ ... ]xN` repeats what is inside, bar lines included, and may be nested.
- `|` ends a bar, whose length is verified.

A drum kit's voice has names of drums instead of pitches (DRUMS lists them): `<kick hat>:8 hat <snare hat> open_hat`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np

DRUMS = {  # as General MIDI numbers them
    "kick": 36,
    "stick": 37,  # across the rim of the snare
    "snare": 38,
    "clap": 39,
    "hat": 42,
    "pedal_hat": 44,
    "open_hat": 46,
    "tom_low": 45,
    "tom_mid": 47,
    "tom_high": 50,
    "crash": 49,
    "ride": 51,
    "ride_bell": 53,
    "splash": 55,
    "tambourine": 54,
    "cowbell": 56,
    "bongo_high": 60,
    "bongo_low": 61,
    "conga_mute": 62,
    "conga_high": 63,
    "conga_low": 64,
    "shaker": 70,
    "guiro": 73,
    "claves": 75,
    "triangle": 81,
}
_LEVELS = {"ppp": 24, "pp": 34, "p": 45, "mp": 56, "mf": 67, "f": 81, "ff": 96, "fff": 110}
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ACCENT = 14  # what `^` adds to the velocity
_STACCATO = 0.45
_PITCH = r"[A-G][#b]?\d"
_NAME = rf"(?:{_PITCH}|[a-z_]{{2,}})"
_PHRASE = re.compile(r"\{(\w+)(?:\((\w+)\)|([+-]\d))?\}")
_TOKEN = re.compile(
    rf"(?P<bar>\|)|!(?P<mark>[pmf]+|<|>)|%(?P<hold>\d+)|(?P<open>\[)|\]x(?P<times>\d+)"
    rf"|(?P<chord>r|{_NAME}|<{_NAME}(?: {_NAME})*>)(?::(?P<denominator>\d+)(?P<dots>\.*))?(?P<signs>[~'^/\\v<>]*)"
)


class Event(NamedTuple):
    """A note of a voice. Places and lengths are in whole notes, from the start."""

    start: Fraction
    length: Fraction
    pitch: int
    level: float  # velocity before the expression
    hold: float  # how much of its length it sounds
    rank: int  # place in its chord, from the bottom
    top: bool  # of its chord


class Chord(NamedTuple):
    """A chord or rest as it is written, with its signs; a tied note goes through several."""

    start: Fraction
    length: Fraction
    signs: str


class Voice(NamedTuple):
    """What `parse_voice` reads."""

    notes: list[Event]
    chords: list[Chord]
    length: Fraction


def insert_phrases(text: str, phrases: Mapping[str, str]) -> str:
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


def parse_voice(text: str, meter: tuple[int, int], pickup: Fraction, where: str, drums: bool = False) -> Voice:
    """The notes of a voice, with its phrases written out. ValueError names `where` and the bar."""
    start, bar_start, length, hold = Fraction(0), Fraction(0), Fraction(1, 4), 0.95
    bar = 0 if pickup else 1
    voice = Voice([], [], start)
    tied: dict[int, int] = {}  # pitch to index in the notes
    marks: list[tuple[Fraction, int, str]] = []  # place, bar, mark

    def fail(reason: str, at: int | None = None) -> ValueError:
        return ValueError(f"{where}, bar {bar if at is None else at}: {reason}")

    def check_bar() -> None:
        whole = Fraction(*meter) if bar else pickup
        if start - bar_start != whole:
            raise fail(f"lasts {start - bar_start} of a whole note, expected {whole}")

    for token in _expand(_tokens(text, fail), fail):
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
            pitches = sorted(_pitch(name, drums, fail) for name in re.findall(_NAME, token["chord"]))
            blank = Event(start, length, 0, 0, hold, 0, False)
            tied = _add_chord(voice.notes, tied, pitches, token["signs"], blank, fail)
            voice.chords.append(Chord(start, length, token["signs"]))
            start += length
    if tied:
        raise fail("a tie leads to no note of its pitch")
    if start != bar_start:
        check_bar()
    levels = _dynamics(marks, fail)
    return Voice([note._replace(level=note.level + levels(note.start)) for note in voice.notes], voice.chords, start)


def _duration(token: re.Match, fail: Callable[..., ValueError]) -> Fraction:
    if not int(token["denominator"]):
        raise fail("no duration 0")
    return Fraction(1, int(token["denominator"])) * (2 - Fraction(1, 2 ** len(token["dots"])))


def _add_chord(
    notes: list[Event],
    tied: dict[int, int],
    pitches: list[int],
    signs: str,
    blank: Event,
    fail: Callable[..., ValueError],
) -> dict[int, int]:
    """Adds a chord's notes to `notes`, or lengthens those tied to it; returns the tied notes' indices by pitch."""
    if tied and not tied.keys() & set(pitches):
        raise fail("a tie leads to no note of its pitch")
    accent = _ACCENT if "^" in signs else 0
    hold = _STACCATO if "'" in signs else blank.hold
    held = {}
    for rank, pitch in enumerate(pitches):
        index = tied.get(pitch)
        if index is None:
            index = len(notes)
            top = pitch == pitches[-1]
            notes.append(blank._replace(pitch=pitch, level=accent, hold=hold, rank=rank, top=top))
        else:
            notes[index] = notes[index]._replace(length=blank.start + blank.length - notes[index].start)
        if "~" in signs:
            held[pitch] = index
    return held


def _pitch(name: str, drums: bool, fail: Callable[..., ValueError]) -> int:
    if drums:
        if name not in DRUMS:
            raise fail(f"no drum {name!r}; there are {', '.join(DRUMS)}")
        return DRUMS[name]
    if name[0] not in _STEPS:
        raise fail(f"{name!r} is no pitch; names of drums are for the part named drums")
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
