"""Who plays in a mix: the voices of songs that answer each other, and the song of each of them at each time."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from nemui_jax.sampling.analysis import AnalyzedSong
from nemui_jax.sampling.lines import Role, Voice
from nemui_jax.sampling.timeline import Timeline

UNLIKE_VOICES = 4.0  # cost from which voices of two songs are not the same voice
MAX_KEPT = 64  # groups of songs
SILENT = -1  # the player of a seat where no song has its voice


class Seat(NamedTuple):
    """A voice of a mix: the voices of the songs that take turns in it."""

    role: Role
    voices: tuple[int | None, ...]  # of each song


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


@lru_cache(MAX_KEPT)
def seat_voices(songs: tuple[AnalyzedSong, ...], reference: int) -> tuple[Seat, ...]:
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
        role = min(voice.role for voice in voices)
        order = (role, -float(np.mean([voice.pitch for voice in voices])))
        seats.append((order, Seat(role, tuple(found.get(song) for song in range(len(songs))))))
    return tuple(seat for _, seat in sorted(seats, key=lambda pair: pair[0]))


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


class Weights(NamedTuple):
    """The songs' weights in each unit, for each factor that decides who plays what."""

    melody: Float[np.ndarray, "song unit"]
    rhythm: Float[np.ndarray, "song unit"]  # of all that accompanies
    harmony: Float[np.ndarray, "song unit"]  # of who leads


def cast(
    seats: Sequence[Seat],
    songs: Sequence[AnalyzedSong],
    timeline: Timeline,
    weights: Weights,
) -> tuple[Int[np.ndarray, "seat unit"], Int[np.ndarray, " unit"]]:
    """The song of each seat in each unit, and the song that leads.

    The songs take turns, for a section each, in being the first to be given seats, and the melody is given first. The
    weights at which a seat passes to the next song are others in each round of turns, so that weights that change a
    little change a little.
    """
    section = timeline.section
    turn = np.arange(section[-1] + 1)
    first = turn % len(songs)
    within = spread(len(turn) // len(songs) + 2)[1 + turn // len(songs)]
    lead_point = ((1 + within) / (2 * len(songs)))[section]
    of_melody = song_at(lead_point, weights.melody, first[section])
    leader = song_at(lead_point, weights.harmony, first[section])
    shares = np.stack([_shares(seats, song, number) for number, song in enumerate(songs)])  # [song, seat]
    roles = np.array([seat.role for seat in seats])
    melody, drums = roles == Role.MELODY, roles == Role.DRUMS
    together = np.array_equal(weights.melody, weights.rhythm)
    place = np.full((len(seats), len(turn)), 0.5)
    for number in turn:
        lead = int(first[number])
        here = timeline.source[lead, section == number]
        own = _shares(seats, songs[lead], lead, here)
        others = shares[np.arange(len(songs)) != lead].mean(0) if len(songs) > 1 else own
        for group in (melody | ~melody,) if together else (melody, ~melody):
            chosen = group & ~drums
            place[chosen, number] = points(own[chosen], others[chosen], melody[chosen], float(within[number]))
    player = np.where(
        melody[:, None],
        song_at(place[:, section], weights.melody, first[section]),
        song_at(place[:, section], weights.rhythm, first[section]),
    )
    has = np.array([[voice is not None for voice in seat.voices] for seat in seats], bool).reshape(-1, len(songs))
    player = np.where(np.take_along_axis(has, player, 1), player, SILENT)
    rests = (player == SILENT).all(0)  # where all seats are given to songs without such a voice, the melody's plays
    player = np.where(rests & has[:, of_melody], of_melody, player)
    _fill(player, seats, songs, timeline, np.where(melody[:, None, None], weights.melody, weights.rhythm))
    return player, leader


def _fill(
    player: Int[np.ndarray, "seat unit"],
    seats: Sequence[Seat],
    songs: Sequence[AnalyzedSong],
    timeline: Timeline,
    weights: Float[np.ndarray, "seat song unit"],
) -> None:
    """Gives silent seats to a song that has the voice, while a section has fewer notes than its songs by weight.

    The seats with the most notes are given first, where they bring the number of notes closer to what it should be.
    """
    for number in range(int(timeline.section[-1]) + 1):
        inside = np.flatnonzero(timeline.section == number)
        counts = [
            song.count_from(source).sum(1) * song.pitched
            for song, source in zip(songs, timeline.source[:, inside], strict=True)
        ]
        notes = np.array(
            [[0 if v is None else c[v] for v, c in zip(seat.voices, counts, strict=True)] for seat in seats]
        )
        here = player[:, inside]
        played = sum(notes[seat, here[seat].clip(0)][here[seat] != SILENT].sum() for seat in range(len(seats)))
        missing = float((notes * weights[:, :, inside].mean(2)).sum() - played / len(inside))
        for seat in np.argsort(-notes.max(1), kind="stable").tolist():
            owner = int(notes[seat].argmax())
            units = inside[(here[seat] == SILENT) & (weights[seat, owner, inside] > 0)]
            gained = notes[seat, owner] * len(units) / len(inside)
            if 0 < gained < 2 * missing:
                player[seat, units] = owner
                missing -= gained


def _shares(
    seats: Sequence[Seat], song: AnalyzedSong, number: int, starts: Int[np.ndarray, " unit"] | None = None
) -> Float[np.ndarray, " seat"]:
    """The share of each seat of a song's pitched notes; with `starts`, of those in the units from there on."""
    counts = (song.counts if starts is None else song.count_from(starts)).sum(1) * song.pitched
    if not counts.sum():
        counts = song.counts.sum(1) * song.pitched
    found = [0 if (voice := seat.voices[number]) is None else int(counts[voice]) for seat in seats]
    return np.array(found) / max(counts.sum(), 1)


def points(
    own: Float[np.ndarray, " seat"],
    others: Float[np.ndarray, " seat"],
    is_melody: Bool[np.ndarray, " seat"],
    within: float,
) -> Float[np.ndarray, " seat"]:
    """Where each seat lies between a song, at 0, and the others, at 1: the melody is the song's as long as any is.

    `own` are the seats' shares of the song's notes, `others` those of the others'. Where the song has the seats up to
    some one, and the others have the rest, the song plays its shares of those, and the others theirs of the rest: the
    song's part of both is the point between these two seats. `within` is where between two such points a seat lies.
    """
    order = np.argsort(~is_melody, kind="stable")
    divided = np.concatenate([[0.0], _divide(own[order], others[order])])
    place = np.empty(len(own))
    place[order] = divided[:-1] + within * np.diff(divided)
    return place


def _divide(own: Float[np.ndarray, " seat"], others: Float[np.ndarray, " seat"]) -> Float[np.ndarray, " seat"]:
    """A song's part of all notes, where it has the seats up to each one."""
    has, have = (np.cumsum(one / max(one.sum(), 1e-9)) for one in (own, others))
    part = np.maximum.accumulate(has / np.maximum(1 + has - have, 1e-9))
    part[-1:] = 1.0
    return part
