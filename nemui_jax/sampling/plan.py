"""Who plays what in a mix, and from where: the song of each voice in each phrase, and the units of songs they play."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.sampling.analysis import SLOT_STEPS, AnalyzedSong
from nemui_jax.sampling.lines import Role, Voice
from nemui_jax.sampling.lookup import Frame, look_up, windows

PHRASE_BEATS = 16  # for which a voice stays with a song
SECTION_PHRASES = 4  # for which a song is the first to be given voices
UNLIKE_VOICES = 4.0  # cost from which voices of two songs are not the same voice
SILENT = -(10**6)  # a song's step where it has nothing to play; no song's player either


class Seat(NamedTuple):
    """A voice of a mix: the voices of the songs that take turns in it."""

    role: Role
    voices: tuple[int | None, ...]  # of each song
    share: float  # of all pitched notes of a song, added up over songs; 0 for drums


class Plan(NamedTuple):
    """What is played in each unit of a mix."""

    units: Int[np.ndarray, " unit_and_end"]  # first steps, and the end
    seats: tuple[Seat, ...]
    player: Int[np.ndarray, "seat unit"]  # the song, or SILENT
    leader: Int[np.ndarray, " unit"]  # the song whose harmony it is
    source: Int[np.ndarray, "song unit"]  # the step of each song from which it is played, or SILENT
    shift: Int[np.ndarray, "song unit"]  # its transposition


def voice_distance(first: Voice, second: Voice) -> float:
    """How unlike two voices are, by role, register, polyphony and number of notes."""
    if (first.role is Role.DRUMS) != (second.role is Role.DRUMS):
        return 100.0
    return float(
        1.5 * abs(first.role - second.role)
        + abs(first.pitch - second.pitch) / 12
        + abs(np.log(first.polyphony / second.polyphony))
        + 0.5 * abs(np.log(max(len(first.notes), 1) / max(len(second.notes), 1)))
    )


def seat_voices(songs: Sequence[AnalyzedSong], reference: int) -> tuple[Seat, ...]:
    """The voices of songs that answer each other, by optimal assignment to the reference song's, ordered by role."""
    members: list[dict[int, int]] = [{reference: index} for index in range(len(songs[reference].voices))]
    for number, song in enumerate(songs):
        if number == reference or not song.voices:
            continue
        if song is songs[reference]:
            for index, seat in enumerate(members[: len(song.voices)]):
                seat[number] = index
            continue
        cost = np.array([[_distance(songs, seat, voice) for voice in song.voices] for seat in members]).reshape(
            len(members), -1
        )
        rows, columns = linear_sum_assignment(np.minimum(cost, UNLIKE_VOICES))
        paired = {column: row for row, column in zip(rows, columns, strict=True) if cost[row, column] < UNLIKE_VOICES}
        for column in range(len(song.voices)):
            if column in paired:
                members[paired[column]][number] = column
            else:
                members.append({number: column})
    return _ordered(songs, members)


def _distance(songs: Sequence[AnalyzedSong], seat: dict[int, int], voice: Voice) -> float:
    return float(np.mean([voice_distance(songs[song].voices[index], voice) for song, index in seat.items()]))


def _ordered(songs: Sequence[AnalyzedSong], members: Sequence[dict[int, int]]) -> tuple[Seat, ...]:
    seats = []
    for found in members:
        voices = [songs[song].voices[index] for song, index in found.items()]
        share = sum(_share(songs[song], index) for song, index in found.items())
        role = min(voice.role for voice in voices)
        order = (role, -float(np.mean([voice.pitch for voice in voices])))
        seats.append((order, Seat(role, tuple(found.get(song) for song in range(len(songs))), float(share))))
    return tuple(seat for _, seat in sorted(seats, key=lambda pair: pair[0]))


def _share(song: AnalyzedSong, voice: int) -> float:
    """The share of a voice of a song's pitched notes."""
    total = sum(len(one.notes) for one in song.voices if one.role is not Role.DRUMS)
    return 0.0 if song.voices[voice].role is Role.DRUMS else len(song.voices[voice].notes) / max(total, 1)


def spread(count: int) -> Float[np.ndarray, " place"]:
    """Numbers in [0, 1) of which every few in a row are evenly spread (van der Corput's): 0, 1/2, 1/4, 3/4, 1/8 ..."""
    index, numbers, half = np.arange(count), np.zeros(count), 0.5
    while index.any():
        numbers += half * (index % 2)
        index, half = index // 2, half / 2
    return numbers


def song_at(
    point: Float[np.ndarray, "*seat unit"], weights: Float[np.ndarray, "song unit"], first: Int[np.ndarray, " unit"]
) -> Int[np.ndarray, "*seat unit"]:
    """The song at each point from 0 to 1 where the songs lie in a row, as wide as their weights, from `first` on.

    As its weight grows a song gains points and loses none. A song of weight 0 has none.
    """
    order = (first + np.arange(len(weights))[:, None]) % len(weights)
    until = np.cumsum(np.take_along_axis(weights, order, 0) / np.maximum(weights.sum(0), 1e-9), 0)
    place = (point[..., None, :] >= until - 1e-9).sum(-2)
    last = len(weights) - 1 - (np.take_along_axis(weights, order, 0)[::-1] > 0).argmax(0)
    return np.take_along_axis(order, np.minimum(place, last).reshape(-1, len(first)), 0).reshape(place.shape)


def points(shares: Float[np.ndarray, " seat"], within: Float[np.ndarray, " unit"]) -> Float[np.ndarray, "seat unit"]:
    """Where each seat lies, from 0 to 1: the seats are in a row, each as wide as its share.

    `within` is where the point is within its width.
    """
    width = shares / max(shares.sum(), 1e-9)
    return (np.cumsum(width) - width)[:, None] + width[:, None] * within


class Weights(NamedTuple):
    """The songs' weights in each unit, for each factor that decides who plays what."""

    melody: Float[np.ndarray, "song unit"]
    rhythm: Float[np.ndarray, "song unit"]  # of all that accompanies
    harmony: Float[np.ndarray, "song unit"]  # of who leads


def timeline(song: AnalyzedSong, count: int) -> Int[np.ndarray, " unit_and_end"]:
    """The first steps of so many units of a song that starts again where it ends, and the end."""
    lengths = np.append(np.diff(song.units), song.unit_steps)
    return np.concatenate([[0], np.cumsum(lengths[_again(song, count)])])


def _again(song: AnalyzedSong, count: int) -> Int[np.ndarray, " unit"]:
    """So many units of a song, which goes on with its first whole one where it ends."""
    units = np.arange(len(song.units))
    whole = np.resize(units[song.upbeats :], max(count - song.upbeats, 0))
    return np.concatenate([units[: song.upbeats], whole])[:count]


def steps_in_order(
    song: AnalyzedSong, reference: AnalyzedSong, units: Int[np.ndarray, " unit_and_end"]
) -> Int[np.ndarray, " unit"]:
    """The step of a song in each unit of a mix where it plays from its beginning, its first whole bar on the mix's.

    It goes on without a break, whatever its own bars are, and starts again where it ends. What the mix has before its
    first whole bar may be before the song's beginning, at a negative step.
    """
    if song is reference:
        return song.units[_again(song, len(units) - 1)]
    first = song.units[song.upbeats]
    late = units[:-1] - reference.units[reference.upbeats]
    begins = np.searchsorted(late, np.arange(0, late[-1] + 1, max(song.song.steps - first, 1)))
    return first + late - late[begins[np.maximum(np.searchsorted(begins, np.arange(len(late)), side="right") - 1, 0)]]


def phrase_of_units(units: Int[np.ndarray, " unit_and_end"], reference: AnalyzedSong) -> Int[np.ndarray, " unit"]:
    """The number of the phrase of each unit: 2, 4 or 8 units, some PHRASE_BEATS, from the first whole bar on."""
    length = 2 ** max(round(np.log2(PHRASE_BEATS * STEPS_PER_BEAT / reference.unit_steps)), 0)
    return np.maximum(np.arange(len(units) - 1) - reference.upbeats, 0) // length


def cast(
    seats: Sequence[Seat], phrase: Int[np.ndarray, " unit"], weights: Weights, reference: int, originals: int
) -> tuple[Int[np.ndarray, "seat unit"], Int[np.ndarray, " unit"]]:
    """The song of each seat in each unit, and the song that leads.

    The songs take turns, for a section each, in being the first to be given seats, and the melody is given first. The
    weights at which a seat passes to the next song are others in each round of turns, so that over a piece each song
    has its weight of the notes, and weights that change a little change a little.
    """
    songs, section = len(weights.melody), phrase // SECTION_PHRASES
    first = (reference + section) % originals
    is_melody = np.array([seat.role is Role.MELODY for seat in seats], bool)
    shares = np.array([seat.share for seat in seats])
    within = spread(int(section[-1]) // originals + 2)[1 + section // originals]
    lead_point = (1 + within) / (2 * originals)
    of_melody = song_at(lead_point, weights.melody, first)
    leader = song_at(lead_point, weights.harmony[:originals], first)
    if np.array_equal(weights.melody, weights.rhythm):
        player = song_at(points(shares, within), weights.melody, first)
    else:
        player = np.empty((len(seats), len(phrase)), np.int64)
        for mask, chosen in ((is_melody, weights.melody), (~is_melody, weights.rhythm)):
            player[mask] = song_at(points(shares[mask], within), chosen, first)
    drums = np.array([seat.role is Role.DRUMS for seat in seats], bool)
    player[drums] = song_at(np.full(len(phrase), 0.5), weights.rhythm, first)
    has = np.array([[voice is not None for voice in seat.voices] for seat in seats], bool).reshape(-1, songs)
    player = np.where(np.take_along_axis(has, player, 1), player, SILENT)
    rests = (player == SILENT).all(0)  # where all seats are given to songs without such a voice, the melody's plays
    return np.where(rests & has[:, of_melody], of_melody, player), leader


def make_plan(
    songs: Sequence[AnalyzedSong],
    reference: int,
    units: Int[np.ndarray, " unit_and_end"],
    phrase: Int[np.ndarray, " unit"],
    weights: Weights,
    originals: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> Plan:
    """Who plays what from where. Songs from number `originals` on are copies, of which other places are looked up.

    In each phrase one song leads: it plays its own units in order. The others are looked up one after the other, the
    heaviest first, each to fit what sounds already.
    """
    rng = np.random.default_rng(seed)
    seats = seat_voices(songs, reference)
    player, leader = cast(seats, phrase, weights, reference, originals)
    source = np.stack([steps_in_order(song, songs[reference], units) for song in songs])
    plan = Plan(units, seats, player, leader, source, np.zeros_like(source))
    order = np.argsort(-(weights.rhythm + weights.melody).sum(1), kind="stable")
    done: list[int] = []
    for song in order.tolist():
        _place_song(plan, songs, song, done, song >= originals, temperature, rng)
        done.append(song)
    return plan


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
    is_copy: bool,
    temperature: float,
    rng: np.random.Generator,
) -> None:
    """Looks up the units of one song wherever it sounds and does not lead; writes them into the plan."""
    used = voices_used(plan, songs, song)
    follows = used.any(0) & ((plan.leader != song) | is_copy)
    if not follows.any():
        return
    frame = frame_of(plan, songs, song, done)
    forbidden = None
    if is_copy:
        forbidden = plan.source[song][:, None] == songs[song].units
    source, shift = look_up(songs[song], used & follows, frame, forbidden, temperature, rng)
    plan.source[song] = np.where(follows, source, plan.source[song])
    plan.shift[song] = np.where(follows, shift, 0)


def frame_of(plan: Plan, songs: Sequence[AnalyzedSong], song: int, done: Sequence[int]) -> Frame:
    """What sounds already in each unit, before `song` is looked up: all of what leads, and the songs that are done."""
    count = len(plan.leader)
    lengths = -(-np.diff(plan.units) // SLOT_STEPS)
    slots = int(-(-lengths.max() // 4) * 4)
    sounds, whole = np.zeros((2, count, slots, 12), np.float32)
    replaced = np.zeros((count, slots, songs[song].onsets.shape[2]), np.float32)
    activity = np.ones(count)
    for number, other in enumerate(songs):
        leads = plan.leader == number
        starts = plan.source[number]
        used = voices_used(plan, songs, number)
        settled = (leads | (number in done)) & (number != song)
        for pattern in np.unique(used[:, settled], axis=1).T:
            rows = np.flatnonzero((used == pattern[:, None]).all(0) & settled)
            heard = windows(other.sounds[pattern].sum(0), starts[rows], slots)
            sounds[rows] += _transposed(heard, plan.shift[number, rows])
        for pattern in np.unique(used[:, leads], axis=1).T:
            rows = np.flatnonzero((used == pattern[:, None]).all(0) & leads)
            replaced[rows] = windows(other.onsets[~pattern].sum(0), starts[rows], slots)
        rows = np.flatnonzero(leads)
        whole[rows] = windows(other.sounds[other.pitched].sum(0), starts[rows], slots)
        counts = other.counts[other.pitched].sum(0)
        here = other.count_from(starts[rows])[other.pitched].sum(0)
        activity[rows] = np.clip(here / max(counts.mean(), 1e-9), 0.3, 2.0)
    return Frame(sounds, whole, replaced, activity, lengths)


def _transposed(sounds: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    index = (np.arange(12) - shifts[:, None]) % 12
    return np.take_along_axis(sounds, index[:, None, :], 2)
