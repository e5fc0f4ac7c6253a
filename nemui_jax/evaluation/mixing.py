"""Measures of a mix against its songs, counted in beats.

Conventions: all songs here are at QUARTER_SECONDS a quarter note and in the common key (`in_beats`), and notes are
SONG_NOTE arrays without drums. Measures of a mix are compared with the weighted mean of its songs' over the same beats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array

from nemui_jax.evaluation.language_model import LanguageModel
from nemui_jax.music.clock import ClockedSong, bar_lines
from nemui_jax.music.key import in_common_key
from nemui_jax.music.song import Song, TempoMap, cut_notes, retime

Windows = csr_array  # [window, cell]: 1 where a note begins; cells are steps by TONES pitches
QUARTER_SECONDS = 0.5
TONES = 128
STEPS = 12  # a quarter, of the rolls that windows are compared on
HEARD_QUARTERS, WOVEN_QUARTERS = 16, 4  # lengths of windows
NEAR_PITCHES = 3  # semitones that two onsets on one step may be apart to be alike
LIKENESS_RATIO = 1.1  # a song is heard in a window that is so many times as like it as other songs
SAME_BAR = 0.8  # F1 of onsets from which a bar is the return of another
COPY_LIKENESS = 0.9  # F1 of onsets from which a window is a passage of a song
ON_BEAT = (0, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1)  # of a quarter: sixteenths and triplet eighths
ON_BEAT_DISTANCE = 1 / 24


def in_beats(song: Song) -> np.ndarray:
    """The notes of a song at one tempo and in the common key."""
    return in_common_key(retime(replace(song, texts=()), song.tempo_map, TempoMap.steady(QUARTER_SECONDS)).notes)


def compare(
    mix: np.ndarray,
    songs: Sequence[np.ndarray],
    weights: Sequence[float],
    unrelated: Sequence[np.ndarray],
    quarters: int,
    bits: LanguageModel,
    without: Sequence[int],
) -> dict[str, float]:
    """The measures of the first quarters of a mix of songs; `without` are the songs' indices in the language model.

    `bits` is the cost of a note under the language model, as a ratio to the songs'; `clash` and `on_beat` are shares of
    onsets, as differences from the songs'; `density` is notes a beat, as a ratio. `heard` is the share of windows of
    HEARD_QUARTERS in which every song is heard, `woven` the same in windows of WOVEN_QUARTERS, `copied` the share of
    windows that are a passage of one song.
    """
    seconds = quarters * QUARTER_SECONDS
    mix, starts = cut_notes(mix, seconds), [cut_notes(song, seconds) for song in songs]

    def expected(measure) -> float:
        return float(np.average([measure(song) for song in starts], weights=weights))

    def cost(notes: np.ndarray) -> float:
        return bits.cost(notes, without=without)

    return {
        "bits": cost(mix) / expected(cost),
        "clash": clash(mix) - expected(clash),
        "on_beat": on_beat(mix) - expected(on_beat),
        "density": len(mix) / max(expected(len), 1),
        "heard": heard(mix, songs, unrelated, quarters, HEARD_QUARTERS),
        "woven": heard(mix, songs, unrelated, quarters, WOVEN_QUARTERS),
        "copied": copied(mix, songs, quarters),
    }


def cut_quarters(notes: np.ndarray, quarters: int) -> np.ndarray:
    """The notes that begin in the first quarters."""
    return cut_notes(notes, quarters * QUARTER_SECONDS)


def mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each measure."""
    return {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}


def clash(notes: np.ndarray) -> float:
    """The share of onsets with a note sounding a minor second, a major seventh or a minor ninth away."""
    if not len(notes):
        return 0.0
    notes, found = np.sort(notes, order="onset"), 0
    longest = float((notes["end"] - notes["onset"]).max())
    first = np.searchsorted(notes["onset"], notes["onset"] - longest - 0.01)
    last = np.searchsorted(notes["onset"], notes["onset"] + 0.005, side="right")
    pitch = notes["pitch"].astype(int)
    for index in range(len(notes)):
        others = slice(first[index], last[index])
        sounding = notes["end"][others] > notes["onset"][index] + 0.025
        distance = np.abs(pitch[others] - pitch[index])
        found += bool((sounding & ((distance == 1) | (distance == 11) | (distance == 13))).any())
    return found / len(notes)


def on_beat(notes: np.ndarray) -> float:
    """The share of onsets within ON_BEAT_DISTANCE of a sixteenth or a triplet eighth."""
    if not len(notes):
        return 0.0
    place = notes["onset"] / QUARTER_SECONDS % 1
    return float((np.abs(place[:, None] - np.array(ON_BEAT)).min(1) <= ON_BEAT_DISTANCE + 1e-6).mean())


def heard(
    mix: np.ndarray, songs: Sequence[np.ndarray], unrelated: Sequence[np.ndarray], quarters: int, size: int
) -> float:
    """The share of windows of `size` quarters that are more like each of the songs than like unrelated ones.

    Likeness is the F1 of onsets on the same step and at most NEAR_PITCHES apart, with the best passage of a song.
    Windows with fewer notes than one for two quarters do not count.
    """
    here = _windows(mix, quarters, size, size)
    full = here.sum(1) >= size / 2
    if not full.any():
        return 0.0
    own = np.stack([_likeness(here, song, size)[full] for song in songs])
    other = np.mean([_likeness(here, song, size)[full] for song in unrelated], axis=0) if unrelated else 0.0
    return float(((own > 0) & (own >= LIKENESS_RATIO * other)).all(0).mean())


def copied(mix: np.ndarray, songs: Sequence[np.ndarray], quarters: int) -> float:
    """The share of windows of HEARD_QUARTERS that are a passage of one of the songs, at its best transposition."""
    found = copy_likeness(mix, songs, quarters, HEARD_QUARTERS)
    return float((found > COPY_LIKENESS).mean()) if len(found) else 0.0


def copy_likeness(
    mix: np.ndarray, songs: Sequence[np.ndarray], quarters: int, hop: int
) -> Float[np.ndarray, " window"]:
    """How like a passage of one of the songs each window is: the F1 of its onsets at the best transposition.

    Windows of HEARD_QUARTERS begin every `hop` quarters.
    """
    here = _windows(mix, quarters, HEARD_QUARTERS, hop)
    transposed = [_transposed(here, shift) for shift in range(-11, 12)]
    best = np.zeros(len(here.indptr) - 1)
    for song in songs:
        there = _windows(song, count_quarters(song), HEARD_QUARTERS, 4)
        common = np.max([(moved @ there.T).toarray() for moved in transposed], axis=0)
        best = np.maximum(best, (2 * common / _notes_of_both(here, there)).max(1, initial=0))
    return best


def returning(song: Song, quarters: float) -> float:
    """The share of the bars in the first `quarters` of a song that return: SAME_BAR is their F1 with another bar.

    Bars are those of the song's meters; onsets are compared on steps and pitches, as they are, without drums. Bars
    without onsets do not count. 0 for a song of one bar.
    """
    starts = bar_lines(ClockedSong(song, song.tempo_map, 1.0), "file", quarters)
    step = np.round(song.tempo_map.beats_at(song.notes["onset"]) * STEPS).astype(int)
    first = np.round(starts * STEPS).astype(int)
    bar = np.searchsorted(first, step, side="right") - 1
    inside = (bar >= 0) & (step < quarters * STEPS)
    cells = [
        (step[bar == index] - first[index]) * 128 + song.notes["pitch"][bar == index] for index in range(len(first))
    ]
    heard = [
        set(found.tolist())
        for found, index in zip(cells, range(len(first)), strict=True)
        if (inside & (bar == index)).any()
    ]
    alike = [
        any(2 * len(one & other) >= SAME_BAR * (len(one) + len(other)) for other in heard if other is not one)
        for one in heard
    ]
    return float(np.mean(alike)) if len(heard) > 1 else 0.0


def cross_fade(songs: Sequence[np.ndarray], weights: Sequence[float], seed: int = 0) -> np.ndarray:
    """Each note of each song with a probability of the song's weight, as in MusicVAE (Roberts et al., 2018)."""
    rng = np.random.default_rng(seed)
    kept = [song[rng.random(len(song)) < weight] for song, weight in zip(songs, weights, strict=True)]
    return np.sort(np.concatenate(kept), order=["onset", "pitch"])


def count_quarters(notes: np.ndarray) -> int:
    """Quarters up to the last onset."""
    return int(notes["onset"].max(initial=0) / QUARTER_SECONDS) + 1


def _windows(notes: np.ndarray, quarters: int, size: int, hop: int) -> Windows:
    """Onsets of windows of `size` quarters, one every `hop` quarters, on steps and pitches."""
    starts = np.arange(0, quarters - size + 1, hop) * STEPS
    step = np.round(notes["onset"] / QUARTER_SECONDS * STEPS).astype(int)
    order = np.argsort(step)
    first, last = (np.searchsorted(step[order], edge) for edge in (starts, starts + size * STEPS))
    window = np.repeat(np.arange(len(starts)), last - first)
    note = order[np.arange(len(window)) - np.repeat(np.cumsum(last - first) - last, last - first)]
    cell = (step[note] - starts[window]) * TONES + notes["pitch"][note]
    return _ones(window, cell, (len(starts), size * STEPS * TONES))


def _ones(window: np.ndarray, cell: np.ndarray, shape: Any) -> Windows:
    """Windows with 1 in these cells."""
    found = csr_array((np.ones(len(cell), np.float32), (window, cell)), shape)
    found.data[:] = 1  # where cells were named twice, too
    return found


def _transposed(windows: Windows, shift: int) -> Windows:
    step, pitch = np.divmod(windows.indices, TONES)
    return csr_array((windows.data, step * TONES + (pitch + shift) % TONES, windows.indptr), windows.shape)


def _likeness(here: Windows, song: np.ndarray, size: int) -> Float[np.ndarray, " window"]:
    """How like the best passage of a song each window is, 0 to 1."""
    there = _windows(song, count_quarters(song), size, 4)
    common = here @ _widened(there).T + _widened(here) @ there.T
    return (common.toarray() / _notes_of_both(here, there)).max(1, initial=0)


def _notes_of_both(here: Windows, there: Windows) -> Float[np.ndarray, "window passage"]:
    return np.maximum(here.sum(1)[:, None] + there.sum(1), 1)


def _widened(windows: Windows) -> Windows:
    """Cells that have an onset on their step at most NEAR_PITCHES away."""
    moved = [_transposed(windows, shift).tocoo() for shift in range(-NEAR_PITCHES, NEAR_PITCHES + 1)]
    window, cell = (np.concatenate(axis) for axis in zip(*(one.coords for one in moved), strict=True))
    return _ones(window, cell, windows.shape)
