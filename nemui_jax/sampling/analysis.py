"""What mixing knows of a song: its voices, its harmony, and the units in which it is taken apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int

from nemui_jax.data.grid import GridSong
from nemui_jax.music import harmony
from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.music.key import nearest_octave
from nemui_jax.sampling.lines import Role, Voice, find_voices

SLOT_STEPS = 3  # a quarter of a beat, the resolution at which harmonies are compared
REGISTER_SEMITONES = 5
LONGEST_UNIT_STEPS = 72  # a longer bar is taken apart
PHRASE_UNITS = 4
MAX_KEPT = 32  # songs as they were counted and divided for mixes
MINOR_TONIC = 12  # the minor triad on the common tonic
RELATIVE_KEY = 3  # semitones from the tonic of a minor key up to that of its relative major one
WITHIN_UNIT = -1  # the phase of a place that is not the beginning of a unit


@dataclass(frozen=True, eq=False)
class AnalyzedSong:
    """A song on the grid with what mixing needs of it; it does not depend on the songs it is mixed with.

    A unit is a bar, or a half or less of a bar of more than six beats. In a mix whose units are of another length there
    are places within units from which the song may go on, but not begin (`divided`). Two are equal if they are the same
    object, so that what follows from songs can be kept.
    """

    song: GridSong
    voices: tuple[Voice, ...]
    units: Int[np.ndarray, " unit"]  # the first step of each
    unit_steps: int  # the usual length of a unit; in a mix that of the mix's units
    phase: Int[np.ndarray, " unit"]  # a unit's number within its phrase of PHRASE_UNITS, WITHIN_UNIT for other places
    sounds: Float[np.ndarray, "voice slot 12"]  # 1 where a voice has a pitch class; 0 for drums
    onsets: Float[np.ndarray, "voice slot register"]  # notes that begin, by REGISTER_SEMITONES; 0 for drums
    chords: Int[np.ndarray, " beat"]  # as in `harmony.chords`
    loudness: float  # mean velocity

    @cached_property
    def upbeats(self) -> int:
        """The number of units before the first whole one: 1 where the song begins with an incomplete bar, else 0."""
        return int(np.argmax(self.phase == 0))

    @cached_property
    def counts(self) -> Int[np.ndarray, "voice unit"]:
        """The number of notes of each voice that begin in a window of the usual length at each unit's first step."""
        return self.count_from(self.units)

    def count_from(self, starts: Int[np.ndarray, " start"]) -> Int[np.ndarray, "voice start"]:
        """The number of notes of each voice that begin in a window of a unit's usual length at each of these steps."""
        begun, last = self._begun, self._begun.shape[1] - 1
        return begun[:, np.clip(starts + self.unit_steps, 0, last)] - begun[:, np.clip(starts, 0, last)]

    @cached_property
    def _begun(self) -> Int[np.ndarray, "voice step"]:
        """The number of notes of each voice that begin before each step."""
        steps = [voice.notes["step"] for voice in self.voices]
        begun = np.zeros((len(steps), max([int(one[-1]) for one in steps if len(one)], default=0) + 2), np.int64)
        for voice, begin in enumerate(steps):
            begun[voice, 1:] = np.cumsum(np.bincount(begin, minlength=begun.shape[1] - 1))
        return begun

    @cached_property
    def pitched(self) -> Bool[np.ndarray, " voice"]:
        """The voices that are not drums."""
        return np.array([voice.role is not Role.DRUMS for voice in self.voices], bool)

    @cached_property
    def is_minor(self) -> bool:
        """Whether the minor triad on the tonic is heard longer than the major one."""
        return bool((self.chords == MINOR_TONIC).sum() > (self.chords == 0).sum())

    @cached_property
    def last_unit(self) -> int:
        """The last unit in which a note begins."""
        last = max((int(part.notes["step"].max(initial=0)) for part in self.song.parts), default=0)
        return int(np.searchsorted(self.units, last, side="right")) - 1

    def loudness_from(self, starts: Int[np.ndarray, " start"], around: int = 1) -> Float[np.ndarray, " start"]:
        """The mean velocity of the notes in a unit from each of these steps on, and in `around` units on each side.

        That of the whole song where there are none.
        """
        begun, loud = self._velocities
        edges = (-around, 1 + around)
        first, last = (np.clip(starts + edge * self.unit_steps, 0, len(begun) - 1) for edge in edges)
        counts = begun[last] - begun[first]
        return np.where(counts > 0, (loud[last] - loud[first]) / np.maximum(counts, 1), self.loudness)

    @cached_property
    def _velocities(self) -> tuple[Int[np.ndarray, " step"], Float[np.ndarray, " step"]]:
        """The number of notes that begin before each step, and the sum of their velocities."""
        notes = np.concatenate([part.notes for part in self.song.parts])
        length = int(notes["step"].max(initial=0)) + 1
        counts = np.bincount(notes["step"], minlength=length)
        sums = np.bincount(notes["step"], notes["velocity"].astype(float), minlength=length)
        return np.append(0, np.cumsum(counts)), np.append(0.0, np.cumsum(sums))

    @property
    def beats_per_quarter(self) -> float:
        """Beats for each quarter note; 1 on a steady clock."""
        return self.song.beats_per_quarter

    @cached_property
    def quarter_seconds(self) -> float:
        """The mean length of a quarter note."""
        beats = self.song.steps / STEPS_PER_BEAT
        return float(self.song.clock.seconds_at(beats)) / beats * self.beats_per_quarter


def analyze(song: GridSong) -> AnalyzedSong:
    """Hears the voices, the harmony and the bars of a song. Takes milliseconds; keep the result."""
    voices = find_voices(song)
    slots = song.steps // SLOT_STEPS + 1
    sounds = np.zeros((len(voices), slots, 12), np.float32)
    onsets = np.zeros((len(voices), slots, 128 // REGISTER_SEMITONES + 2), np.float32)
    for index, voice in enumerate(voices):
        if voice.role is not Role.DRUMS:
            sounds[index] = _sounding(voice.notes, slots)
            onsets[index] = _beginning(voice.notes, slots)
    pitched = [part.notes for part in song.parts if not part.is_drums]
    notes = np.concatenate(pitched) if pitched else song.parts[0].notes[:0]
    units = _units(song)
    unit_steps, phase = _phases(units, song.steps)
    strong = np.unique(np.concatenate([song.bars, units])) // STEPS_PER_BEAT
    everything = [part.notes["velocity"] for part in song.parts]
    return AnalyzedSong(
        song=song,
        voices=voices,
        units=units,
        unit_steps=unit_steps,
        phase=phase,
        sounds=sounds,
        onsets=onsets,
        chords=harmony.chords(
            notes["step"] / STEPS_PER_BEAT,
            notes["end"] / STEPS_PER_BEAT,
            notes["pitch"].astype(np.int64),
            song.steps // STEPS_PER_BEAT + 1,
            np.unique(np.concatenate([strong, strong + 2])),
        ),
        loudness=float(np.concatenate(everything).mean()) if sum(map(len, everything)) else 64.0,
    )


def _units(song: GridSong) -> Int[np.ndarray, " unit"]:
    """The bars, long ones taken apart at beats; the first begins at the first step."""
    bars = np.unique(np.maximum(song.bars, 0)) if len(song.bars) else np.zeros(1, np.int64)
    ends = np.append(bars[1:], max(song.steps, bars[-1] + 1))
    return np.concatenate(
        [np.arange(start, end, _unit_length(int(end - start))) for start, end in zip(bars, ends, strict=True)]
    )


def _unit_length(steps: int) -> int:
    """The length of the units of a bar: the bar, or an equal part of it in whole beats, else four beats."""
    if steps <= LONGEST_UNIT_STEPS:
        return steps
    parts = (steps / pieces for pieces in range(2, 9) if steps % (pieces * STEPS_PER_BEAT) == 0)
    return int(next((part for part in parts if part <= LONGEST_UNIT_STEPS), 4 * STEPS_PER_BEAT))


def _phases(units: Int[np.ndarray, " unit"], steps: int) -> tuple[int, Int[np.ndarray, " unit"]]:
    """The usual length of a unit, and each unit's number in its phrase, counted from the first whole unit."""
    lengths = np.diff(np.append(units, steps))
    usual = int(np.bincount(lengths[:-1] if len(lengths) > 1 else lengths).argmax())
    upbeats = int(len(units) > 1 and lengths[0] < usual)
    return usual, (np.arange(len(units)) - upbeats) % PHRASE_UNITS


def _sounding(notes: np.ndarray, slots: int) -> Float[np.ndarray, "slot 12"]:
    first = np.minimum((notes["step"] + SLOT_STEPS // 2) // SLOT_STEPS, slots - 1)
    last = np.clip((notes["end"] + SLOT_STEPS // 2) // SLOT_STEPS, first + 1, slots)
    changes = np.zeros((slots + 1, 12), np.float32)
    np.add.at(changes, (first, notes["pitch"] % 12), 1)
    np.add.at(changes, (last, notes["pitch"] % 12), -1)
    return np.minimum(np.cumsum(changes, 0)[:-1], 1)


def _beginning(notes: np.ndarray, slots: int) -> Float[np.ndarray, "slot register"]:
    """The onsets in each slot and register; one between two registers counts for both in part."""
    slot = np.minimum((notes["step"] + SLOT_STEPS // 2) // SLOT_STEPS, slots - 1)
    register, rest = np.divmod(np.clip(notes["pitch"].astype(int), 0, 127), REGISTER_SEMITONES)
    onsets = np.zeros((slots, 128 // REGISTER_SEMITONES + 2), np.float32)
    np.add.at(onsets, (slot, register), 1 - rest / REGISTER_SEMITONES)
    np.add.at(onsets, (slot, register + 1), rest / REGISTER_SEMITONES)
    return onsets


@lru_cache(MAX_KEPT)
def transpose(analyzed: AnalyzedSong, semitones: int) -> AnalyzedSong:
    """The song moved in the common key; it sounds in its own key as before."""
    if not semitones:
        return analyzed

    def moved(notes: np.ndarray) -> np.ndarray:
        notes = notes.copy()
        notes["pitch"] += semitones
        return notes

    song, slots = analyzed.song, analyzed.onsets.shape[1]
    parts = tuple(part if part.is_drums else replace(part, notes=moved(part.notes)) for part in song.parts)
    voices = tuple(
        voice._replace(notes=moved(voice.notes), pitch=voice.pitch + semitones) if pitched else voice
        for voice, pitched in zip(analyzed.voices, analyzed.pitched, strict=True)
    )
    rolls = [
        _beginning(voice.notes, slots) if pitched else onsets
        for voice, pitched, onsets in zip(voices, analyzed.pitched, analyzed.onsets, strict=True)
    ]
    mode, root = np.divmod(analyzed.chords, 12)
    return replace(
        analyzed,
        song=replace(song, parts=parts, shift=song.shift + semitones),
        voices=voices,
        sounds=np.roll(analyzed.sounds, semitones, 2),
        onsets=np.stack(rolls) if rolls else analyzed.onsets,
        chords=np.where(analyzed.chords == harmony.NO_CHORD, harmony.NO_CHORD, 12 * mode + (root + semitones) % 12),
    )


def in_common_scale(songs: Sequence[AnalyzedSong], reference: AnalyzedSong, farthest: int = 6) -> list[AnalyzedSong]:
    """The songs on the scale of a reference song, in the octave of the common key or, if that is more than `farthest`
    semitones from a song's own, in the nearest one.

    A minor song meets a major one in its relative key: A minor in C major.
    """
    found = []
    for song in songs:
        shift = song.song.shift + RELATIVE_KEY * (int(reference.is_minor) - int(song.is_minor))
        if abs(shift - reference.song.shift) > farthest:
            shift = nearest_octave(shift, reference.song.shift)
        found.append(transpose(song, shift - song.song.shift))
    return found


@lru_cache(MAX_KEPT)
def stretch(analyzed: AnalyzedSong, factor: int) -> AnalyzedSong:
    """The song counted in beats that are `factor` times as short, so that each of its beats becomes `factor` beats."""
    if factor == 1:
        return analyzed

    def longer(notes: np.ndarray) -> np.ndarray:
        notes = notes.copy()
        for name in ("step", "end", "timing"):
            notes[name] *= factor
        return notes

    song = analyzed.song
    parts = tuple(replace(part, notes=longer(part.notes)) for part in song.parts)
    return replace(
        analyzed,
        song=replace(
            song,
            parts=parts,
            steps=song.steps * factor,
            clock=song.clock.counted(float(factor)),
            beats_per_quarter=song.beats_per_quarter * factor,
            bars=song.bars * factor,
        ),
        voices=tuple(voice._replace(notes=longer(voice.notes)) for voice in analyzed.voices),
        units=analyzed.units * factor,
        unit_steps=analyzed.unit_steps * factor,
        sounds=np.repeat(analyzed.sounds, factor, 1),
        onsets=_spaced(analyzed.onsets, factor),
        chords=np.repeat(analyzed.chords, factor),
    )


@lru_cache(MAX_KEPT)
def divided(analyzed: AnalyzedSong, unit_steps: int) -> AnalyzedSong:
    """The song for a mix whose units have another length: it goes on where it stopped, also in the middle of its bars.

    Its units are divided so finely that what follows on any of them after `unit_steps` is one too. Jumps lead to the
    beginning of its own bars only.
    """
    usual = int(np.bincount(np.diff(analyzed.units)).argmax()) if len(analyzed.units) > 1 else analyzed.unit_steps
    hop = max(math.gcd(unit_steps, usual), STEPS_PER_BEAT)
    ends = np.append(analyzed.units[1:], max(analyzed.song.steps, analyzed.units[-1] + 1))
    places = [np.arange(start, end, hop) for start, end in zip(analyzed.units, ends, strict=True)]
    phase = [
        np.append(first, np.full(len(found) - 1, WITHIN_UNIT))
        for first, found in zip(analyzed.phase, places, strict=True)
    ]
    return replace(
        analyzed, units=np.concatenate(places), phase=np.concatenate(phase).astype(np.int64), unit_steps=unit_steps
    )


def _spaced(onsets: Float[np.ndarray, "voice slot register"], factor: int) -> Float[np.ndarray, "voice more register"]:
    """The onsets on every `factor`-th slot."""
    spaced = np.zeros((onsets.shape[0], onsets.shape[1] * factor, onsets.shape[2]), np.float32)
    spaced[:, ::factor] = onsets
    return spaced
