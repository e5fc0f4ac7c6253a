"""What is known of each group of onsets that speaks for or against a beat there."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

MERGE_GAP, MERGE_SPAN = 0.03, 0.07  # seconds: onsets this close make one group; no group is longer than the span
FRAME_RATE, FRAME_HOP = 40, 80  # of the autocorrelation: samples a second, and samples from frame to frame
_FRAME_WINDOW, FRAME_LAGS = 640, 360  # samples
_NEIGHBORS = 60  # groups that are searched for the next or last note of a voice
CHANGE_SECONDS = (0.25, 0.5, 1.0, 2.0)  # windows before and after a group whose pitch classes are compared
# How likely a group is a beat by its traits alone (logistic regression): used to weigh onsets within a beat.
_STRENGTH = {
    "velocity": 0.19, "chord": 0.68, "low": -0.08, "high": -0.06, "held": 0.63,
    "next": -0.58, "last": -0.29, "low_next": 0.42, "high_next": 0.49, "low_last": 0.08,
}  # fmt: skip


class Groups(NamedTuple):
    """Groups of onsets."""

    times: Float[np.ndarray, " group"]  # seconds
    strength: Float[np.ndarray, " group"]  # log odds of a beat by its traits alone
    rate: Float[np.ndarray, " group"]  # groups a second around it
    traits: dict[str, Float[np.ndarray, " group"]]  # each less its mean over 3 seconds either side
    spans: dict[str, Float[np.ndarray, " group"]]  # seconds
    change: Float[np.ndarray, "window group"]  # of the pitch classes at the group
    lags: dict[str, Float[np.ndarray, "frame lag"]]  # autocorrelation of the rhythm and of the bass
    start: float  # seconds, of the first frame

    def cut(self, low: int, high: int) -> "Groups":
        """The groups from `low` to before `high`."""
        times, strength, rate = (value[low:high] for value in self[:3])
        traits, spans = ({name: value[low:high] for name, value in table.items()} for table in self[3:5])
        return Groups(times, strength, rate, traits, spans, self.change[:, low:high], self.lags, self.start)


def group_onsets(onsets: Float[np.ndarray, " note"]) -> Int[np.ndarray, " note"]:
    """The group of each onset; onsets ascend."""
    groups, start, before, group = [], onsets[0], onsets[0], 0
    for onset in onsets.tolist():
        if onset - before > MERGE_GAP or onset - start > MERGE_SPAN:
            group, start = group + 1, onset
        groups.append(group)
        before = onset
    return np.array(groups)


def describe(notes: np.ndarray) -> Groups:
    """The groups of notes, sorted by onset, and their features."""
    onset, pitch = notes["onset"].astype(float), notes["pitch"].astype(float)
    group = group_onsets(onset)
    start, sizes = np.flatnonzero(np.diff(group, prepend=-1)), np.bincount(group)
    times = np.bincount(group, onset) / sizes
    low, high = np.minimum.reduceat(pitch, start), np.maximum.reduceat(pitch, start)
    spans = {
        "held": np.maximum.reduceat(np.clip(notes["end"] - onset, 0, 4), start),
        "low_next": _wait(times, low, 5.0, later=True),
        "high_next": _wait(times, -high, 5.0, later=True),
        "low_last": _wait(times, low, 2.0, later=False),
    }
    gaps = np.minimum(np.diff(times, prepend=times[0] - 1, append=times[-1] + 1), 2)
    plain = {
        "velocity": np.maximum.reduceat(notes["velocity"].astype(float), start) / 16,
        "chord": np.log(sizes),
        "low": low / 12,
        "high": high / 12,
        **{name: np.log(np.maximum(span, 0.03)) for name, span in spans.items()},
        "next": np.log(np.maximum(gaps[1:], 0.03)),
        "last": np.log(np.maximum(gaps[:-1], 0.03)),
    }
    traits = {name: value - _local_mean(times, value, 3.0) for name, value in plain.items()}
    strength = np.sum([weight * traits[name] for name, weight in _STRENGTH.items()], axis=0)
    classes = np.zeros((len(times), 12))
    classes[group, notes["pitch"] % 12] = 1
    rate = (np.searchsorted(times, times + 4) - np.searchsorted(times, times - 4)) / 8
    salience = {"rhythm": strength, "bass": traits["low_next"] - 2 * traits["low"]}
    lags = {name: _autocorrelation(times, np.exp(0.7 * np.clip(value, -2, 2))) for name, value in salience.items()}
    return Groups(times, strength, rate, traits, spans, _change(times, classes), lags, float(times[0]))


def _local_mean(
    times: Float[np.ndarray, " group"], values: Float[np.ndarray, " group"], seconds: float
) -> Float[np.ndarray, " group"]:
    """The mean over the groups no further away than some seconds."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    first, last = np.searchsorted(times, times - seconds), np.searchsorted(times, times + seconds, "right")
    return (total[last] - total[first]) / (last - first)


def _wait(
    times: Float[np.ndarray, " group"], heights: Float[np.ndarray, " group"], tolerance: float, later: bool
) -> Float[np.ndarray, " group"]:
    """Seconds to the next group (or from the last one) that is at most `tolerance` higher; at most 3."""
    wait, searching = np.full(len(times), 3.0), np.ones(len(times), bool)
    for step in range(1, min(_NEIGHBORS, len(times) - 1) + 1):
        early, late = slice(None, -step), slice(step, None)
        here, there = (early, late) if later else (late, early)
        hit = searching[here] & (heights[there] <= heights[here] + tolerance)
        wait[here][hit] = (times[late] - times[early])[hit]
        searching[here][hit] = False
    return np.minimum(wait, 3.0)


def _change(
    times: Float[np.ndarray, " group"], classes: Float[np.ndarray, "group 12"]
) -> Float[np.ndarray, "window group"]:
    """How much the pitch classes after a group differ from those before: cosine distance, less its local mean."""
    total = np.concatenate([np.zeros((1, 12)), np.cumsum(classes, 0)])
    here, rows = np.arange(len(times)), []
    for seconds in CHANGE_SECONDS:
        before = total[here] - total[np.searchsorted(times, times - seconds)]
        after = total[np.searchsorted(times, times + seconds - 0.02)] - total[here]
        size = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        distance = 1 - (before * after).sum(1) / (size + 1e-9)
        rows.append(distance - _local_mean(times, distance, 6.0))
    return np.array(rows)


def _autocorrelation(
    times: Float[np.ndarray, " group"], weights: Float[np.ndarray, " group"]
) -> Float[np.ndarray, "frame lag"]:
    """Autocorrelation of weighted onsets in frames of 16 seconds, one every 2 seconds, up to lags of 9 seconds."""
    steps = int((times[-1] - times[0]) * FRAME_RATE) + 2
    train = np.bincount(((times - times[0]) * FRAME_RATE).astype(int), weights, minlength=steps)
    train = np.convolve(np.pad(train, 6), np.exp(-0.5 * (np.arange(-6, 7) / 1.6) ** 2), "valid")
    padded, window = np.pad(train, (_FRAME_WINDOW // 2, _FRAME_WINDOW)), np.hanning(_FRAME_WINDOW)
    shape = np.fft.irfft(np.abs(np.fft.rfft(window, 2 * _FRAME_WINDOW)) ** 2)[:FRAME_LAGS]
    frames = padded[np.arange(0, steps, FRAME_HOP)[:, None] + np.arange(_FRAME_WINDOW)]
    spectra = np.fft.rfft((frames - frames.mean(1, keepdims=True)) * window, 2 * _FRAME_WINDOW)
    rows = np.fft.irfft(np.abs(spectra) ** 2)[:, :FRAME_LAGS]
    return rows / (rows[:, :1] + 1e-9) * (shape[0] / np.maximum(shape, 0.05 * shape[0]))
