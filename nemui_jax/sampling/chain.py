"""Bars of a song in a new order: each fits what is asked for, and follows the last as bars do in the song.

This is unit selection, as in speech synthesis (Hunt and Black, 1996): a bar costs what it is unlike its target, and a
join what the bar is unlike the one that followed in the song.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from nemui_jax.sampling.analysis import PHRASE_UNITS, SLOT_STEPS, AnalyzedSong
from nemui_jax.sampling.form import SAME_BAR, likeness, notes_of, onset_rolls
from nemui_jax.sampling.lookup import SHIFTS, following, unit_length, windows

CANDIDATES = 120  # of each bar: the places and transpositions of the least cost
TRIES = 6
SAME_COST = 4.0  # for a bar that another bar of the chain has already, added at each try
FORBIDDEN_COST = 100.0
OCTAVE = 12


class JoinCosts(NamedTuple):
    """What it costs where a bar does not follow the last one."""

    jump: float = 1.0
    texture: float = 2.0  # for onsets wholly unlike those that followed, in rhythm and register
    line: float = 3.0  # for an octave or more between the highest first note and that which followed
    phrase: float = 0.3  # for a jump to another place in the phrase
    key: float = 0.6  # for a change of transposition


JOIN_COSTS = JoinCosts()


class Chain(NamedTuple):
    """Bars of a song in a new order."""

    place: Int[np.ndarray, " bar"]  # the bar of the song
    shift: Int[np.ndarray, " bar"]  # its transposition


def find_chain(
    song: AnalyzedSong,
    voices: Bool[np.ndarray, " voice"],
    cost: Float[np.ndarray, "bar place shift"],
    longest_run: int,
    joins: JoinCosts = JOIN_COSTS,
    tries: int = TRIES,
) -> Chain:
    """The bars of the least cost with that of their joins.

    At most `longest_run` bars follow each other as in the song. Where two are the same it is tried again, `tries` times
    at most, with higher costs for the second.
    """
    bars, cost = _read_bars(song, voices), cost.copy()
    chain = _cheapest(bars, cost, longest_run, joins)
    for _ in range(tries):
        taken = bars.same[chain.place]
        owner = taken[:, chain.place].argmax(1)  # the first bar that has the same
        if (owner == np.arange(len(owner))).all():
            break
        others = np.ones(len(cost), bool)
        for bar in np.unique(owner):
            others[bar] = False
            cost[np.ix_(others, bars.same[chain.place[bar]])] += SAME_COST
            others[bar] = True
        chain = _cheapest(bars, cost, longest_run, joins)
    return chain


def find_returning_chain(
    song: AnalyzedSong,
    voices: Bool[np.ndarray, " voice"],
    cost: Float[np.ndarray, "bar place shift"],
    first: Int[np.ndarray, " bar"],
    heard: Bool[np.ndarray, " bar"],
    longest_run: int,
    tries: int = TRIES,
) -> Chain:
    """As `find_chain`, for the bars that are `heard`; bars with the same `first` occurrence have the same bar."""
    new = np.unique(first[heard])
    chain = find_chain(song, voices, cost[new], longest_run, tries=tries)
    at = np.minimum(np.searchsorted(new, first), len(new) - 1)
    return Chain(chain.place[at], chain.shift[at])


class _Bars(NamedTuple):
    """What the costs of joins depend on: the bars of a song in some of its voices."""

    after: Int[np.ndarray, " place"]  # see `lookup.following`
    same: Bool[np.ndarray, "place place"]
    unlike: Float[np.ndarray, "place place"]  # see `_unlike_what_followed`
    tops: Float[np.ndarray, " place"]  # see `_first_tops`
    phase: Int[np.ndarray, " place"]  # in the phrase


def _read_bars(song: AnalyzedSong, voices: Bool[np.ndarray, " voice"]) -> _Bars:
    after, same = following(song), likeness(onset_rolls(song, voices)) >= SAME_BAR
    return _Bars(after, same, _unlike_what_followed(song, voices, after), _first_tops(song, voices), song.phase)


def _cheapest(bars: _Bars, cost: Float[np.ndarray, "bar place shift"], longest_run: int, joins: JoinCosts) -> Chain:
    """The best chain of the candidates of each bar, by dynamic programming over them and the lengths of runs.

    A jump to a bar that is the same as the one that followed would go on like the song, so it is forbidden.
    """
    flat, (after, same, unlike, tops, phase) = cost.reshape(len(cost), -1), bars
    expected = np.where(after >= 0, tops[after], np.nan)
    kept = np.argsort(flat, axis=1, kind="stable")[:, :CANDIDATES]
    places, shifts = np.divmod(kept, len(SHIFTS))
    total = np.full((kept.shape[1], longest_run), np.inf)
    total[:, 0] = flat[0, kept[0]]
    came_from = []
    for bar in range(1, len(cost)):
        before, here = (places[bar - 1], shifts[bar - 1]), (places[bar], shifts[bar])
        same_shift = before[1][:, None] == here[1]
        follows = same_shift & (after[before[0]][:, None] == here[0])
        leap = np.abs(tops[here[0]] + here[1] - (expected[before[0]] + before[1])[:, None])
        jump = joins.jump + joins.texture * unlike[np.ix_(before[0], here[0])] + joins.key * ~same_shift
        jump += joins.line * np.minimum(np.nan_to_num(leap, nan=OCTAVE / 2), OCTAVE) / OCTAVE
        jump += joins.phrase * (phase[here[0]] != bar % PHRASE_UNITS)
        goes_on = same_shift & (after[before[0]] >= 0)[:, None] & same[after[before[0]]][:, here[0]]
        jump += FORBIDDEN_COST * goes_on
        jump[follows] = np.inf
        run = total.argmin(1)
        through = total[np.arange(len(total)), run][:, None] + jump
        origin = through.argmin(0)
        total, last = np.full_like(total, np.inf), total
        back = np.zeros((*total.shape, 2), np.int64)
        total[:, 0], back[:, 0] = through.min(0), np.stack([origin, run[origin]], 1)
        old, new = np.nonzero(follows)
        total[new, 1:] = last[old, :-1]
        back[new, 1:, 0], back[new, 1:, 1] = old[:, None], np.arange(longest_run - 1)
        total += flat[bar, kept[bar]][:, None]
        came_from.append(back)
    state = np.array(np.unravel_index(total.argmin(), total.shape))
    path = [int(state[0])]
    for back in came_from[::-1]:
        state = back[state[0], state[1]]
        path.append(int(state[0]))
    found = np.arange(len(kept)), np.array(path[::-1])
    return Chain(places[found], SHIFTS[shifts[found]])


def _unlike_what_followed(
    song: AnalyzedSong, voices: Bool[np.ndarray, " voice"], after: Int[np.ndarray, " place"]
) -> Float[np.ndarray, "place place"]:
    """How unlike the bar that followed each one each bar is, by its onsets, from 0 to 1."""
    slots = -(-song.unit_steps // SLOT_STEPS)
    texture = unit_length(windows(song.onsets[voices].sum(0), song.units, slots).reshape(len(song.units), -1))
    followed = np.where((after >= 0)[:, None], texture[after], 0.0)
    return 1 - followed @ texture.T


def _first_tops(song: AnalyzedSong, voices: Bool[np.ndarray, " voice"]) -> Float[np.ndarray, " place"]:
    """The highest of the first notes of each bar; nan where it has none."""
    notes = notes_of(song, voices)[::-1]  # of one step, the highest first
    notes = notes[np.argsort(notes["step"], kind="stable")]
    bars, first = np.unique(np.searchsorted(song.units, notes["step"], side="right") - 1, return_index=True)
    tops = np.full(len(song.units), np.nan)
    tops[bars] = notes["pitch"][first]
    return tops
