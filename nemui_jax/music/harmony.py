"""The harmony of each beat of a song: a major triad, a minor triad, or none that is clear."""

import numpy as np
from jaxtyping import Float, Int

NO_CHORD = 24  # chords 0 to 11 are the major triads on C, C# ... B, 12 to 23 the minor ones
THIRD_AND_FIFTH = ((4, 7), (3, 7))
CHANGE_COST = 0.6  # of a new chord on a beat; the first beat of a bar and its middle cost less
WEAK_BEAT_COST = 0.5  # added on other beats
NONE_FIT = 0.2  # how well no chord fits any beat
OUTSIDE_COST = 0.6  # of a pitch class that is not in the chord, against one that is
BASS_ROOT_FIT = 0.25  # for the root in the bass
BASS_PITCH = 55  # below which notes count as bass


def triad(chord: int) -> tuple[int, int, int]:
    """The pitch classes of a chord from 0 to 23: root, third and fifth."""
    root, (third, fifth) = chord % 12, THIRD_AND_FIFTH[chord // 12]
    return root, (root + third) % 12, (root + fifth) % 12


TRIADS = np.zeros((NO_CHORD, 12), np.float32)  # 1 where a pitch class is in the chord
for _chord in range(NO_CHORD):
    TRIADS[_chord, list(triad(_chord))] = 1


def pitch_class_weights(
    onset: Float[np.ndarray, " note"], end: Float[np.ndarray, " note"], pitch: Int[np.ndarray, " note"], beats: int
) -> Float[np.ndarray, "beat 12"]:
    """How long each pitch class sounds in each beat, in beats, added up over notes. Onsets and ends are in beats."""
    weights = np.zeros((beats + 1, 12))
    first, last = np.floor(onset).astype(int), np.ceil(end).astype(int)
    for offset in range(int((last - first).max(initial=0))):
        beat = first + offset
        length = np.minimum(end, beat + 1) - np.maximum(onset, beat)
        np.add.at(weights, (np.clip(beat, 0, beats), pitch % 12), np.maximum(length, 0))
    return weights[:beats]


def chords(
    onset: Float[np.ndarray, " note"],
    end: Float[np.ndarray, " note"],
    pitch: Int[np.ndarray, " note"],
    beats: int,
    strong: Int[np.ndarray, " strong"] | None = None,
) -> Int[np.ndarray, " beat"]:
    """The chord of each beat: 0 to 11 major, 12 to 23 minor, NO_CHORD for none.

    Onsets and ends are in beats; drums are left out by the caller. `strong` are the beats on which chords like to
    change, by default every second one. The most likely sequence by the Viterbi algorithm: a chord fits a beat by the
    share of its sound that is in the chord, and a change costs CHANGE_COST.
    """
    if not beats:
        return np.empty(0, np.int64)
    weights = pitch_class_weights(onset, end, pitch, beats)
    low = pitch < BASS_PITCH
    bass = pitch_class_weights(onset[low], end[low], pitch[low], beats)
    present = np.sqrt(weights)  # a tone that is struck briefly counts nearly as much as one that is held
    share = present / np.maximum(present.sum(1, keepdims=True), 1e-9)
    bass_share = bass / np.maximum(bass.sum(1, keepdims=True), 1e-9)
    inside = share @ TRIADS.T
    fit = inside - OUTSIDE_COST * (1 - inside) + BASS_ROOT_FIT * np.tile(bass_share, 2)
    fit = np.column_stack([fit, np.full(beats, NONE_FIT)])
    fit[weights.sum(1) == 0] = 0  # a rest goes on with the chord before it
    cost = np.full(beats, CHANGE_COST + WEAK_BEAT_COST)
    cost[np.arange(0, beats, 2) if strong is None else strong[strong < beats]] = CHANGE_COST
    return _best_path(fit, cost)


def _best_path(fit: Float[np.ndarray, "beat state"], change: Float[np.ndarray, " beat"]) -> Int[np.ndarray, " beat"]:
    """The states with the largest total fit, less the cost of each change."""
    total, came_from = fit[0], np.zeros(fit.shape, np.int64)
    for beat in range(1, len(fit)):
        best = int(total.argmax())
        stays = total >= total[best] - change[beat]
        came_from[beat] = np.where(stays, np.arange(len(total)), best)
        total = np.where(stays, total, total[best] - change[beat]) + fit[beat]
    path = [int(total.argmax())]
    for beat in range(len(fit) - 1, 0, -1):
        path.append(int(came_from[beat][path[-1]]))
    return np.array(path[::-1])
