"""How close one set of notes is to another: a song played back to its file, a mix to its parents.

Conventions: notes are NOTE arrays (`song.NOTE`), times are seconds, pitches MIDI numbers; a note's channel
and program are ignored. Statistics of music by itself are in `style`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int

from nemui_jax.data import pianoroll
from nemui_jax.music.song import DRUM_CHANNEL, Song, merge_notes

ONSET_SECONDS = 0.05  # tolerance of an onset, and the smallest tolerance of an end
END_RATIO = 0.2  # tolerance of an end, as a share of the reference note's duration
VELOCITY_TOLERANCE = 0.1  # of the reference's velocity range, after the best linear fit
DECIMALS = 4  # distances in time are rounded to 0.1 ms, as in mir_eval, so that exactly 50 ms is a hit
STEP_SECONDS = 0.05  # grid of `likeness`; onsets may be one step apart
_INSTRUMENT_NOTE = np.dtype([("onset", "f8"), ("end", "f8"), ("pitch", "i4"), ("velocity", "u1")])


@dataclass(frozen=True)
class Score:
    """Precision, recall and their harmonic mean, each 0 to 1; all 0 where there is nothing to match."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class NoteScores:
    """How well estimated notes match reference notes; the fields are in order of strictness."""

    onset: Score  # same pitch, onset within 50 ms
    offset: Score  # also the end within 50 ms or 20 % of the reference's duration, the larger
    velocity: Score  # also the velocity within 0.1 of the reference's range, after a linear fit
    onset_error_seconds: float  # median |onset difference| over the notes matched by onset; nan without any


def note_scores(reference: np.ndarray, estimate: np.ndarray) -> NoteScores:
    """Note precision, recall and F1 of an estimate, as mir_eval 0.8 defines them.

    The measures are those of `mir_eval.transcription` and `mir_eval.transcription_velocity` (Raffel et al.
    2014, "mir_eval"; Hawthorne et al. 2018, "Onsets and Frames") with their default tolerances; they are 0 if either
    side has no notes. Notes that end where they start are allowed, unlike in mir_eval. Onset and offset scores equal
    mir_eval's. Where several largest matchings exist, velocities are compared on one of them, which need not be the
    one that mir_eval finds.
    """
    candidates = _candidates(reference, estimate)
    onset_pairs = _matching(candidates)
    end_distance = _distance(reference["end"][candidates[:, 0]], estimate["end"][candidates[:, 1]])
    duration = (reference["end"] - reference["onset"])[candidates[:, 0]]
    offset_pairs = _matching(candidates[end_distance <= np.maximum(END_RATIO * duration, ONSET_SECONDS)])
    velocity_pairs = _with_close_velocity(offset_pairs, reference["velocity"], estimate["velocity"])

    errors = np.abs(reference["onset"][onset_pairs[:, 0]] - estimate["onset"][onset_pairs[:, 1]])
    sizes = len(reference), len(estimate)
    return NoteScores(
        onset=_score(len(onset_pairs), *sizes),
        offset=_score(len(offset_pairs), *sizes),
        velocity=_score(len(velocity_pairs), *sizes),
        onset_error_seconds=float(np.median(errors)) if len(errors) else float("nan"),
    )


def playback_scores(source: Song, played: Song) -> dict[str, float | None]:
    """How well a song was played back.

    `onset`, `offset` and `velocity` are note F1, 0 to 1, in order of strictness (see NoteScores). Notes match only if
    they have the same instrument too, as MT3 is judged (Gardner et al., 2022); the ends of drum hits do not count.
    `pedal` is `pedal_agreement`; `onset_error_seconds` is the median, None where no note is matched.
    """
    scores = note_scores(*(_by_instrument(merge_notes(song.parts)) for song in (source, played)))
    return {
        "onset": scores.onset.f1,
        "offset": scores.offset.f1,
        "velocity": scores.velocity.f1,
        "pedal": pedal_agreement(source.pedal, played.pedal, source.seconds),
        "onset_error_seconds": scores.onset_error_seconds if scores.onset.f1 else None,
    }


def compare_notes(source: Song, played: Song) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SONG_NOTE: the notes of a song that were played back, those that were missed, and those that were added.

    Notes match as for `onset` in `playback_scores`.
    """
    wanted, found = merge_notes(source.parts), merge_notes(played.parts)
    pairs = _matching(_candidates(_by_instrument(wanted), _by_instrument(found)))
    return found[pairs[:, 1]], np.delete(wanted, pairs[:, 0]), np.delete(found, pairs[:, 1])


def _by_instrument(notes: np.ndarray) -> np.ndarray:
    """SONG_NOTE notes, in the same order, with pitches that are 128 apart from one instrument to the next."""
    drums = notes["channel"] == DRUM_CHANNEL
    found = notes[["onset", "end", "pitch", "velocity"]].astype(_INSTRUMENT_NOTE)
    found["pitch"] += 128 * np.where(drums, 128, notes["program"].astype(int))
    found["end"][drums] = found["onset"][drums]
    return found


def _score(hits: int, references: int, estimates: int) -> Score:
    precision = hits / estimates if estimates else 0.0
    recall = hits / references if references else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return Score(precision, recall, f1)


def _distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.around(np.abs(first - second), DECIMALS)


def _candidates(reference: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """All pairs `[pair, (reference, estimate)]` of equal pitch and close onset, sorted by reference, then estimate."""
    if not len(reference) or not len(estimate):
        return np.empty((0, 2), np.intp)
    # Pitch and time on one axis: notes of different pitches are further apart than the songs are long.
    latest = max(reference["onset"].max(), estimate["onset"].max())
    earliest = min(reference["onset"].min(), estimate["onset"].min())
    stride = latest - earliest + 1.0
    order = np.lexsort((estimate["onset"], estimate["pitch"]))
    places = (estimate["onset"] - earliest + stride * estimate["pitch"])[order]
    centre = reference["onset"] - earliest + stride * reference["pitch"]
    window = ONSET_SECONDS + 10.0**-DECIMALS  # larger than any distance that is rounded to the tolerance
    first = np.searchsorted(places, centre - window, side="left")
    count = np.searchsorted(places, centre + window, side="right") - first
    references = np.repeat(np.arange(len(reference)), count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    estimates = order[np.repeat(first, count) + within]
    near = _distance(reference["onset"][references], estimate["onset"][estimates]) <= ONSET_SECONDS
    pairs = np.stack([references[near], estimates[near]], axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _matching(pairs: Int[np.ndarray, "pair 2"]) -> Int[np.ndarray, "matched 2"]:
    """A largest set of pairs in which no note occurs twice, sorted by reference."""
    if not len(pairs):
        return pairs
    from scipy.sparse import csr_array  # here, because it takes a quarter of a second
    from scipy.sparse.csgraph import maximum_bipartite_matching

    references, estimates = pairs.T
    graph = csr_array((np.ones(len(pairs), bool), (references, estimates)))
    partner = maximum_bipartite_matching(graph, perm_type="column")  # of each reference, -1 for none
    matched = np.flatnonzero(partner >= 0)
    return np.stack([matched, partner[matched]], axis=1)


def _with_close_velocity(pairs: np.ndarray, reference: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """The pairs whose velocities are close after a least-squares fit of the estimate's to the reference's."""
    if not len(pairs):
        return pairs
    velocity = reference.astype(float)
    wanted = ((velocity - velocity.min()) / max(1.0, np.ptp(velocity)))[pairs[:, 0]]
    played = estimate[pairs[:, 1]].astype(float)
    slope, intercept = np.linalg.lstsq(np.stack([played, np.ones(len(played))], axis=1), wanted, rcond=None)[0]
    return pairs[np.abs(slope * played + intercept - wanted) < VELOCITY_TOLERANCE]


def pedal_agreement(reference: np.ndarray, estimate: np.ndarray, seconds: float) -> float:
    """Share of the first `seconds` in which two PEDAL arrays have the sustain pedal in the same position, 0 to 1.

    The pedal is up before its first event. 1 if `seconds` is 0.
    """
    if seconds <= 0:
        return 1.0
    inside = [pedal["time"][(pedal["time"] > 0) & (pedal["time"] < seconds)] for pedal in (reference, estimate)]
    edges = np.concatenate([[0.0], np.sort(np.concatenate(inside)), [seconds]])
    same = _pedal_down(reference, edges[:-1]) == _pedal_down(estimate, edges[:-1])
    return float(np.diff(edges)[same].sum() / seconds)


def _pedal_down(pedal: np.ndarray, times: np.ndarray) -> Bool[np.ndarray, " time"]:
    down = np.concatenate([[False], pedal["value"] >= pianoroll.PEDAL_DOWN])
    return down[np.searchsorted(pedal["time"], times, side="right")]


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """How alike the onsets of two pieces are, 0 to 1.

    Onsets are rounded to the nearest step of STEP_SECONDS. An onset is a hit if the other piece has one of its pitch at
    most one step away, and likeness is the F1 of the two shares of hits. 0 if either is empty.
    """
    cells = [_onset_cells(notes) for notes in (first, second)]
    if not all(map(len, cells)):
        return 0.0
    near = [np.concatenate([found - 128, found, found + 128]) for found in cells]
    precision, recall = np.isin(cells[0], near[1]).mean(), np.isin(cells[1], near[0]).mean()
    return float(2 * precision * recall / max(precision + recall, 1e-12))


def _onset_cells(notes: np.ndarray) -> Int[np.ndarray, " cell"]:
    """128 * step + pitch of each cell of the grid in which a note starts, without duplicates."""
    steps = np.floor(np.maximum(notes["onset"], 0) / STEP_SECONDS + 0.5).astype(np.intp)
    return np.unique(steps * 128 + notes["pitch"])


def evenness(path: Sequence[np.ndarray]) -> float:
    """The largest distance (1 - likeness) between successive pieces of a path, divided by the mean one.

    1 if all distances are equal or the path never changes; the number of steps if all the change is in one.
    """
    distances = np.array([1 - likeness(first, second) for first, second in pairwise(path)])
    return float(distances.max() / distances.mean()) if distances.any() else 1.0
