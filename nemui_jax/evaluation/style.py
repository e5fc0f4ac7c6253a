"""Statistics of music: measures of a piece.

Conventions: notes are NOTE arrays (`song.NOTE`) in any order; a measure takes an excerpt from `start` to `end` in
seconds. Most count the notes that begin in it (onset from `start` to before `end`); polyphony and rest ratio count the
part of every note that lies in it, from onset to end, without regard to the pedal. Measures of an excerpt without notes
are 0, the rest ratio 1. How close two pieces are is measured in `note_metrics`.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

ATTACK_SECONDS = 1 / 32  # an onset less than this after the previous one belongs to the same attack (a chord)
WINDOW_SECONDS = 10.0  # of scale consistency
INTERVAL_EDGES = np.geomspace(1 / 32, 4, 15)  # seconds between attacks, half octaves
DURATION_EDGES = np.geomspace(1 / 32, 8, 17)  # seconds of a note, half octaves
MAJOR_SCALE = np.isin(np.arange(12), [0, 2, 4, 5, 7, 9, 11])


def onset_density(notes: np.ndarray, start: float, end: float) -> float:
    """Onsets per second."""
    return len(_struck(notes, start, end)) / (end - start)


def attack_density(notes: np.ndarray, start: float, end: float) -> float:
    """Attacks (chords count once) per second."""
    return len(attacks(_struck(notes, start, end))) / (end - start)


def polyphony(notes: np.ndarray, start: float, end: float) -> float:
    """Mean number of simultaneous notes, over the time in which there are any."""
    onset, stop = _clipped(notes, start, end)
    busy = _covered(onset, stop)
    return float((stop - onset).sum() / busy) if busy else 0.0


def rest_ratio(notes: np.ndarray, start: float, end: float) -> float:
    """Share of the time without notes."""
    return 1 - _covered(*_clipped(notes, start, end)) / (end - start)


def pitch_count(notes: np.ndarray, start: float, end: float) -> float:
    """Number of different pitches ("PC" in Yang and Lerch)."""
    return float(len(np.unique(_struck(notes, start, end)["pitch"])))


def pitch_range(notes: np.ndarray, start: float, end: float) -> float:
    """Semitones from the lowest to the highest pitch ("PR")."""
    pitch = _struck(notes, start, end)["pitch"]
    return float(np.ptp(pitch)) if len(pitch) else 0.0


def pitch_interval(notes: np.ndarray, start: float, end: float) -> float:
    """Mean semitones between the highest notes of successive attacks ("PI", of the top line)."""
    struck = _struck(notes, start, end)
    first = attacks(struck)
    if len(first) < 2:
        return 0.0
    return float(np.abs(np.diff(np.maximum.reduceat(struck["pitch"].astype(int), first))).mean())


def pitch_class_entropy(notes: np.ndarray, start: float, end: float) -> float:
    """Entropy of the pitch-class histogram in bits, 0 to log2(12) = 3.58."""
    share = pitch_classes(notes, start, end)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum()) + 0.0


def scale_consistency(notes: np.ndarray, start: float, end: float) -> float:
    """Share of onsets that lie in the best of the 12 major scales, chosen for each window of 10 s.

    After Mogren (2016), "C-RNN-GAN"; windows allow for modulation, and are weighted by their onsets.
    """
    struck = _struck(notes, start, end)
    if not len(struck):
        return 0.0
    window = ((struck["onset"] - start) // WINDOW_SECONDS).astype(int)
    counts = np.bincount(window * 12 + struck["pitch"] % 12, minlength=12 * (window[-1] + 1)).reshape(-1, 12)
    scales = np.stack([np.roll(MAJOR_SCALE, tonic) for tonic in range(12)], axis=1)
    return float((counts @ scales).max(axis=1).sum() / len(struck))


def attack_interval(notes: np.ndarray, start: float, end: float) -> float:
    """Mean seconds between successive attacks ("IOI")."""
    intervals = _attack_intervals(notes, start, end)
    return float(intervals.mean()) if len(intervals) else 0.0


def mean_velocity(notes: np.ndarray, start: float, end: float) -> float:
    """Mean MIDI velocity of the struck notes."""
    struck = _struck(notes, start, end)
    return float(struck["velocity"].mean()) if len(struck) else 0.0


def velocity_spread(notes: np.ndarray, start: float, end: float) -> float:
    """Standard deviation of the MIDI velocities of the struck notes."""
    struck = _struck(notes, start, end)
    return float(struck["velocity"].std()) if len(struck) else 0.0


def pitch_classes(notes: np.ndarray, start: float, end: float) -> Float[np.ndarray, "12"]:
    """Share of onsets on each pitch class, C first ("PCH")."""
    return _shares(np.bincount(_struck(notes, start, end)["pitch"] % 12, minlength=12))


def pitch_class_transitions(notes: np.ndarray, start: float, end: float) -> Float[np.ndarray, "12 12"]:
    """Share of transitions from a pitch class (row) to one in the next attack (column), sum 1 ("PCTM").

    Each pair of successive attacks has the same weight, divided equally over the pairs of their notes.
    """
    struck = _struck(notes, start, end)
    first = attacks(struck)
    if not len(first):
        return np.zeros((12, 12))
    per_attack = np.add.reduceat(np.eye(12)[struck["pitch"] % 12], first)
    per_attack /= per_attack.sum(axis=1, keepdims=True)
    return _shares(per_attack[:-1].T @ per_attack[1:])


def attack_intervals(notes: np.ndarray, start: float, end: float) -> Float[np.ndarray, "14"]:
    """Share of the times between successive attacks in each half octave from 1/32 to 4 s; the end bins are open."""
    return _histogram(_attack_intervals(notes, start, end), INTERVAL_EDGES)


def durations(notes: np.ndarray, start: float, end: float) -> Float[np.ndarray, "16"]:
    """Share of struck notes in each half octave of duration from 1/32 to 8 s ("NLH"); the end bins are open."""
    struck = _struck(notes, start, end)
    return _histogram(struck["end"] - struck["onset"], DURATION_EDGES)


# The sets of Yang and Lerch (2020), "On the evaluation of generative models in music", as far as they carry over
# from monophonic scores: note-length transitions do not, and counts are per second so that lengths may differ.
SCALARS: tuple[Callable[[np.ndarray, float, float], float], ...] = (
    onset_density,
    attack_density,
    polyphony,
    rest_ratio,
    pitch_count,
    pitch_range,
    pitch_interval,
    pitch_class_entropy,
    scale_consistency,
    attack_interval,
    mean_velocity,
    velocity_spread,
)
VECTORS: tuple[Callable[[np.ndarray, float, float], np.ndarray], ...] = (
    pitch_classes,
    pitch_class_transitions,
    attack_intervals,
    durations,
)


def style(notes: np.ndarray, start: float = 0.0, end: float | None = None) -> dict[str, float | np.ndarray]:
    """Every measure of an excerpt by name, scalars first; `end` is the end of the last note by default."""
    if end is None:
        end = float(notes["end"].max()) if len(notes) else start + 1
    if end <= start:
        raise ValueError(f"an excerpt from {start} to {end} s has no length; pass an end after the start")
    return {measure.__name__: measure(notes, start, end) for measure in (*SCALARS, *VECTORS)}


def _struck(notes: np.ndarray, start: float, end: float) -> np.ndarray:
    """The notes that start in the excerpt, by onset, then pitch."""
    inside = notes[(notes["onset"] >= start) & (notes["onset"] < end)]
    return inside[np.lexsort((inside["pitch"], inside["onset"]))]


def _clipped(
    notes: np.ndarray, start: float, end: float
) -> tuple[Float[np.ndarray, " note"], Float[np.ndarray, " note"]]:
    """Starts and ends of all notes, clipped to the excerpt, by start."""
    inside = notes[(notes["onset"] < end) & (notes["end"] > start)]
    inside = inside[np.argsort(inside["onset"])]
    return np.maximum(inside["onset"], start), np.minimum(inside["end"], end)


def _covered(onset: Float[np.ndarray, " note"], stop: Float[np.ndarray, " note"]) -> float:
    """Seconds covered by at least one of the notes, sorted by onset."""
    if not len(onset):
        return 0.0
    latest = np.maximum.accumulate(stop)
    gaps = np.maximum(onset[1:] - latest[:-1], 0).sum()
    return float(latest[-1] - onset[0] - gaps)


def attacks(struck: np.ndarray) -> Int[np.ndarray, " attack"]:
    """The index of the first note of each attack, of notes sorted by onset."""
    return np.flatnonzero(np.diff(struck["onset"], prepend=-np.inf) >= ATTACK_SECONDS)


def _attack_intervals(notes: np.ndarray, start: float, end: float) -> Float[np.ndarray, " interval"]:
    struck = _struck(notes, start, end)
    return np.diff(struck["onset"][attacks(struck)])


def _histogram(seconds: np.ndarray, edges: np.ndarray) -> Float[np.ndarray, " bin"]:
    return _shares(np.bincount(bins(seconds, edges), minlength=len(edges) - 1))


def bins(seconds: np.ndarray, edges: np.ndarray) -> Int[np.ndarray, " value"]:
    """The bin of each value; the first and the last bin are open."""
    return np.searchsorted(edges[1:-1], seconds, side="right")


def _shares(counts: np.ndarray) -> np.ndarray:
    total = counts.sum()
    return counts / total if total else counts.astype(float)


def scott_bandwidth(samples: Float[np.ndarray, " sample"]) -> float:
    """Scott's rule for one dimension: the standard deviation times the number of samples to the power -1/5."""
    return float(samples.std(ddof=1) * len(samples) ** -0.2) if len(samples) > 1 else 0.0


def log_density(
    samples: Float[np.ndarray, " sample"], at: Float[np.ndarray, " point"], floor: float = 1e-9
) -> Float[np.ndarray, " point"]:
    """Logarithm of a Gaussian kernel density estimate, with the larger of Scott's bandwidth and `floor`.

    It is computed in logarithms, so that it is finite at any distance from the samples.
    """
    bandwidth = max(scott_bandwidth(samples), floor)

    def log_sum(point: float) -> float:
        exponents = -0.5 * ((point - samples) / bandwidth) ** 2
        highest = exponents.max()
        return highest + np.log(np.exp(exponents - highest).sum())

    return np.array([log_sum(point) for point in at]) - np.log(len(samples) * bandwidth * np.sqrt(2 * np.pi))
