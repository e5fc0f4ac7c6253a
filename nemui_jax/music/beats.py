"""Beats of a performance, tracked from its notes.

Onsets are merged to groups. A segment joins two groups and holds one beat or more of equal length; every path of
segments from the first group to the last is a way to count the beats. A semi-Markov conditional random field (Sarawagi
& Cohen, "Semi-Markov Conditional Random Fields for Information Extraction", NIPS 2004) weighs all paths: its states are
how steady the tempo is, the subdivision of the beat, and the place of the beat in a bar of two or three (as in the bar
pointer of Whiteley, Cemgil & Godsill, "Bayesian Modelling of Temporal Structure in Musical Audio", ISMIR 2006). The
beats returned are the path of the most expected hits, not the likeliest path. The weights are in `beat_scores`.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from nemui_jax.music.beat_features import describe
from nemui_jax.music.beat_inputs import make_inputs
from nemui_jax.music.beat_network import Weights, load_weights, read_groups
from nemui_jax.music.beat_scores import (
    BAR_BREAK,
    LONGEST,
    PLACE,
    SHORTEST,
    SUBDIVISION_MOVES,
    TEMPO_EDGES,
    TEMPO_MOVES,
    TYPES,
    Segments,
    ranges,
    weigh_segments,
)
from nemui_jax.music.song import PEDAL

SILENCE_SECONDS = 8.0  # without onsets, which part a song in sections that are tracked apart
MAX_FILLED_BEATS = 10_000  # in one gap without onsets
_WINDOW, _MARGIN = 2500, 100  # groups weighed at once, and groups at either side whose results are dropped
_SKIP_COST = 1.5  # log weight lost for each group before the first beat or after the last
_HIT_COST = 0.3  # expected hits that a beat must bring to be returned
_BAR_CERTAINTY = 0.8  # mean probability of the likelier answer, bar or none, below which no bars are returned
_HALF = len(TYPES) * len(PLACE)  # states with a loose tempo; then come as many with a steady one


class Beats(NamedTuple):
    """Beats, from the first onset or before it to after the last.

    `confidence` is the mean probability of the beats, 0 to 1; 0 where none were found.
    """

    times: Float[np.ndarray, " beat"]  # seconds, ascending
    downbeats: Bool[np.ndarray, " beat"]  # where bars begin; nowhere if that cannot be told; bars of four may be halved
    confidence: float


NO_PEDAL = np.empty(0, PEDAL)
NO_BEATS = Beats(np.zeros(0), np.zeros(0, bool), 0.0)


def track_beats(notes: np.ndarray, pedal: np.ndarray = NO_PEDAL, network: Weights | None = None) -> Beats:
    """The beats of NOTE notes, sorted by onset, and PEDAL; none where there are too few notes.

    `network` is its weights, by default those that come with this package.
    """
    if len(notes) == 0:
        return NO_BEATS
    network = load_weights() if network is None else network
    onsets = notes["onset"].astype(float)
    cuts = np.flatnonzero(np.diff(onsets) > SILENCE_SECONDS) + 1
    bounds = [0, *cuts.tolist(), len(notes)]
    sections = [_track_section(notes[start:end], pedal, network) for start, end in itertools.pairwise(bounds)]
    sections = [section for section in sections if len(section.times) > 1]
    return _joined(sections, onsets[0], onsets[-1]) if sections else NO_BEATS


def _joined(sections: list[Beats], first: float, last: float) -> Beats:
    """The beats of all sections, with steady beats between them, before them to `first`, and after them past `last`."""
    times, downbeats = [], []
    for section in sections:
        start, period = section.times[0], section.times[1] - section.times[0]
        if times:
            between = np.linspace(times[-1][-1], start, max(_count(start - times[-1][-1], period), 1) + 1)[1:-1]
        else:
            count = _count(start - first, period)
            between = start - max(period, (start - first) / MAX_FILLED_BEATS) * np.arange(count, 0, -1)
        times += [between, section.times]
        downbeats += [np.zeros(len(between), bool), section.downbeats]
    end, period = times[-1][-1], times[-1][-1] - times[-1][-2]
    count = _count(last - end, period) + 1
    times.append(end + max(period, (last - end) / MAX_FILLED_BEATS) * np.arange(1, count + 1))
    downbeats.append(np.zeros(count, bool))
    sizes = [len(section.times) for section in sections]
    confidence = float(np.average([section.confidence for section in sections], weights=sizes))
    return Beats(np.concatenate(times), np.concatenate(downbeats), confidence)


def _count(gap: float, period: float) -> int:
    """Beats of a period that it takes to cross a gap, both in seconds."""
    return int(min(np.ceil(max(gap, 0) / period), MAX_FILLED_BEATS))


def _track_section(notes: np.ndarray, pedal: np.ndarray, network: Weights) -> Beats:
    """The beats of notes without a long silence, from one onset to another."""
    groups = describe(notes)
    times, size = groups.times, len(groups.times)
    if size < 4:
        return NO_BEATS
    reading = read_groups(make_inputs(groups, notes, pedal), network)
    parts, chances, bars = [], [], []
    for start in range(0, size, _WINDOW):
        low, end = max(start - _MARGIN, 0), min(start + _WINDOW, size)
        high = min(end + _MARGIN, size)
        window = groups.cut(low, high)
        segments, weights = weigh_segments(window, reading.cut(low, high))
        chance, bar = _posteriors(window.times, segments, weights)
        own = (segments.first >= start - low) & (segments.first < end - low)
        parts.append(segments.take(own)._replace(first=segments.first[own] + low, last=segments.last[own] + low))
        chances.append(chance[own])
        bars.append(bar[own])
    segments = Segments(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return _most_hits(times, segments, np.concatenate(chances), np.concatenate(bars))


def _most_hits(
    times: Float[np.ndarray, " group"],
    segments: Segments,
    chance: Float[np.ndarray, " segment"],
    bar: Float[np.ndarray, " segment"],
) -> Beats:
    """The beats of the best path, by the probability of each segment, and of a bar that begins where it ends."""
    begun, ended = (np.bincount(edge, chance, len(times)) for edge in (segments.first, segments.last))
    hits = np.maximum(begun, ended)
    path = _best_path(times, segments, chance, hits)
    if len(path) == 0:
        return NO_BEATS
    first, last, beats = segments.first[path], segments.last[path], segments.beats[path]
    knots = np.concatenate([[0], np.cumsum(beats)])
    found = np.interp(np.arange(knots[-1] + 1), knots, times[np.append(first[0], last)])
    odds = (np.bincount(segments.last, bar, len(times)) / np.maximum(ended, 1e-9))[last]
    certain = float(np.maximum(odds, 1 - odds).mean()) >= _BAR_CERTAINTY
    downbeats = np.zeros(len(found), bool)
    downbeats[knots[1:]] = (odds > 0.5) & certain
    return Beats(found, downbeats, float(np.clip(hits[last].mean(), 0, 1)))


def _best_path(
    times: Float[np.ndarray, " group"],
    segments: Segments,
    chance: Float[np.ndarray, " segment"],
    hits: Float[np.ndarray, " group"],
) -> list[int]:
    """The path of the most expected hits: a segment brings its probability and its last beat's, less a cost a beat."""
    likely = np.flatnonzero(chance > 1e-3)
    gains = hits[segments.last] + chance - _HIT_COST * segments.beats
    edges = zip(segments.first[likely].tolist(), segments.last[likely].tolist(), gains[likely].tolist(), strict=True)
    best = np.where(np.isfinite(_edge_weights(times)), 0, -np.inf).tolist()
    reached_by = [-1] * len(times)  # the number in `likely` of the last segment of the best path to each group
    for number, (first, last, gain) in enumerate(edges):  # in the order of their first groups
        if best[first] + gain > best[last]:
            best[last], reached_by[last] = best[first] + gain, number
    ends = np.isfinite(_edge_weights(-times[::-1])[::-1]) & (np.array(reached_by) >= 0)
    if not ends.any():
        return []
    path, group = [], int(np.where(ends, best, -np.inf).argmax())
    while reached_by[group] >= 0:
        path.append(int(likely[reached_by[group]]))
        group = int(segments.first[path[-1]])
    return path[::-1]


def _edge_weights(times: Float[np.ndarray, " group"]) -> Float[np.ndarray, " group"]:
    """Log weight of a path that begins at each group: only within LONGEST of the first."""
    return np.where(times - times[0] < LONGEST, -_SKIP_COST * np.arange(len(times)), -np.inf)


class _Chain(NamedTuple):
    """What the forward and backward algorithms work on. Segments are sorted by their first group."""

    segments: Segments
    from_group: list[int]  # segments from_group[i] to before from_group[i + 1] begin at group i
    by_last: Int[np.ndarray, " segment"]
    to_group: list[int]  # by_last[to_group[i]:to_group[i + 1]] end at group i
    tempo: list[Float32[np.ndarray, "2 _ _"]]  # see _tempo_changes
    weights: Float32[np.ndarray, "segment state"]  # e to the power of the log weights less `greatest`
    greatest: Float[np.ndarray, " group"]  # the highest log weight of the segments from each group
    begin: Float[np.ndarray, " group"]  # log weight of a path that begins at each group
    end: Float[np.ndarray, " group"]  # log weight of a path that ends at each group


def _posteriors(
    times: Float[np.ndarray, " group"], segments: Segments, weights: Float32[np.ndarray, "segment state"]
) -> tuple[Float[np.ndarray, " segment"], Float[np.ndarray, " segment"]]:
    """The probability of each segment, and that a bar begins where it ends; 0 where no path spans the groups."""
    bounds, by_last = np.arange(len(times) + 1), np.argsort(segments.last, kind="stable")
    from_group = np.searchsorted(segments.first, bounds)
    greatest = np.zeros(len(times))
    np.maximum.at(greatest, segments.first, weights.max(1))
    to_group = np.searchsorted(segments.last[by_last], bounds)
    chain = _Chain(
        segments,
        from_group.tolist(),
        by_last,
        to_group.tolist(),
        _tempo_changes(segments, from_group, to_group, by_last),
        np.exp(weights - greatest[segments.first, None].astype(np.float32)),
        greatest,
        _edge_weights(times),
        _edge_weights(-times[::-1])[::-1],
    )
    before, before_scale = _forward(chain)
    scale = before_scale[segments.first]
    reached = np.log(np.maximum(before.sum(1), _TINY)) + scale + chain.end[segments.last]
    top = reached.max(initial=-np.inf)
    if not np.isfinite(top):
        return np.zeros(len(before)), np.zeros(len(before))
    whole = top + np.log(np.exp(reached - top).sum())
    after, after_scale = _backward(chain)
    share = np.exp(np.minimum(scale + after_scale[segments.last] - whole, 80))
    states = (before * after).reshape(len(before), -1, len(PLACE)).sum(1) * share[:, None]
    states = np.minimum(states, 1).astype(float)
    return states.sum(1), states[:, PLACE == 0].sum(1)


def _transitions() -> Float32[np.ndarray, "state state"]:
    """The weight of each state after each: steadiness and subdivision, place in the bar as it was or broken."""
    kind = np.array([[0 if a == b else 1 if a[0] == b[0] else 2 for b in TYPES] for a in TYPES])
    moves = np.exp(SUBDIVISION_MOVES)[np.block([[kind, kind + 3], [kind + 3, kind]])]
    return np.kron(moves, np.where(np.eye(len(PLACE)), 1, np.exp(BAR_BREAK))).astype(np.float32)


def _turns(direction: int) -> Int[np.ndarray, "beats state"]:
    """For segments of 0 to 3 beats: each state with its place in the bar so many beats later (1) or earlier (-1)."""
    start, size = np.array([0, 0, 2, 2, 2]), np.array([2, 2, 3, 3, 3])
    turned = start + (PLACE + direction * np.arange(4)[:, None]) % size
    return np.tile(turned, 2 * len(TYPES)) + len(PLACE) * np.repeat(np.arange(2 * len(TYPES)), len(PLACE))


_TINY = 1e-30
_LEVEL = 0.002  # of a log period
_MOVES, _EARLIER, _LATER = _transitions(), _turns(-1), _turns(1)
# The weight of each change of log period, in units of _LEVEL, where the tempo is loose and where it is steady.
_LEVELS = np.arange(int(np.log(LONGEST / SHORTEST) / _LEVEL) + 2) * _LEVEL
_TEMPO = np.exp(np.array(TEMPO_MOVES, np.float32))[:, np.searchsorted(TEMPO_EDGES, _LEVELS + 1e-9, "right") - 1]


def _tempo_changes(
    segments: Segments,
    from_group: Int[np.ndarray, " bound"],
    to_group: Int[np.ndarray, " bound"],
    by_last: Int[np.ndarray, " segment"],
) -> list[Float32[np.ndarray, "2 _ _"]]:
    """For each group, loose and steady, the weights of the changes of period: to segments from it, of those to it."""
    level = np.rint(np.log(segments.period) / _LEVEL).astype(int)
    begin, end = np.diff(from_group), np.diff(to_group)
    number, arriving = ranges(to_group[segments.first], end[segments.first])
    weights = _TEMPO[:, np.abs(level[number] - level[by_last[arriving]])]
    starts = np.concatenate([[0], np.cumsum(begin * end)]).tolist()
    shapes = zip(begin.tolist(), end.tolist(), itertools.pairwise(starts), strict=True)
    return [weights[:, start:stop].reshape(2, rows, columns) for rows, columns, (start, stop) in shapes]


def _forward(chain: _Chain) -> tuple[Float32[np.ndarray, "segment state"], Float[np.ndarray, " group"]]:
    """The weight of all paths that end with each segment in each state, and the log scale of those from each group."""
    first_by_last = chain.segments.first[chain.by_last]
    total, scale = np.zeros_like(chain.weights), np.full(len(chain.begin), -np.inf)
    turned = _turned(chain, _EARLIER)
    for group, begin in enumerate(chain.begin[:-1].tolist()):
        start, stop = chain.from_group[group], chain.from_group[group + 1]
        arrivals = slice(chain.to_group[group], chain.to_group[group + 1])
        arriving = chain.by_last[arrivals]
        sizes = scale[first_by_last[arrivals]]
        top = max(float(np.maximum.reduce(sizes, initial=-np.inf)), begin)
        if start == stop or top == -np.inf:
            continue
        before = (total[arriving] * np.exp(sizes - top).astype(np.float32)[:, None]) @ _MOVES
        after = np.matmul(chain.tempo[group], before.reshape(-1, 2, _HALF).transpose(1, 0, 2)).transpose(1, 0, 2)
        after = (after.ravel()[turned[start:stop]] + np.float32(math.exp(begin - top))) * chain.weights[start:stop]
        highest = float(np.maximum.reduce(after, axis=None))
        if highest > 0:
            np.divide(after, highest, out=total[start:stop])
            scale[group] = top + math.log(highest) + chain.greatest[group]
    return total, scale


def _backward(chain: _Chain) -> tuple[Float32[np.ndarray, "segment state"], Float[np.ndarray, " group"]]:
    """The weight of all that may follow each segment in each state, and the log scale of those to each group."""
    last, greatest = chain.segments.last, chain.greatest.tolist()
    total, scale = np.zeros_like(chain.weights), np.full(len(chain.end), -np.inf)
    turned = _turned(chain, _LATER)
    for group in range(len(scale) - 1, 0, -1):
        start, stop = chain.from_group[group], chain.from_group[group + 1]
        arriving, end = chain.by_last[chain.to_group[group] : chain.to_group[group + 1]], float(chain.end[group])
        sizes = scale[last[start:stop]] + greatest[group]
        top = max(float(np.maximum.reduce(sizes, initial=-np.inf)), end)
        if len(arriving) == 0 or top == -np.inf:
            continue
        after = chain.weights[start:stop] * total[start:stop] * np.exp(sizes - top).astype(np.float32)[:, None]
        after = after.ravel()[turned[start:stop]].reshape(-1, 2, _HALF).transpose(1, 0, 2)
        before = np.matmul(chain.tempo[group].swapaxes(1, 2), after)
        before = before.transpose(1, 0, 2).reshape(len(arriving), -1) @ _MOVES.T
        before += np.float32(math.exp(end - top))
        highest = float(np.maximum.reduce(before, axis=None))
        if highest > 0:
            total[arriving] = before / highest
            scale[group] = top + math.log(highest)
    return total, scale


def _turned(chain: _Chain, turns: Int[np.ndarray, "beats state"]) -> Int[np.ndarray, "segment state"]:
    """For each segment and state the place, in the flat array of its group's segments and states, of the turned one."""
    first = chain.segments.first
    slot = np.arange(len(first)) - np.array(chain.from_group)[first]
    return turns[chain.segments.beats] + len(_MOVES) * slot[:, None]
