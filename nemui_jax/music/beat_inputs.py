"""What the network of `beat_network` is given of each group of onsets: numbers that depend on nothing but the notes
and the pedal around it, so that they are the same in any key and wherever in a song they stand."""

import numpy as np
from jaxtyping import Float, Int

from nemui_jax.music.beat_features import FRAME_HOP, FRAME_RATE, Groups, group_onsets

_PULSE_RATE, _PULSE_PAD = 40, 240  # samples a second, and samples before the first group
_PULSE_LAGS = np.geomspace(0.2, 4, 22)  # seconds before and after a group where onsets are looked for
_LAGS = np.geomspace(0.25, 6, 28)  # seconds, of the autocorrelation
_PEDAL_SECONDS = (-0.1, -0.03, 0.04, 0.12, 0.25)  # after a group
_PEDAL_DOWN = 50  # of 127: pianists half release it for a new harmony
PEDAL_INPUTS = 10  # the last but PERIOD_INPUTS
PERIOD_INPUTS = 2 * len(_LAGS)


def make_inputs(groups: Groups, notes: np.ndarray, pedal: np.ndarray) -> Float[np.ndarray, "group input"]:
    """The inputs for each of the groups of these notes; `pedal` is PEDAL, empty where none is used."""
    columns = [
        *groups.traits.values(),
        *groups.change,
        *(_log(span, 0.3) for span in groups.spans.values()),
        *_intervals(groups.times),
        np.log(groups.rate / 5 + 0.05),
        *_outer_voices(notes),
        *_distances(groups.times),
        *_endings(groups.times, notes),
        *_pulses(groups),
        *_pedal(groups.times, pedal),
        *_periods(groups),
    ]
    return np.stack(columns, 1).astype(np.float32)


def _log(seconds: np.ndarray, unit: float) -> np.ndarray:
    return np.log(np.clip(seconds, 0.02, 8) / unit)


def _intervals(times: Float[np.ndarray, " group"]) -> list[np.ndarray]:
    """Seconds to the next group, from the last one, between the two after that, and between the two before."""
    gaps = np.diff(times)
    later, earlier = np.append(gaps, 1.0), np.append(1.0, gaps)
    return [_log(gap, 0.2) for gap in (later, earlier, np.append(later[1:], 1.0), np.append(1.0, earlier[:-1]))]


def _distances(times: Float[np.ndarray, " group"]) -> list[np.ndarray]:
    """Seconds to the third to sixth group after and before."""
    columns = []
    for count in range(3, 7):
        spans, rest = times[count:] - times[:-count], np.full(min(count, len(times)), 2.0)
        columns += [_log(np.append(spans, rest), 0.2 * count), _log(np.append(rest, spans), 0.2 * count)]
    return columns


def _outer_voices(notes: np.ndarray) -> list[np.ndarray]:
    """Lengths of the lowest and the highest note, how far these are from those before, and how far apart."""
    group, pitch = group_onsets(notes["onset"].astype(float)), notes["pitch"].astype(float)
    start = np.flatnonzero(np.diff(group, prepend=-1))
    low, high = np.minimum.reduceat(pitch, start), np.maximum.reduceat(pitch, start)
    length = notes["end"] - notes["onset"]
    lengths = [np.maximum.reduceat(np.where(pitch == outer[group], length, 0), start) for outer in (low, high)]
    leaps = [np.clip(np.diff(outer, prepend=outer[0]), -24, 24) / 12 for outer in (low, high)]
    return [*(_log(length, 0.3) for length in lengths), *leaps, (high - low) / 24]


def _endings(times: Float[np.ndarray, " group"], notes: np.ndarray) -> list[np.ndarray]:
    """How many notes end as a group begins, and how many sound on."""
    ends, onsets = np.sort(notes["end"]), notes["onset"]
    before, after = np.searchsorted(ends, times - 0.08), np.searchsorted(ends, times + 0.05)
    return [np.log1p(after - before), np.log1p(np.maximum(np.searchsorted(onsets, times - 0.04) - after, 0))]


def _pulses(groups: Groups) -> list[np.ndarray]:
    """How strong the onsets are at each lag after and before a group."""
    place = (groups.times - groups.times[0]) * _PULSE_RATE + _PULSE_PAD
    weights, size = np.exp(0.7 * np.clip(groups.strength, -2, 2)), int(place[-1] - _PULSE_PAD) + 2 * _PULSE_PAD + 2
    train = np.bincount(place.astype(int), weights, minlength=size)
    train = np.log1p(np.convolve(train, np.exp(-0.5 * (np.arange(-5, 6) / 1.4) ** 2), "same"))
    lags = np.stack([_PULSE_LAGS, -_PULSE_LAGS], 1).ravel() * _PULSE_RATE
    return list(train[np.clip(np.rint(place + lags[:, None]).astype(int), 0, len(train) - 1)])


def _pedal(times: Float[np.ndarray, " group"], pedal: np.ndarray) -> list[np.ndarray]:
    """How far the pedal is down around a group, when it is next and was last pressed and lifted, and a 1."""
    if not len(pedal):
        return [np.zeros(len(times))] * PEDAL_INPUTS
    when, value = pedal["time"], np.append(0, pedal["value"])
    depths = [value[np.searchsorted(when, times + seconds)] / 127 - 0.5 for seconds in _PEDAL_SECONDS]
    changes = np.diff((pedal["value"] >= _PEDAL_DOWN).astype(int), prepend=0)
    moves = when[changes > 0], when[changes < 0]
    waits = [_log(wait, 0.15) for move in moves for wait in _waits(times - 0.05, move)]
    return [*depths, *waits, np.ones(len(times))]


def _waits(times: Float[np.ndarray, " group"], events: Float[np.ndarray, " event"]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds to the next event, and from the last one."""
    place: Int[np.ndarray, " group"] = np.searchsorted(events, times)
    padded = np.concatenate([[-1e9], events, [1e9]])
    return padded[place + 1] - times, times - padded[place]


def _periods(groups: Groups) -> list[np.ndarray]:
    """The autocorrelation of the rhythm and of the bass around a group."""
    frame = np.rint((groups.times - groups.start) * FRAME_RATE / FRAME_HOP).astype(int)
    lag, part = (_LAGS * FRAME_RATE).astype(int), (_LAGS * FRAME_RATE) % 1
    found = []
    for lags in groups.lags.values():
        rows = lags[np.minimum(frame, len(lags) - 1)]
        found += list((rows[:, lag] * (1 - part) + rows[:, lag + 1] * part).T)
    return found
