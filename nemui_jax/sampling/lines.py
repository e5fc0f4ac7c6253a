"""Who plays what within a song: its parts by role, and melody, chords and bass within a piano's part."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from nemui_jax.data.grid import GridPart, GridSong
from nemui_jax.music.clock import STEPS_PER_BEAT


class Role(IntEnum):
    """What a voice does in a song, in the order in which songs share them out."""

    MELODY = 0
    COUNTER = 1  # other lines
    CHORDS = 2
    BASS = 3
    DRUMS = 4


class Voice(NamedTuple):
    """Notes that belong together: a part, or the melody, chords or bass of one that is played by two hands."""

    part: int  # index in the song
    role: Role
    notes: np.ndarray  # GRID
    pitch: float  # mean
    polyphony: float  # notes that sound at a time, on average, while any does


SPLIT_PITCHES = np.arange(43, 77)  # where the hands may divide
SPLIT_MOVE_COST = 0.25  # for each semitone that the hands' border moves from beat to beat
GAP_GAIN = 0.6  # for each semitone between the border and the nearest note
WIDEST_HAND = 14  # semitones
WIDE_HAND_COST = 0.3  # for each semitone more
UNEVEN_COST = 2.0  # for all notes in one hand
BASS_PROGRAMS = range(32, 40)
KEYBOARD_PROGRAMS = range(24)  # pianos, chromatic percussion, organs
WIDE_PART = 17  # semitones between the lowest and highest tenths of a keyboard's notes, from which two hands play it
SMALLEST_HAND = 0.15  # of a part's notes, for a hand to be a voice
LINE_POLYPHONY = 1.35  # below which a part is a line
BASS_PITCH = 50.0  # mean pitch below which a line is a bass


def find_voices(song: GridSong) -> tuple[Voice, ...]:
    """The voices of a song; every note of every part is in exactly one. All drum parts are one role."""
    pitched = [index for index, part in enumerate(song.parts) if not part.is_drums and len(part.notes)]
    melody = _melody_part(song, pitched)
    found = []
    for index, part in enumerate(song.parts):
        if part.is_drums and len(part.notes):
            found.append(Voice(index, Role.DRUMS, part.notes, 0.0, 1.0))
        elif index in pitched and (len(pitched) == 1 or (index != melody and is_two_hands(part))):
            found += _hands(index, part.notes, song.steps, with_melody=melody is None)
        elif index in pitched:
            found.append(_voice(index, Role.MELODY if index == melody else role_of(part), part.notes))
    return tuple(found)


def role_of(part: GridPart) -> Role:
    """The role of a part that is played by one hand, by its program, polyphony and register."""
    voice = _voice(0, Role.CHORDS, part.notes)
    if part.is_drums:
        return Role.DRUMS
    if part.source.program in BASS_PROGRAMS or (voice.polyphony < LINE_POLYPHONY and voice.pitch < BASS_PITCH):
        return Role.BASS
    return Role.COUNTER if voice.polyphony < LINE_POLYPHONY else Role.CHORDS


def is_two_hands(part: GridPart) -> bool:
    """Whether two hands at a keyboard play the part."""
    low, high = np.quantile(part.notes["pitch"], (0.1, 0.9))
    return part.source.program in KEYBOARD_PROGRAMS and bool(high - low >= WIDE_PART)


def _melody_part(song: GridSong, pitched: list[int]) -> int | None:
    """The part with the melody: of the lines that are no bass, the one that is heard most and highest.

    None where there is no such line, as in a piano piece, whose melody is within its part.
    """
    lines = [_voice(index, role_of(song.parts[index]), song.parts[index].notes) for index in pitched]
    lines = [line for line in lines if line.role is Role.COUNTER and len(pitched) > 1]
    return max(lines, key=lambda line: _prominence(line, song.steps)).part if lines else None


def _prominence(line: Voice, steps: int) -> float:
    """How much a line sounds like a melody: it sounds often, one note at a time, high and loud."""
    sounding = np.minimum(line.notes["end"] - line.notes["step"], 2 * STEPS_PER_BEAT).sum() / steps
    return 2 * sounding - 4 * (line.polyphony - 1) + line.pitch / 24 + line.notes["velocity"].mean() / 64


def _voice(part: int, role: Role, notes: np.ndarray) -> Voice:
    steps = int(notes["end"].max(initial=1)) + 1
    sounding = np.cumsum(
        np.bincount(notes["step"], minlength=steps) - np.bincount(notes["end"], minlength=steps)[:steps]
    )
    polyphony = float(sounding.sum() / max(np.count_nonzero(sounding), 1))
    return Voice(part, role, notes, float(notes["pitch"].mean()) if len(notes) else 0.0, polyphony)


def _hands(part: int, notes: np.ndarray, steps: int, with_melody: bool) -> list[Voice]:
    """The voices of a keyboard part: the lower hand is the bass, the upper one the chords, over them the melody."""
    upper = upper_hand(notes, steps)
    if not with_melody and not SMALLEST_HAND < upper.mean() < 1 - SMALLEST_HAND:
        return [_voice(part, Role.CHORDS, notes)]
    melody = upper & topmost(notes, steps) if with_melody else np.zeros(len(notes), bool)
    masks = ((Role.MELODY, melody), (Role.CHORDS, upper & ~melody), (Role.BASS, ~upper))
    return [_voice(part, role, notes[mask]) for role, mask in masks if mask.any()]


def topmost(notes: np.ndarray, steps: int) -> Bool[np.ndarray, " note"]:
    """The notes above which none sounds at their onset nor at their middle.

    A note over which others begin while it is held, such as the lowest of a broken chord, is no part of a line.
    """
    top = np.zeros(max(steps, int(notes["end"].max(initial=0))) + 1, np.int16)
    for note in notes[np.argsort(notes["pitch"], kind="stable")]:
        top[note["step"] : note["end"]] = note["pitch"]
    middle = (notes["step"] + notes["end"]) // 2
    return (notes["pitch"] >= top[notes["step"]]) & (notes["pitch"] >= top[middle])


def upper_hand(notes: np.ndarray, steps: int) -> Bool[np.ndarray, " note"]:
    """The notes of the upper hand: those above a border that runs through gaps between notes and moves little."""
    beats = steps // STEPS_PER_BEAT + 1
    first = np.clip(notes["step"] // STEPS_PER_BEAT, 0, beats - 1)
    last = np.clip((notes["end"] - 1) // STEPS_PER_BEAT, first, beats - 1)
    counts = np.zeros((beats + 1, 128))
    np.add.at(counts, (first, notes["pitch"]), 1)
    np.add.at(counts, (last + 1, notes["pitch"]), -1)
    border = SPLIT_PITCHES[_borders(_split_costs(np.cumsum(counts, 0)[:beats]))]
    return notes["pitch"] >= border[first]


def _split_costs(counts: Float[np.ndarray, "beat 128"]) -> Float[np.ndarray, "beat split"]:
    """The cost of each border between the hands in each beat, from the number of notes on each pitch."""
    pitch = np.arange(128)
    sounds = counts > 0.5
    highest_until = np.maximum.accumulate(np.where(sounds, pitch, -99), 1)
    lowest_from = np.minimum.accumulate(np.where(sounds, pitch, 999)[:, ::-1], 1)[:, ::-1]
    below, above = highest_until[:, SPLIT_PITCHES - 1], lowest_from[:, SPLIT_PITCHES]
    lowest, highest = lowest_from[:, :1], highest_until[:, -1:]
    gap = np.minimum(SPLIT_PITCHES - 0.5 - below, above - SPLIT_PITCHES + 0.5)
    spans = np.maximum(below - lowest - WIDEST_HAND, 0) * (below > 0) + np.maximum(highest - above - WIDEST_HAND, 0) * (
        above < 128
    )
    total = counts.sum(1, keepdims=True)
    uneven = np.abs(np.cumsum(counts, 1)[:, SPLIT_PITCHES - 1] / np.maximum(total, 1) - 0.5)
    cost = -GAP_GAIN * np.minimum(gap, 6) + WIDE_HAND_COST * spans + UNEVEN_COST * uneven
    return np.where(total > 0, cost, 0.0)


def _borders(cost: Float[np.ndarray, "beat split"]) -> Int[np.ndarray, " beat"]:
    """The path of least cost through the borders of all beats, as indices of SPLIT_PITCHES."""
    index = np.arange(cost.shape[1])
    move = SPLIT_MOVE_COST * np.abs(index[:, None] - index)
    total, came_from = cost[0], []
    for row in cost[1:]:
        through = total[:, None] + move
        came_from.append(through.argmin(0))
        total = through.min(0) + row
    path = [int(total.argmin())]
    for back in came_from[::-1]:
        path.append(int(back[path[-1]]))
    return np.array(path[::-1])
