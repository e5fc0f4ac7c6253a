"""What is played in a mix, and from where: the song of each voice in each unit, and the steps of songs they play."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from nemui_jax.sampling.analysis import SLOT_STEPS, AnalyzedSong
from nemui_jax.sampling.lines import Role
from nemui_jax.sampling.lookup import Frame, activity, beginning, look_up, sounding, used_together, whole_beats
from nemui_jax.sampling.seats import Seat, Weights, cast, seat_voices
from nemui_jax.sampling.timeline import Timeline


class Plan(NamedTuple):
    """What is played in each unit of a mix."""

    units: Int[np.ndarray, " unit_and_end"]  # first steps, and the end
    seats: tuple[Seat, ...]
    player: Int[np.ndarray, "seat unit"]  # the song, or SILENT
    leader: Int[np.ndarray, " unit"]  # the song whose harmony it is
    source: Int[np.ndarray, "song unit"]  # the step of each song from which it is played
    shift: Int[np.ndarray, "song unit"]  # its transposition

    def starting(self, unit: int, step: int) -> "Plan":
        """The plan from a unit on, with steps counted from `step`."""
        units, source, shift = self.units[unit:] - step, self.source[:, unit:], self.shift[:, unit:]
        return Plan(units, self.seats, self.player[:, unit:], self.leader[unit:], source, shift)


def make_plan(
    songs: Sequence[AnalyzedSong],
    reference: int,
    timeline: Timeline,
    weights: Weights,
    temperature: float = 0.0,
    seed: int = 0,
) -> Plan:
    """Who plays what from where.

    In each section one song leads: it plays its own units in order. The others are looked up one after the other, the
    heaviest first, each to fit what sounds already.
    """
    rng = np.random.default_rng(seed)
    seats = seat_voices(tuple(songs), reference)
    player, leader = cast(seats, songs, timeline, weights)
    _close(player, leader, seats, songs, timeline, weights)
    plan = Plan(timeline.units, seats, player, leader, timeline.source.copy(), np.zeros_like(timeline.source))
    order = np.argsort(-(weights.rhythm + weights.melody).sum(1), kind="stable")
    done: list[int] = []
    for song in order.tolist():
        _place_song(plan, songs, song, done, temperature, rng)
        done.append(song)
    return plan


def _close(
    player: Int[np.ndarray, "seat unit"],
    leader: Int[np.ndarray, " unit"],
    seats: Sequence[Seat],
    songs: Sequence[AnalyzedSong],
    timeline: Timeline,
    weights: Weights,
) -> None:
    """Where a mix ends as one of its songs does, that song has the last bar, and leads from the bar before.

    Of several such songs it is the heaviest. The last bar is that in which the song's last note begins.
    """
    ends = [
        weights.harmony[number, -1] * (source[-1] == song.units[-1])
        for number, (song, source) in enumerate(zip(songs, timeline.source, strict=True))
    ]
    closing = int(np.argmax(ends))
    if not ends[closing]:
        return
    rest = len(songs[closing].units) - 1 - songs[closing].last_unit
    last = max(len(leader) - 1 - rest, 0)
    leader[max(last - 1, 0) :] = closing
    for number, seat in enumerate(seats):
        voice = seat.voices[closing]
        if voice is not None and (weights.melody if seat.role is Role.MELODY else weights.rhythm)[closing, -1] > 0:
            player[number, last:] = closing


def voices_used(plan: Plan, songs: Sequence[AnalyzedSong], song: int) -> Bool[np.ndarray, "voice unit"]:
    """Which voices of a song sound in each unit."""
    used = np.zeros((len(songs[song].voices), plan.player.shape[1]), bool)
    for seat, player in zip(plan.seats, plan.player, strict=True):
        if (voice := seat.voices[song]) is not None:
            used[voice] |= player == song
    return used


def _place_song(
    plan: Plan,
    songs: Sequence[AnalyzedSong],
    song: int,
    done: Sequence[int],
    temperature: float,
    rng: np.random.Generator,
) -> None:
    """Looks up the units of one song wherever it sounds and does not lead; writes them into the plan."""
    used = voices_used(plan, songs, song)
    follows = used.any(0) & (plan.leader != song)
    if not follows.any():
        return
    frame = frame_of(plan, songs, song, done)
    source, shift = look_up(songs[song], used & follows, frame, plan.source[song], temperature, rng)
    plan.source[song] = np.where(follows, source, plan.source[song])
    plan.shift[song] = np.where(follows, shift, 0)


def frame_of(plan: Plan, songs: Sequence[AnalyzedSong], song: int, done: Sequence[int]) -> Frame:
    """What sounds already in each unit, before `song` is looked up: all of what leads, and the songs that are done."""
    count = len(plan.leader)
    lengths = -(-np.minimum(np.diff(plan.units), songs[song].unit_steps) // SLOT_STEPS)
    slots = whole_beats(int(lengths.max()) * SLOT_STEPS)
    sounds, whole = np.zeros((2, count, slots, 12), np.float32)
    replaced = np.zeros((count, slots, songs[song].onsets.shape[2]), np.float32)
    wanted = np.ones(count)
    for number, other in enumerate(songs):
        leads = plan.leader == number
        starts = plan.source[number]
        used = voices_used(plan, songs, number)
        settled = (leads | (number in done)) & (number != song)
        for pattern, rows in used_together(used, np.flatnonzero(settled)):
            sounds[rows] += sounding(other, pattern, starts[rows], slots, plan.shift[number, rows])
        for pattern, rows in used_together(used, np.flatnonzero(leads)):
            replaced[rows] = beginning(other, ~pattern, starts[rows], slots)
        rows = np.flatnonzero(leads)
        whole[rows] = sounding(other, other.pitched, starts[rows], slots)
        wanted[rows] = activity(other, other.pitched, starts[rows])
    return Frame(sounds, whole, replaced, wanted, lengths)
