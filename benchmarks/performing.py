"""Scores played as a pianist might, for training: made tempos, touch and dynamics, with beats that are known."""

from typing import NamedTuple

import numpy as np

from nemui_jax.evaluation.beats import own_beats
from nemui_jax.music.song import PEDAL, Song, as_notes

GRID = 0.05  # seconds of the score, in which its tempo is made
# How long the tempo drifts in beats, and by how much of its logarithm (standard deviation).
DRIFTS = ((1.2, 0.07), (4, 0.09), (16, 0.10), (60, 0.08))


class Played(NamedTuple):
    """A performance and its beats."""

    notes: np.ndarray  # NOTE
    pedal: np.ndarray  # PEDAL
    beats: np.ndarray  # seconds
    downbeats: np.ndarray  # whether each begins a bar; of none where they are not known


def perform(score: Song, rng: np.random.Generator) -> Played:
    """A score, played: its tempo drifts and slows down at the ends of phrases, chords are spread, the melody leads."""
    notes, (beats, downbeats) = as_notes(score.notes), own_beats(score)
    freedom = rng.uniform(0.4, 1.3)
    grid = np.arange(0, notes["onset"].max() + 3, GRID)
    slowness = _slowness(grid, beats, beats[downbeats], freedom, rng)
    played = np.concatenate([[0], np.cumsum(np.exp(slowness[:-1]) * GRID)]) + rng.uniform(0.2, 2)
    found = notes.copy()
    found["onset"], found["end"] = (np.interp(notes[name], grid, played) for name in ("onset", "end"))
    late, loudness = _touch(notes, found["onset"], beats, rng)
    flat = notes["velocity"].std() < 3 or rng.random() < 0.5
    found["velocity"] = np.clip(loudness if flat else notes["velocity"] + rng.normal(size=len(notes)) * 4, 8, 127)
    found["onset"] += late
    share = np.where(rng.random(len(notes)) < 0.5, rng.uniform(0.5, 1.05), 1)  # of its length that a note is held
    found["end"] = np.maximum(found["onset"] + (found["end"] - found["onset"]) * share, found["onset"] + 0.04)
    order = np.argsort(found["onset"], kind="stable")
    return Played(found[order], np.empty(0, PEDAL), np.interp(beats, grid, played), downbeats)


def _slowness(grid: np.ndarray, beats: np.ndarray, bars: np.ndarray, freedom: float, rng: np.random.Generator):
    """The logarithm of how much longer than written time is at each point of the grid."""
    beat = float(np.median(np.diff(beats)))
    found = np.full(len(grid), rng.normal(0, 0.15))
    for drift, deviation in DRIFTS:
        keep = np.exp(-GRID / (drift * beat))
        steps = rng.normal(size=len(grid)) * deviation * np.sqrt(1 - keep * keep) * freedom
        value = rng.normal() * deviation
        for index, step in enumerate(steps):
            value = keep * value + step
            found[index] += value
    phrase = int(rng.choice([2, 4, 8]))  # bars
    for end in bars[phrase::phrase]:
        if rng.random() < 0.7:
            width = beat * rng.uniform(0.4, 1.2)
            found += rng.uniform(0.05, 0.5) * freedom * np.exp(-0.5 * ((grid - end + 0.6 * beat) / width) ** 2)
    return found


def _touch(notes: np.ndarray, onsets: np.ndarray, beats: np.ndarray, rng: np.random.Generator):
    """The seconds by which each note is late, and its velocity."""
    late, lead, spread = rng.normal(size=len(notes)) * 0.01, rng.uniform(0, 0.03), rng.uniform(0, 0.25)
    times = np.arange(0, onsets.max() + 1, 0.05)
    loudness = np.interp(onsets, times, 60 + 12 * np.cumsum(rng.normal(size=len(times)) * 0.03))
    chord = np.round(notes["onset"] * 200).astype(int)
    order = np.lexsort((notes["pitch"], chord))
    for members in np.split(order, np.flatnonzero(np.diff(chord[order])) + 1):
        top, bottom = members[-1], members[0]
        if len(members) > 1:
            late[top] -= lead * rng.random()
            if int(notes["pitch"][top]) - int(notes["pitch"][bottom]) > 9 and rng.random() < spread:
                late[members] += np.arange(len(members)) * rng.uniform(0.02, 0.07)
        loudness[top] += rng.uniform(4, 14)
    near = np.searchsorted(beats, notes["onset"])
    gaps = [np.abs(beats[np.clip(near - back, 0, len(beats) - 1)] - notes["onset"]) for back in (0, 1)]
    return late, loudness + rng.uniform(0, 8) * (np.minimum(*gaps) < 0.02) + rng.normal(size=len(notes)) * 6


def varied(played: Played, rng: np.random.Generator) -> Played:
    """The same at another tempo, a little louder or softer and unsteadier, with a few notes missing."""
    notes, pedal, factor = played.notes.copy(), played.pedal.copy(), np.exp(rng.uniform(-0.28, 0.28))
    notes["onset"] = notes["onset"] * factor + rng.normal(size=len(notes)) * 0.004
    notes["end"] *= factor
    pedal["time"] *= factor
    velocity = notes["velocity"].astype(float)
    wider = velocity.mean() + (velocity - velocity.mean()) * rng.uniform(0.7, 1.3)
    notes["velocity"] = np.clip(wider + rng.normal(size=len(notes)) * 3 + rng.normal() * 6, 5, 127)
    notes = notes[rng.random(len(notes)) > rng.uniform(0, 0.06)]
    return played._replace(
        notes=notes[np.argsort(notes["onset"], kind="stable")], pedal=pedal, beats=played.beats * factor
    )
