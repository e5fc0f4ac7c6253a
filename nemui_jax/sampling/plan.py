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
SECTION_PHRASES = 4  # for which a song keeps the melody
UNFAIR_COST = 0.5  # of a phrase's notes that a song has too many or too few, squared, added up from the beginning
CHANGE_COST = 1.0  # of a phrase's notes that change hands
MOVES = np.linspace(-0.15, 0.15, 7)  # by which borders between songs may be moved, in shares of the notes
UNLIKE_VOICES = 4.0  # cost from which voices of two songs are not the same voice
SILENT = -(10**6)  # a song's step where it has nothing to play; no song's player either


class Seat(NamedTuple):
    """A voice of a mix: the voices of the songs that take turns in it."""

    role: Role
    voices: tuple[int | None, ...]  # of each song
    share: float  # of the notes of its songs


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
        share = sum(songs[song].counts[index].mean() for song, index in found.items())
        role = min(voice.role for voice in voices)
        order = (role, -float(np.mean([voice.pitch for voice in voices])))
        seats.append((order, Seat(role, tuple(found.get(song) for song in range(len(songs))), float(share))))
    return tuple(seat for _, seat in sorted(seats, key=lambda pair: pair[0]))


def spread(count: int) -> Float[np.ndarray, " place"]:
    """Numbers in [0, 1) of which every few in a row are evenly spread (van der Corput's): 0, 1/2, 1/4, 3/4, 1/8 ..."""
    index, numbers, half = np.arange(count), np.zeros(count), 0.5
    while index.any():
        numbers += half * (index % 2)
        index, half = index // 2, half / 2
    return numbers


def melody_owners(weights: Float[np.ndarray, "song section"]) -> Int[np.ndarray, " section"]:
    """The song that has the melody in each section: each as often as its weight says, evenly spread.

    As a weight grows its song gains sections, and loses none.
    """
    sections = weights.shape[1]
    until = np.cumsum(weights / np.maximum(weights.sum(0), 1e-9), 0)
    point = spread(sections) + 0.5 ** np.ceil(np.log2(2 * sections))
    return np.minimum((point >= until).sum(0), len(weights) - 1)


def unit_sum(weights: Float[np.ndarray, "seat song"]) -> Float[np.ndarray, "seat song"]:
    """Weights scaled to a sum of 1."""
    return weights / np.maximum(weights.sum(1, keepdims=True), 1e-9)


def share_out(
    shares: Float[np.ndarray, "seat phrase"],
    weights: Float[np.ndarray, "seat song phrase"],
    owner: Int[np.ndarray, " phrase"],
) -> Int[np.ndarray, "seat phrase"]:
    """The song of each seat in each phrase, so that each song has its weight of the notes.

    The seats stand in a row, each as wide as its share of the phrase's notes, the melody first. The songs divide the
    row in proportion to their weights, the owner of the melody first. The borders between them may be moved, if that
    makes up for what a song had too much or too little before, or if then fewer seats change hands.
    """
    seats, songs, phrases = weights.shape
    found, missing = np.zeros((seats, phrases), np.int64), np.zeros(songs)
    for phrase in range(phrases):
        order = np.roll(np.arange(songs), -owner[phrase])
        until = np.cumsum(unit_sum(weights[:, order, phrase]), 1)
        centre = np.cumsum(shares[:, phrase]) - shares[:, phrase] / 2
        moved = centre[:, None] + MOVES
        songs_of = order[np.minimum((moved[:, None] >= until[:, :, None] - 1e-9).sum(1), songs - 1)]  # [seat, move]
        got = (songs_of[None] == np.arange(songs)[:, None, None]) * shares[:, phrase][:, None]
        wanted = unit_sum(weights[:, :, phrase]).T @ shares[:, phrase]
        after = missing[:, None] + wanted[:, None] - got.sum(1)
        changes = (songs_of != found[:, [phrase - 1]]) * shares[:, [phrase]] * (phrase > 0)
        cost = UNFAIR_COST * (after**2).sum(0) + CHANGE_COST * changes.sum(0) + 1e-3 * np.abs(MOVES)
        best = int(cost.argmin())
        found[:, phrase], missing = songs_of[:, best], after[:, best]
    return found


class Weights(NamedTuple):
    """The songs' weights in each phrase, for each factor that decides who plays what."""

    melody: Float[np.ndarray, "song phrase"]
    rhythm: Float[np.ndarray, "song phrase"]  # of all that accompanies
    harmony: Float[np.ndarray, "song phrase"] | None  # of who leads; by default the song that has the melody


def timeline(song: AnalyzedSong, count: int) -> Int[np.ndarray, " unit_and_end"]:
    """The first steps of so many units of a song that starts again where it ends, and the end."""
    lengths = np.append(np.diff(song.units), song.unit_steps)
    return np.concatenate([[0], np.cumsum(lengths[_again(song, count)])])


def _again(song: AnalyzedSong, count: int) -> Int[np.ndarray, " unit"]:
    """So many units of a song, which goes on with its first whole one where it ends."""
    units = np.arange(len(song.units))
    return np.concatenate([units[: song.upbeats], np.resize(units[song.upbeats :], max(count - song.upbeats, 0))])[:count]


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
    """The number of the phrase of each unit: some PHRASE_BEATS, whole units, from the first whole bar on."""
    length = max(round(PHRASE_BEATS * STEPS_PER_BEAT / reference.unit_steps), 1)
    return np.maximum(np.arange(len(units) - 1) - reference.upbeats, 0) // length


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
    melody = np.array([seat.role is Role.MELODY for seat in seats])
    by_seat = np.where(melody[:, None, None], weights.melody, weights.rhythm)
    owner = melody_owners(_per_section(weights.melody))[np.arange(int(phrase[-1]) + 1) // SECTION_PHRASES]
    of_phrase = share_out(_shares(seats, len(owner)), by_seat, owner)
    leader = owner % originals
    if weights.harmony is not None:
        leader = melody_owners(_per_section(weights.harmony))[np.arange(int(phrase[-1]) + 1) // SECTION_PHRASES]
    has = np.array([[voice is not None for voice in seat.voices] for seat in seats], bool).reshape(-1, len(songs))
    player = of_phrase[:, phrase]
    player = np.where(np.take_along_axis(has, player, 1), player, SILENT)
    rests = (player == SILENT).all(0)  # where all seats are given to songs without such a voice, the melody's plays
    player = np.where(rests & has[:, owner[phrase]], owner[phrase], player)
    source = np.stack([steps_in_order(song, songs[reference], units) for song in songs])
    plan = Plan(units, seats, player, leader[phrase], source, np.zeros_like(source))
    order = np.argsort(-(weights.rhythm + weights.melody).sum(1), kind="stable")
    done: list[int] = []
    for song in order.tolist():
        _place_song(plan, songs, song, done, song >= originals, temperature, rng)
        done.append(song)
    return plan


def _per_section(weights: Float[np.ndarray, "song phrase"]) -> Float[np.ndarray, "song section"]:
    """The mean weights of each section."""
    starts = np.arange(0, weights.shape[1], SECTION_PHRASES)
    return np.add.reduceat(weights, starts, 1) / np.add.reduceat(np.ones(weights.shape[1]), starts)


def _shares(seats: Sequence[Seat], phrases: int) -> Float[np.ndarray, "seat phrase"]:
    """The share of each seat of the notes of its songs."""
    shares = np.array([0.0 if seat.role is Role.DRUMS else seat.share for seat in seats])
    return np.repeat(shares[:, None] / max(shares.sum(), 1e-9), phrases, 1)


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
