"""Segments between groups of onsets, each of one beat or more of equal length, and the log weight of each.

The weights are those of the conditional random field in `beats`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from nemui_jax.music.beat_features import CHANGE_SECONDS, FRAME_HOP, FRAME_LAGS, FRAME_RATE, Groups
from nemui_jax.music.beat_network import BINS, FASTEST_OCTAVE, OCTAVE_BIN, Reading

SHORTEST, LONGEST = 0.25, 3.0  # seconds a beat may last
_MULTIPLES = (1, 2, 3)  # beats a segment may hold; more than one only where there are few groups inside
_CANDIDATES, _KEPT = 16, 8  # segments from each group whose onsets are compared with subdivisions, and those returned
_LAG_FACTORS = {"1": 1, "2": 2, "3": 3, "4": 4, "1/2": 1 / 2, "1/3": 1 / 3, "3/2": 3 / 2, "2/3": 2 / 3}
# Subdivisions: family (binary, ternary) and slots a beat.
TYPES = (("b", 1), ("b", 2), ("b", 4), ("b", 8), ("t", 1), ("t", 3), ("t", 6))
PLACE = np.array([0, 1, 0, 1, 2])  # places in a bar of two, then of three
# Log weights, fitted to the beats of 24 performances and of 16 scores played with made rubato, without what the network
# reads. x_within, x_beyond: the
# span x over the period, up to 1 and from there to 2.5. b4_2_struck: an onset at the half of a beat of four slots.
_WEIGHTS = {
    "velocity": 0.238, "chord": 0.248, "low": -0.072, "high": -0.085, "held": 0.175, "next": -0.078, "last": 0.053,
    "low_next": 0.001, "high_next": -0.001, "low_last": -0.008, "held_within": -0.006, "held_beyond": -0.254,
    "low_next_within": 0.148, "low_next_beyond": 0.060, "high_next_within": 0.152, "high_next_beyond": 0.178,
    "low_last_within": 0.020, "low_last_beyond": -0.100, "strong": 0.238, "change": 0.027, "change_half": 0.143,
    "change_double": -0.497, "bar_velocity": 0.170, "bar_chord": -0.258, "bar_low": 0.092, "bar_high": -0.032,
    "bar_held": 0.146, "bar_next": 0.196, "bar_last": -0.153, "bar_low_next": 0.068, "bar_high_next": 0.017,
    "bar_low_last": 0.042, "bar_held_within": -0.189, "bar_held_beyond": 0.122, "bar_low_next_within": 0.210,
    "bar_low_next_beyond": 0.272, "bar_high_next_within": 0.079, "bar_high_next_beyond": -0.003,
    "bar_low_last_within": 0.047, "bar_low_last_beyond": 0.015, "bar_strong": 0.183, "bar_change": 0.408,
    "bar_change_half": 0.197, "bar_change_double": 0.720, "bar_of_two": -0.244, "bar_of_three": -0.333,
    "bar_weak": 0.032, "segment": -0.072, "skipped": -2.198, "skips": 0.015, "second": -0.000, "beat_period": 0.105,
    "beat_period2": -0.109, "beat_density": -0.344, "beat_density2": 0.009, "second_period": 0.100,
    "second_period2": -0.002, "second_density": 0.065, "second_density2": -0.019, "rhythm_1": -0.256,
    "rhythm_2": 0.178, "rhythm_3": -0.132, "rhythm_4": 0.000, "rhythm_1/2": 0.058, "rhythm_1/3": 0.090,
    "rhythm_3/2": -0.160, "rhythm_2/3": -0.030, "bass_1": 0.277, "bass_2": 0.049, "bass_3": -0.117, "bass_4": -0.077,
    "bass_1/2": 0.360, "bass_1/3": 0.356, "bass_3/2": -0.332, "bass_2/3": -0.196, "spread": -0.016, "fit": 1.165,
    "off": -0.420, "double": -0.813, "edge": -0.277, "double_strength": -0.160, "inner_beat": -2.183,
    "steady_fit": 0.424, "steady_double": -0.269, "steady_spread": 0.090, "steady": -0.304,
    "half_strength": 0.191, "inner_strength": 0.102, "b1": 0.065, "b2": 0.369, "b2_2_struck": 0.598,
    "b2_2_empty": 0.182, "b4": 0.114, "b4_2_struck": 0.378, "b4_2_empty": -0.539, "b4_4_struck": 0.412,
    "b4_4_empty": -0.177, "b8": -0.044, "b8_2_struck": 0.161, "b8_2_empty": -0.094, "b8_4_struck": -0.023,
    "b8_4_empty": 0.098, "b8_8_struck": -0.130, "b8_8_empty": -0.068, "t1": 0.360, "t3": 0.165, "t3_3_struck": 0.460,
    "t3_3_empty": 0.158, "t6": -0.071, "t6_2_struck": 0.411, "t6_2_empty": -0.555, "t6_3_struck": 0.202,
    "t6_3_empty": -0.840, "t6_6_struck": 0.226, "t6_6_empty": -0.207,
}  # fmt: skip
# Log weights of what the network reads: of a beat where it says so and of none elsewhere, of the period, of a downbeat.
_READ_BEAT, _READ_PERIOD, _READ_DOWNBEAT = 0.25, 0.1, 0.2
TEMPO_EDGES = (0, 0.03, 0.07, 0.12, 0.18, 0.26, 0.36, 0.5, 0.63, 0.8)  # log ratio of successive periods, from
TEMPO_MOVES = (
    (-1.705, -1.813, -1.875, -2.055, -2.639, -3.330, -4.022, -4.843, -5.946, -6.323),
    (-0.637, -1.963, -3.489, -4.997, -6.500, -8.000, -9.500, -11.000, -12.500, -14.000),
)  # loose, steady
SUBDIVISION_MOVES = (0.210, -1.398, -5.193, -3.951, -4.997, -8.002)  # same, same family, other; then steadiness changed
BAR_BREAK = -5.905


class Segments(NamedTuple):
    """Segments, sorted by their first group."""

    first: Int[np.ndarray, " segment"]
    last: Int[np.ndarray, " segment"]
    beats: Int[np.ndarray, " segment"]
    period: Float[np.ndarray, " segment"]  # seconds a beat

    def take(self, kept: np.ndarray) -> "Segments":
        """Some of the segments, by a mask or by their numbers."""
        return Segments(*(column[kept] for column in self))


def weigh_segments(groups: Groups, reading: Reading) -> tuple[Segments, Float32[np.ndarray, "segment state"]]:
    """The likeliest segments from each group, and the log weight of each in each state.

    A state is a loose or a steady tempo, a subdivision, and the place of the segment's last beat in the bar.
    """
    segments = _all_segments(groups.times)
    shared = _weigh(_onset_features(groups, segments)) + _weigh(_period_features(groups, segments))
    shared = shared + _weigh_reading(reading, segments)
    kept = _best(segments.first, shared, _CANDIDATES)
    segments, shared = segments.take(kept), shared[kept]
    columns = _subdivision_scores(groups, segments) + shared[:, None]
    kept = _best(segments.first, columns.max(1), _KEPT)
    segments, columns = segments.take(kept), columns[kept]
    places = np.zeros((len(columns), len(PLACE)))
    bar = _weigh(_onset_features(groups, segments), "bar_") + _READ_DOWNBEAT * reading.downbeat[segments.last]
    places[:, 0], places[:, 2] = bar + _WEIGHTS["bar_of_two"], bar + _WEIGHTS["bar_of_three"]
    places[:, 1] = _WEIGHTS["bar_weak"]
    return segments, (columns[:, :, None] + places[:, None]).astype(np.float32).reshape(len(columns), -1)


def _weigh_reading(reading: Reading, segments: Segments) -> Float[np.ndarray, " segment"]:
    """What the network says: a beat at the last group of a segment, none between the first and the last; the period."""
    first, last = segments.first, segments.last
    is_none = -np.logaddexp(0, reading.beat)  # log probabilities
    sums = np.append(0, np.cumsum(is_none))
    beats = reading.beat[last] + is_none[last] + sums[last] - sums[first + 1]
    place = np.clip((np.log2(segments.period) - FASTEST_OCTAVE) / OCTAVE_BIN, 0, BINS - 1.001)
    low, part = place.astype(int), place % 1
    period = sum(reading.period[at, low] * (1 - part) + reading.period[at, low + 1] * part for at in (first, last)) / 2
    return _READ_BEAT * beats + _READ_PERIOD * segments.beats * (period + np.log(BINS))


def _best(
    first: Int[np.ndarray, " segment"], weights: Float[np.ndarray, " segment"], count: int
) -> Int[np.ndarray, " kept"]:
    """The numbers, ascending, of the segments with the highest weights of those from the same group."""
    order = np.lexsort((-weights, first))
    starts = np.searchsorted(first, first)  # of the segments from the same group
    return np.sort(order[np.arange(len(first)) - starts < count])


def _all_segments(times: Float[np.ndarray, " group"]) -> Segments:
    """All segments whose beats last between SHORTEST and LONGEST."""
    here, parts = np.arange(len(times)), []
    for beats in _MULTIPLES:
        low = np.maximum(np.searchsorted(times, times + beats * SHORTEST), here + 1)
        high = np.searchsorted(times, times + beats * LONGEST, "right")
        high = high if beats == 1 else np.minimum(high, here + 2 * beats)
        first, last = ranges(low, np.maximum(high - low, 0))
        parts.append((first, last, np.full(len(first), beats)))
    first, last, beats = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(first, kind="stable")
    first, last, beats = first[order], last[order], beats[order]
    return Segments(first, last, beats, (times[last] - times[first]) / beats)


def ranges(
    starts: Int[np.ndarray, " range"], counts: Int[np.ndarray, " range"]
) -> tuple[Int[np.ndarray, " member"], Int[np.ndarray, " member"]]:
    """For each member of each range the number of the range, and the member: counts[i] integers from starts[i]."""
    number = np.repeat(np.arange(len(starts)), counts)
    return number, np.arange(len(number)) - np.repeat(np.cumsum(counts) - counts, counts) + starts[number]


def _weigh(features: dict[str, Float[np.ndarray, " segment"]], prefix: str = "") -> Float[np.ndarray, " segment"]:
    """The sum of the features, each times its weight."""
    return sum((_WEIGHTS[prefix + name] * value for name, value in features.items()), start=np.zeros(()))


def _onset_features(groups: Groups, segments: Segments) -> dict[str, Float[np.ndarray, " segment"]]:
    """What speaks for a beat at the last group of a segment, given the period."""
    last, octave = segments.last, np.minimum(np.log2(segments.period / CHANGE_SECONDS[0]), 2.999)
    features = {name: trait[last] for name, trait in groups.traits.items()}
    for name, span in groups.spans.items():
        features[name + "_within"] = np.minimum(span[last] / segments.period, 1)
        features[name + "_beyond"] = np.minimum(span[last] / segments.period, 2.5) - features[name + "_within"]
    features["strong"] = np.maximum(groups.strength[last], 0)
    for name, shift in (("change", 0), ("change_half", -1), ("change_double", 1)):
        place = np.clip(octave + shift, 0, 2.999)
        row, part = place.astype(int), place % 1
        features[name] = groups.change[row, last] * (1 - part) + groups.change[row + 1, last] * part
    return features


def _period_features(groups: Groups, segments: Segments) -> dict[str, Float[np.ndarray, " segment"]]:
    """What speaks for the period of a segment: a prior, notes a beat, and autocorrelation at multiples of it."""
    period, beats = segments.period, segments.beats.astype(float)
    octave = np.log2(period / 0.7)
    density = np.log2(np.maximum(groups.rate[segments.first] * period, 0.1)) - 2
    features = {"segment": np.ones(len(period)), "skipped": beats - 1, "skips": (beats > 1) * 1.0}
    for name, size in (("beat", beats), ("second", beats * period)):
        features |= {name + "_period": size * octave, name + "_period2": size * octave**2}
        features |= {name + "_density": size * density, name + "_density2": size * density**2}
    features["second"] = beats * period
    frame = np.rint((groups.times[segments.first] - groups.start) * FRAME_RATE / FRAME_HOP).astype(int)
    for name, lags in groups.lags.items():
        for label, factor in _LAG_FACTORS.items():
            lag = np.rint(period * factor * FRAME_RATE).astype(int)
            value = lags[np.clip(frame, 0, len(lags) - 1), np.minimum(lag, FRAME_LAGS - 1)] * beats
            features[f"{name}_{label}"] = np.where(lag < FRAME_LAGS, value, 0)
    return features


def _slot_weights(family: str, slots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each slot of a beat: the weight of an onset there, of none, and of the strength of an onset."""
    struck, empty, strength = np.zeros(slots), np.zeros(slots), np.zeros(slots)
    struck[0] = _WEIGHTS["inner_beat"]
    for slot in range(1, slots):
        level = slots // np.gcd(slot, slots)
        struck[slot], empty[slot] = (_WEIGHTS[f"{family}{slots}_{level}_{what}"] for what in ("struck", "empty"))
        strength[slot] = _WEIGHTS["half_strength" if level == 2 else "inner_strength"]
    return struck, empty, strength


def _subdivision_scores(groups: Groups, segments: Segments) -> Float[np.ndarray, "segment subdivision"]:
    """How well the onsets inside each segment fit each subdivision, where tempo is loose, then where it is steady."""
    inside = segments.last - segments.first - 1
    number, inner = ranges(segments.first + 1, inside)
    deviation = np.sqrt(0.02**2 + (0.05 * segments.period) ** 2)  # seconds
    times, beats = groups.times.astype(np.float32), segments.beats
    phase = (times[inner] - times[segments.first][number]) / segments.period.astype(np.float32)[number]  # beats
    scale, strength = (
        (segments.period / deviation).astype(np.float32)[number],
        groups.strength.astype(np.float32)[inner],
    )
    begins, count = np.diff(number, prepend=-1) != 0, beats.astype(np.float32)[number]
    spread = -np.log(deviation / 0.03) * inside
    loose, steady = [], []
    for family, slots in TYPES:
        place = phase * np.float32(slots)
        nearest = np.rint(place)
        error = np.minimum(np.abs(place - nearest) * (scale / np.float32(slots)), 2)  # deviations
        edge = (nearest <= 0) | (nearest >= slots * count)
        first = ~edge & (begins | (np.diff(nearest, prepend=-1) != 0))
        struck, empty, strong = (table.astype(np.float32) for table in _slot_weights(family, slots))
        fit, slot = error**2 * np.float32(-0.5), nearest.astype(np.int32) % slots
        good = _WEIGHTS["fit"] * fit + _WEIGHTS["off"] * (error >= 2) + (struck - empty)[slot] + strong[slot] * strength
        extra = np.where(edge, _WEIGHTS["edge"], _WEIGHTS["double"]) + _WEIGHTS["double_strength"] * strength
        plain = np.bincount(number, np.where(first, good, extra), len(beats)) + _WEIGHTS["spread"] * spread
        loose.append(plain + beats * (_WEIGHTS[f"{family}{slots}"] + empty.sum()))
        good = np.where(first, _WEIGHTS["steady_fit"] * fit, _WEIGHTS["steady_double"])
        plain = np.bincount(number, good, len(beats))
        steady.append(loose[-1] + plain + beats * _WEIGHTS["steady"] + _WEIGHTS["steady_spread"] * spread)
    return np.stack(loose + steady, axis=1)
