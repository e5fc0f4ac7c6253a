"""Where in a song there are bars that fit what others play: a path of least cost through its units.

Nothing is composed here. A song has enough bars of its own for nearly any harmony, and a bar that its composer wrote,
looked up where it fits and left as it is, is better music than one whose notes were moved.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.sampling.analysis import PHRASE_UNITS, SLOT_STEPS, WITHIN_UNIT, AnalyzedSong

SHIFTS = np.arange(-2, 3)  # semitones by which a looked-up unit may be transposed
MAX_KEPT = 64  # groups of voices of songs of which places are kept
LEAST_ACTIVITY, MOST_ACTIVITY = 0.3, 2.0  # that is asked for, however few or many notes the leading song has


class Costs(NamedTuple):
    """What a path through a song costs, per unit of about a bar."""

    clash: float = 4.0  # for a semitone with what sounds already, all the time
    harmony: float = 3.0  # for pitch classes that are wholly unlike those of the song that leads
    texture: float = 2.0  # for onsets that are wholly unlike those they replace, in rhythm and register
    density: float = 0.5  # for e times as many notes as wanted, or as few
    jump: float = 2.0  # where a unit does not follow the last one
    course: float = 2.0  # less for a jump to where the song would be in its own order
    phrase: float = 0.3  # for a jump to another place in the phrase
    shift: float = 0.3  # for each semitone of transposition
    key: float = 0.6  # for a change of transposition


COSTS = Costs()


class Frame(NamedTuple):
    """What a song is looked up for: what sounds already in each unit of the mix, and how much is wanted."""

    sounds: Float[np.ndarray, "unit slot 12"]  # of the voices that have been chosen
    harmony: Float[np.ndarray, "unit slot 12"]  # of the whole song that leads
    replaced: Float[np.ndarray, "unit slot register"]  # onsets of the voices of the song that leads that do not sound
    activity: Float[np.ndarray, " unit"]  # notes that are wanted in the unit, over the mean
    slots: Int[np.ndarray, " unit"]  # the unit's length; what is beyond is silent


def windows(sounds: Float[np.ndarray, "slot value"], starts: Int[np.ndarray, " unit"], slots: int) -> np.ndarray:
    """The slots from each first step on: [unit, slot, value], zero before and after the song."""
    index = starts[:, None] // SLOT_STEPS + np.arange(slots)
    found = sounds[np.clip(index, 0, len(sounds) - 1)]
    found[(index >= len(sounds)) | (index < 0)] = 0
    return found


def sounding(
    song: AnalyzedSong,
    voices: Bool[np.ndarray, " voice"],
    starts: Int[np.ndarray, " unit"],
    slots: int,
    shifts: Int[np.ndarray, " unit"] | int = 0,
) -> Float[np.ndarray, "unit slot 12"]:
    """The pitch classes of some voices in the slots from each first step on, transposed."""
    found = windows(_sounds_of(song, voices.tobytes()), starts, slots)
    if not np.any(shifts):
        return found
    index = (np.arange(12) - np.reshape(shifts, (-1, 1, 1))) % 12
    return np.take_along_axis(found, index, 2)


def beginning(
    song: AnalyzedSong, voices: Bool[np.ndarray, " voice"], starts: Int[np.ndarray, " unit"], slots: int
) -> Float[np.ndarray, "unit slot register"]:
    """The onsets of some voices in the slots from each first step on."""
    return windows(_onsets_of(song, voices.tobytes()), starts, slots)


@lru_cache(MAX_KEPT)
def _sounds_of(song: AnalyzedSong, voices: bytes) -> Float[np.ndarray, "slot 12"]:
    """How many of some voices, given as bytes of booleans, have each pitch class in each slot."""
    return song.sounds[np.frombuffer(voices, bool)].sum(0)


@lru_cache(MAX_KEPT)
def _onsets_of(song: AnalyzedSong, voices: bytes) -> Float[np.ndarray, "slot register"]:
    """The onsets of some voices, given as bytes of booleans."""
    return song.onsets[np.frombuffer(voices, bool)].sum(0)


def used_together(
    used: Bool[np.ndarray, "voice unit"], units: Int[np.ndarray, " some"]
) -> Iterator[tuple[Bool[np.ndarray, " voice"], Int[np.ndarray, " _"]]]:
    """The sets of voices that are used in some units, each with the units in which it is."""
    found: dict[bytes, list[int]] = {}
    for unit, voices in zip(units.tolist(), used.T[units], strict=True):
        found.setdefault(voices.tobytes(), []).append(unit)
    for voices, same in found.items():
        yield np.frombuffer(voices, bool), np.array(same)


def whole_beats(steps: int) -> int:
    """The number of slots of so many steps, rounded up to whole beats."""
    return -(-steps // STEPS_PER_BEAT) * (STEPS_PER_BEAT // SLOT_STEPS)


def activity(
    song: AnalyzedSong, voices: Bool[np.ndarray, " voice"], starts: Int[np.ndarray, " unit"]
) -> Float[np.ndarray, " unit"]:
    """The notes of some voices in a unit from each of these steps on, over the mean where they play, within bounds."""
    counts, here = song.counts[voices].sum(0), song.count_from(starts)[voices].sum(0)
    usual = counts.sum() / max(np.count_nonzero(counts), 1)
    return np.clip(here / max(usual, 1), LEAST_ACTIVITY, MOST_ACTIVITY)


def look_up(
    song: AnalyzedSong,
    used: Bool[np.ndarray, "voice unit"],
    frame: Frame,
    course: Int[np.ndarray, " unit"],
    temperature: float = 0.0,
    rng: np.random.Generator | None = None,
    costs: Costs = COSTS,
) -> tuple[Int[np.ndarray, " unit"], Int[np.ndarray, " unit"]]:
    """The step of the song and the transposition for each unit of a mix in which the voices `used` are to sound.

    `course` are the steps where the song would be in its own order, to which it comes back where that fits.
    With a temperature costs are changed at random.
    """
    cost = place_costs(song, used, frame, costs)
    if temperature and rng is not None:
        cost += temperature * rng.gumbel(size=cost.shape).astype(np.float32)
    place, shift = _cheapest_path(cost, following(song), song.phase, _nearest(course, song.units), costs)
    return song.units[place], SHIFTS[shift]


def _nearest(steps: Int[np.ndarray, " unit"], places: Int[np.ndarray, " place"]) -> Int[np.ndarray, " unit"]:
    """The index of the place nearest to each step."""
    after = np.minimum(np.searchsorted(places, steps), len(places) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(steps - places[before] <= places[after] - steps, before, after)


def following(song: AnalyzedSong) -> Int[np.ndarray, " unit"]:
    """The unit that follows each one in a mix: the one that begins nearest to its end after the usual length."""
    units, end = song.units, song.units + song.unit_steps
    after = np.clip(np.searchsorted(units, end), 1, len(units) - 1)
    after -= end - units[after - 1] < units[after] - end
    after = np.maximum(after, np.arange(len(units)) + 1)
    return np.where((after >= len(units)) | (end > units[-1] + song.unit_steps // 2), -1, after)


def place_costs(
    song: AnalyzedSong, used: Bool[np.ndarray, "voice unit"], frame: Frame, costs: Costs
) -> Float[np.ndarray, "unit place shift"]:
    """The cost of each place and transposition in each unit, 0 where the song does not sound."""
    count, slots = frame.sounds.shape[:2]
    cost = np.zeros((len(SHIFTS), count, len(song.units)), np.float32)
    busy = (frame.slots[:, None] > np.arange(slots))[:, :, None]
    chroma = _chroma(song, slots)
    harmony = unit_length((frame.harmony * busy).reshape(count, -1, 4, 12).sum(2))
    beats = np.maximum(harmony.any(2).sum(1), 1)
    near = (np.roll(frame.sounds, 1, 2) + np.roll(frame.sounds, -1, 2)) * busy
    near = np.stack([np.roll(near, -shift, 2) for shift in SHIFTS]).reshape(len(SHIFTS), count, -1)
    harmony = harmony.reshape(count, -1)
    means = song.counts.mean(1)
    replaced = unit_length((frame.replaced * busy).reshape(count, -1))
    transposed = costs.shift * np.abs(SHIFTS)[:, None, None]
    for pattern, rows in used_together(used, np.flatnonzero(used.any(0))):
        voices, onsets = _places(song, pattern.tobytes(), slots)
        counts = song.counts[pattern].sum(0)
        wanted = frame.activity[rows] * means[pattern].sum()
        spread = np.abs(np.log((counts + 1) / (wanted[:, None] + 1)))
        unlike = 1 - replaced[rows] @ onsets.T
        clash = near[:, rows] @ voices.T / frame.slots[rows, None]
        like = harmony[rows] @ chroma.transpose(0, 2, 1) / beats[rows, None]
        same = costs.harmony + costs.density * spread + costs.texture * unlike
        cost[:, rows] = costs.clash * clash - costs.harmony * like + same + transposed
    return cost.transpose(1, 2, 0)


@lru_cache(MAX_KEPT)
def _chroma(song: AnalyzedSong, slots: int) -> Float[np.ndarray, "shift place value"]:
    """What sounds in each beat from each place on, in each transposition, at length 1."""
    sounds = sounding(song, song.pitched, song.units, slots).reshape(len(song.units), -1, 4, 12).sum(2)
    sounds = unit_length(sounds)
    return np.stack([np.roll(sounds, shift, 2).reshape(len(sounds), -1) for shift in SHIFTS])


@lru_cache(MAX_KEPT)
def _places(
    song: AnalyzedSong, pattern: bytes, slots: int
) -> tuple[Float[np.ndarray, "place value"], Float[np.ndarray, "place onset"]]:
    """What some voices, given as bytes of booleans, sound from each place on, and their onsets."""
    voices, count = np.frombuffer(pattern, bool), len(song.units)
    onsets = beginning(song, voices, song.units, slots).reshape(count, -1)
    return sounding(song, voices, song.units, slots).reshape(count, -1), unit_length(onsets)


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Vectors along the last axis scaled to length 1; those of length 0 stay as they are."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _cheapest_path(
    cost: Float[np.ndarray, "unit place shift"],
    after: Int[np.ndarray, " place"],
    phase: Int[np.ndarray, " place"],
    course: Int[np.ndarray, " unit"],
    costs: Costs,
) -> tuple[Int[np.ndarray, " unit"], Int[np.ndarray, " unit"]]:
    """Place and index of the shift in each unit, by dynamic programming."""
    by_shift = cost.transpose(0, 2, 1)  # [unit, shift, place]
    shifts = np.arange(by_shift.shape[1])
    before = np.full(len(phase), -1)  # the place that each one follows
    before[after[after >= 0]] = np.flatnonzero(after >= 0)
    first = before < 0
    inside = np.where(phase == WITHIN_UNIT, np.inf, 0)
    landing = [costs.phrase * (phase != number) + inside for number in range(PHRASE_UNITS)]
    total, came_from = by_shift[0] + inside, []
    for unit in range(1, len(cost)):
        best_place = total.argmin(1)
        lowest = total[shifts, best_place]
        overall = int(lowest.argmin())
        origin = np.where(lowest <= lowest[overall] + costs.key, shifts, overall)
        jump = np.minimum(lowest, lowest[overall] + costs.key) + costs.jump
        jumped = jump[:, None] + landing[unit % PHRASE_UNITS]
        jumped[:, course[unit]] = jump - costs.course
        stayed = total[:, before]
        stayed[:, first] = np.inf
        came_from.append((stayed <= jumped, best_place[origin], origin))
        total = np.minimum(stayed, jumped) + by_shift[unit]
    place, shift = np.divmod(int(total.T.argmin()), len(shifts))
    path = [(place, shift)]
    for stays, jumped_from, origin in came_from[::-1]:
        place, shift = (before[place], shift) if stays[shift, place] else (jumped_from[shift], origin[shift])
        path.append((place, shift))
    places, of_shifts = np.array(path[::-1]).T
    return places, of_shifts
