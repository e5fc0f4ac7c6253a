"""The parts of a mix: which instruments there are, on which channels, with which settings at each time."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.music.song import CONTROL, DRUM_CHANNEL, FIRST_VALUES, PROGRAM_CHANGE, Part, TempoMap
from nemui_jax.sampling.analysis import AnalyzedSong
from nemui_jax.sampling.arrange import part_controls
from nemui_jax.sampling.passages import Passage, merged
from nemui_jax.sampling.plan import Plan

MOST_PITCHED = 15  # channels beside that of the drums
MAX_PARTS = 512  # of which controls are kept
UNSET = -(2**15)  # no value of a controller
MANY_EVENTS = (6, 38, 98, 99, 100, 101)  # data entry and parameter numbers: bend ranges and the like, in order
Owner = tuple[int, int]  # a song and the index of its part


@dataclass
class Chair:
    """One instrument of a mix, with all that it plays."""

    owners: set[Owner]
    program: int
    channel: int
    name: str
    played: list[tuple[Passage, np.ndarray]] = field(default_factory=list)  # GRID notes

    @property
    def is_drums(self) -> bool:
        """Whether its pitches are drums."""
        return self.channel == DRUM_CHANNEL

    @property
    def heard(self) -> int:
        """How much is heard of it: the sum of its velocities."""
        return sum(int(notes["velocity"].sum()) for _, notes in self.played)


def seat_players(
    plan: Plan,
    songs: Sequence[AnalyzedSong],
    played: Sequence[tuple[Passage, np.ndarray]],
    instruments_of: Callable[[Passage], int | None],
) -> tuple[list[Chair], tuple[str, ...]]:
    """The instruments of a mix, and warnings about those that are left out.

    Parts that answer each other share an instrument if they have the same program. `instruments_of` may name a song
    whose instrument takes a passage instead of its own, where it has one for that voice. Where there are more than
    MOST_PITCHED instruments the least heard go to one they answer, or are left out.
    """
    group = _groups(plan, songs)
    chairs: dict[tuple, Chair] = {}
    for passage, notes in played:
        if not len(notes):
            continue
        owner = _owner(plan, songs, passage, instruments_of(passage))
        part = songs[owner[0]].song.parts[owner[1]].source
        key = (part.is_drums, part.program, 0 if part.is_drums else group[owner])
        if key not in chairs:
            chairs[key] = Chair(set(), part.program, part.channel, part.name)
        chairs[key].owners.add(owner)
        chairs[key].played.append((passage, notes))
    kept, warnings = _limited(chairs)
    return _with_channels(_one_kit(kept)), warnings


def _groups(plan: Plan, songs: Sequence[AnalyzedSong]) -> dict[Owner, int]:
    """A number for each part; parts of which voices answer each other have the same."""
    group = {(number, index): 0 for number, song in enumerate(songs) for index in range(len(song.song.parts))}
    group = {owner: index for index, owner in enumerate(group)}
    for seat in plan.seats:
        numbers = [
            group[number, songs[number].voices[voice].part]
            for number, voice in enumerate(seat.voices[: len(songs)])
            if voice is not None
        ]
        group = {owner: numbers[0] if number in numbers else number for owner, number in group.items()}
    return group


def _owner(plan: Plan, songs: Sequence[AnalyzedSong], passage: Passage, wanted: int | None) -> Owner:
    voice = None if wanted is None else plan.seats[passage.seat].voices[wanted]
    if wanted is None or voice is None:
        return passage.song, songs[passage.song].voices[passage.voice].part
    return wanted, songs[wanted].voices[voice].part


def _limited(chairs: Mapping[tuple, Chair]) -> tuple[list[Chair], tuple[str, ...]]:
    """All chairs, or MOST_PITCHED of them and the drums, and what became of the others."""
    pitched = sorted((key for key, chair in chairs.items() if not chair.is_drums), key=lambda key: chairs[key].heard)
    left_out = 0
    surplus = pitched[: max(len(pitched) - MOST_PITCHED, 0)]
    kept = {key: chair for key, chair in chairs.items() if key not in surplus}
    for key in surplus:
        partners = [other for other in kept if other[0] == key[0] and other[2] == key[2]]
        if partners:
            partner = kept[max(partners, key=lambda other: chairs[other].heard)]
            partner.played += chairs[key].played
        else:
            left_out += 1
    warnings = []
    if len(surplus) > left_out:
        warnings.append(f"{len(surplus) - left_out} of the least heard parts are played by another song's instrument")
    if left_out:
        warnings.append(f"{left_out} of the least heard parts are left out: there are {MOST_PITCHED} channels for them")
    return list(kept.values()), tuple(warnings)


def _one_kit(chairs: list[Chair]) -> list[Chair]:
    """The chairs, with all drums played on the kit that is heard most."""
    drums = sorted((chair for chair in chairs if chair.is_drums), key=lambda chair: -chair.heard)
    for other in drums[1:]:
        drums[0].owners |= other.owners
        drums[0].played += other.played
    return [chair for chair in chairs if not chair.is_drums] + drums[:1]


def _with_channels(chairs: list[Chair]) -> list[Chair]:
    """The chairs, each pitched one with a channel of its own: as in its song, if that is free."""
    taken: set[int] = set()
    free = [channel for channel in range(16) if channel != DRUM_CHANNEL]
    for chair in sorted(chairs, key=lambda chair: (chair.is_drums, -chair.heard)):
        if not chair.is_drums:
            if chair.channel in taken:
                chair.channel = next(channel for channel in free if channel not in taken)
            taken.add(chair.channel)
    return sorted(chairs, key=lambda chair: (chair.is_drums, chair.channel, chair.program))


class Reach(NamedTuple):
    """A stretch of the mix in which a chair has the settings of one part, from one place on."""

    owner: Owner
    start: int  # step of the mix
    end: int
    source: int  # step of the song


class Controls(NamedTuple):
    """The controls of a part, and where in its song they fall."""

    events: np.ndarray  # CONTROL, by time
    steps: Float[np.ndarray, " event"]
    numbers: list[int]  # of the controllers
    values: Int[np.ndarray, "event_and_end controller"]  # in force before each event; UNSET before a controller's first
    parameters: Int[np.ndarray, " _"]  # places of the events of MANY_EVENTS

    def in_force(self, count: int) -> dict[int, int]:
        """The value of each controller after the first `count` events."""
        values = self.values[count].tolist()
        return {number: value for number, value in zip(self.numbers, values, strict=True) if value != UNSET}


def controls(chair: Chair, songs: Sequence[AnalyzedSong], clock: TempoMap) -> np.ndarray:
    """CONTROL events: in each stretch the settings and curves of the part with the most notes in it.

    Where another part begins to play, what differs in it is set anew, before its first note.
    """
    in_force, parameters_in_force = dict(FIRST_VALUES), b""
    events: list[np.ndarray] = []
    of_owner = {owner: _controls_of(songs[owner[0]], owner[1]) for owner in chair.owners}
    moved = {number for found in of_owner.values() for number in found.numbers}
    for reach in _reaches(chair, songs):
        found = of_owner[reach.owner]
        count = int(np.searchsorted(found.steps, reach.source, side="right" if reach.start == 0 else "left"))
        wanted = {number: FIRST_VALUES[number] for number in moved if number in FIRST_VALUES} | found.in_force(count)
        time = float(clock.seconds_at(reach.start / STEPS_PER_BEAT))
        parameters = found.events[found.parameters[: np.searchsorted(found.parameters, count)]].copy()
        parameters["time"] = 0.0
        if len(parameters) and parameters.tobytes() != parameters_in_force:
            parameters_in_force = parameters.tobytes()
            parameters["time"] = time
            events.append(parameters)
        changed = [
            (time, number, value)
            for number, value in sorted(wanted.items())
            if number not in MANY_EVENTS and in_force.get(number) != value
        ]
        last = int(np.searchsorted(found.steps, reach.source + reach.end - reach.start))
        inside = found.events[count:last].copy()
        steps = found.steps[count:last] - reach.source + reach.start
        inside["time"] = np.maximum(clock.seconds_at(steps / STEPS_PER_BEAT), 0)
        events += [np.array(changed, CONTROL), inside]
        in_force |= wanted | found.in_force(max(last, count))
    array = np.concatenate([np.empty(0, CONTROL), *events], dtype=CONTROL)
    return array[np.argsort(array["time"], kind="stable")]


@lru_cache(MAX_PARTS)
def _controls_of(song: AnalyzedSong, part: int) -> Controls:
    events = part_controls(song.song.parts[part], song.song.clock)
    events = events[events["controller"] != PROGRAM_CHANGE]
    numbers = np.unique(events["controller"])
    values = np.full((len(events) + 1, len(numbers)), UNSET, np.int16)
    for column, number in enumerate(numbers):
        places = np.flatnonzero(events["controller"] == number)
        values[places[0] + 1 :, column] = np.repeat(events["value"][places], np.diff(np.append(places, len(events))))
    return Controls(
        events,
        song.song.clock.beats_at(events["time"]) * STEPS_PER_BEAT,
        numbers.tolist(),
        values,
        np.flatnonzero(np.isin(events["controller"], MANY_EVENTS)),
    )


def _reaches(chair: Chair, songs: Sequence[AnalyzedSong]) -> list[Reach]:
    """The stretches of a chair, in order, without gaps between those that have notes."""
    notes_of: dict[tuple[int, int], dict[tuple[Owner, int], int]] = {}
    for passage, notes in chair.played:
        part = songs[passage.song].voices[passage.voice].part
        key = (passage.start, passage.start + passage.steps)
        counts = notes_of.setdefault(key, {})
        place = ((passage.song, part), passage.source)
        counts[place] = counts.get(place, 0) + len(notes)
    edges = sorted({edge for span in notes_of for edge in span})
    found: list[Reach] = []
    for start, end in itertools.pairwise(edges):
        heard: dict[tuple[Owner, int], int] = {}
        for (first, last), counts in notes_of.items():
            if first <= start and end <= last:
                for (owner, source), count in counts.items():
                    if owner in chair.owners:
                        heard[owner, source + start - first] = heard.get((owner, source + start - first), 0) + count
        if not heard:
            continue
        (owner, source), _ = max(heard.items(), key=lambda item: item[1])
        last = found[-1] if found else None
        if last and last.owner == owner and last.end == start and last.source + last.end - last.start == source:
            found[-1] = last._replace(end=end)
        else:
            found.append(Reach(owner, start, end, source))
    return found


def to_part(
    chair: Chair, songs: Sequence[AnalyzedSong], clock: TempoMap, notes: Callable[[np.ndarray], np.ndarray]
) -> Part:
    """The chair as a part of a song; `notes` makes NOTE of GRID."""
    grid = merged([played for _, played in chair.played])
    return Part(notes(grid), chair.program, chair.channel, chair.name, controls(chair, songs, clock))
