"""The passages of a plan: stretches of a voice that one song plays without a break, and their notes."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from nemui_jax.data.pianoroll import GRID
from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.music.harmony import NO_CHORD, TRIADS
from nemui_jax.sampling.analysis import AnalyzedSong
from nemui_jax.sampling.lines import Role
from nemui_jax.sampling.plan import Plan

FARTHEST_MOVE = 2  # semitones to the nearest tone of a triad, at most
CLASHES = (1, 11, 13)  # semitones
LONG_CLASH_STEPS = 6  # shorter ones pass


class Passage(NamedTuple):
    """Units of the mix in which a voice of a song goes on from one unit to the next."""

    seat: int
    song: int
    voice: int
    first: int  # unit of the mix
    last: int  # the one after its last
    start: int  # step of the mix
    steps: int
    source: int  # step of the song
    shift: int


def passages(plan: Plan, songs: Sequence[AnalyzedSong]) -> Iterator[Passage]:
    """The passages of all seats."""
    joined = [goes_on(*where, plan.units) for where in zip(plan.source, plan.shift, strict=True)]
    for number, (seat, player) in enumerate(zip(plan.seats, plan.player, strict=True)):
        for song in range(len(songs)):
            voice = seat.voices[song]
            if voice is None:
                continue
            for first, last in unbroken(player == song, joined[song]):
                start, end = int(plan.units[first]), int(plan.units[last])
                shift = 0 if seat.role is Role.DRUMS else int(plan.shift[song, first])
                yield Passage(
                    number, song, voice, first, last, start, end - start, int(plan.source[song, first]), shift
                )


def goes_on(
    source: Int[np.ndarray, " unit"], shift: Int[np.ndarray, " unit"], units: Int[np.ndarray, " unit_and_end"]
) -> Bool[np.ndarray, " unit"]:
    """The units in which a song goes on from the unit before, transposed alike.

    `source` is the step of the song in each unit, `units` are their own first steps.
    """
    drift, joined = source - units[:-1], np.zeros(len(source), bool)
    joined[1:] = (drift[1:] == drift[:-1]) & (shift[1:] == shift[:-1])
    return joined


def unbroken(plays: Bool[np.ndarray, " unit"], joined: Bool[np.ndarray, " unit"]) -> Iterator[tuple[int, int]]:
    """The first unit, and the one after the last, of each stretch in which a song plays and goes on."""
    begins, ends = plays.copy(), plays.copy()
    begins[1:] &= ~(plays[:-1] & joined[1:])
    ends[:-1] &= ~(plays[1:] & joined[1:])
    return zip(np.flatnonzero(begins).tolist(), (np.flatnonzero(ends) + 1).tolist(), strict=True)


def take(passage: Passage, songs: Sequence[AnalyzedSong]) -> np.ndarray:
    """The GRID notes of a passage, on the steps of the mix; none sounds beyond its end."""
    notes = songs[passage.song].voices[passage.voice].notes
    return moved(notes, passage.source, passage.start, passage.steps, passage.shift)


def moved(notes: np.ndarray, source: int, start: int, steps: int, shift: int) -> np.ndarray:
    """GRID: the notes that begin in `steps` from `source` on, begun at `start` and transposed.

    None sounds beyond the end of these steps.
    """
    first, last = np.searchsorted(notes["step"], (source, source + steps))
    taken = notes[first:last].copy()
    taken["end"] = np.minimum(taken["end"], source + steps) + start - source
    taken["step"] += start - source
    taken["pitch"] += shift
    return taken


def lead_chords(plan: Plan, songs: Sequence[AnalyzedSong]) -> Int[np.ndarray, " beat"]:
    """The chord of each beat of a mix: that of the song that leads."""
    beats = np.arange(-(-int(plan.units[-1]) // STEPS_PER_BEAT)) * STEPS_PER_BEAT
    unit = np.clip(np.searchsorted(plan.units, beats, side="right") - 1, 0, len(plan.leader) - 1)
    found = np.full(len(beats), NO_CHORD)
    for number, song in enumerate(songs):
        beat = (plan.source[number, unit] + beats - plan.units[unit]) // STEPS_PER_BEAT
        leads = (plan.leader[unit] == number) & (beat >= 0)
        found[leads] = song.chords[np.minimum(beat, len(song.chords) - 1)][leads]
    return found


def fit_to_harmony(
    notes: np.ndarray, clashes: Bool[np.ndarray, " note"], chord: Int[np.ndarray, " beat"]
) -> np.ndarray:
    """GRID notes, those that clash with what others play moved to the nearest tone of the beat's chord.

    A note that is in the chord stays. Where two notes of one step would be on one pitch, one of them is left out.
    """
    of_beat = chord[np.minimum(notes["step"] // STEPS_PER_BEAT, len(chord) - 1)]
    inside = (of_beat == NO_CHORD) | (TRIADS[np.minimum(of_beat, NO_CHORD - 1), notes["pitch"] % 12] > 0)
    moves = clashes & ~inside
    if not moves.any():
        return notes
    notes = notes.copy()
    tones = TRIADS[of_beat[moves]]
    order = [0] + [sign * size for size in range(1, FARTHEST_MOVE + 1) for sign in (-1, 1)]
    classes = notes["pitch"][moves].astype(int)
    fits = np.stack([tones[np.arange(len(tones)), (classes + move) % 12] for move in order])
    notes["pitch"][moves] += np.array(order)[fits.argmax(0)].astype(np.int16)
    _, kept = np.unique(np.stack([notes["step"], notes["pitch"]]), axis=1, return_index=True)
    return notes[np.sort(kept)]


def clashing(notes: np.ndarray, sounding: Int[np.ndarray, "pitch step_and_one"]) -> Bool[np.ndarray, " note"]:
    """Which GRID notes clash with what others play: `sounding` is their `sounding_roll`.

    A note clashes where another sounds with it a minor second, a major seventh or a minor ninth away for half a beat.
    """
    last = sounding.shape[1] - 1
    start, end = np.minimum(notes["step"], last), np.minimum(notes["end"], last)
    found = np.zeros(len(notes), bool)
    for interval in CLASHES:
        for sign in (-1, 1):
            pitch = np.clip(notes["pitch"].astype(int) + sign * interval, 0, len(sounding) - 1)
            found |= sounding[pitch, end] - sounding[pitch, start] >= LONG_CLASH_STEPS
    return found


def sounding_roll(notes: np.ndarray, steps: int) -> Int[np.ndarray, "pitch step_and_one"]:
    """How long each pitch has sounded before each step, so that differences tell whether it sounds in a span."""
    roll = np.zeros((128, steps + 2), np.int32)
    pitch = np.clip(notes["pitch"].astype(int), 0, 127)
    np.add.at(roll, (pitch, notes["step"] + 1), 1)
    np.add.at(roll, (pitch, np.minimum(notes["end"], steps) + 1), -1)
    return np.cumsum(np.cumsum(roll, 1, dtype=np.int32), 1, dtype=np.int32)


def merged(found: Sequence[np.ndarray]) -> np.ndarray:
    """GRID notes in one, at most one a step and pitch; a note ends where the next on its pitch begins."""
    notes = np.concatenate([np.empty(0, GRID), *found], dtype=GRID)
    notes = notes[np.lexsort((-notes["velocity"].astype(int), notes["step"], notes["pitch"]))]
    same_pitch = notes["pitch"][1:] == notes["pitch"][:-1]
    kept = np.append(True, ~(same_pitch & (notes["step"][1:] == notes["step"][:-1])))[: len(notes)]
    notes = notes[kept]
    later = np.where(notes["pitch"][1:] == notes["pitch"][:-1], notes["step"][1:], np.iinfo(np.int32).max)
    notes["end"][:-1] = np.minimum(notes["end"][:-1], later)
    return notes[np.lexsort((notes["pitch"], notes["step"]))]
