"""How well beats are found: tracked beats against annotated ones, or against those of a song's own tempo map.

The F-measure of beats within 70 ms of each other, each matched once at most, as in `mir_eval.beat.f_measure` (Raffel et
al., 2014). At any level: the best F of the tracked beats, and of these twice, half, three times or a third as fast.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from nemui_jax.music.beats import Beats, track_beats
from nemui_jax.music.song import Song

TOLERANCE_SECONDS = 0.07


def f_measure(true: Float[np.ndarray, " beat"], found: Float[np.ndarray, " other"]) -> float:
    """The F-measure of beats, both ascending; 0 where there are none."""
    hits = place = 0
    for beat in true.tolist():
        while place < len(found) and found[place] < beat - TOLERANCE_SECONDS:
            place += 1
        if place < len(found) and found[place] <= beat + TOLERANCE_SECONDS:
            hits, place = hits + 1, place + 1
    return 2 * hits / max(len(true) + len(found), 1)


def at_other_levels(beats: Float[np.ndarray, " beat"]) -> list[Float[np.ndarray, " other"]]:
    """Beats twice, three times, half and a third as fast, the last two from each of their first beats."""
    place = np.arange(len(beats))
    faster = [np.interp(np.arange(0, len(beats) - 1 + 1e-9, 1 / times), place, beats) for times in (2, 3)]
    return faster + [beats[first::every] for every in (2, 3) for first in range(every)]


def compare(
    true: Float[np.ndarray, " beat"], true_downbeats: Bool[np.ndarray, " beat"], found: Beats
) -> dict[str, Any]:
    """The F of beats, at any level, and of downbeats, between the first and the last true beat.

    That of downbeats is None where none are known or none were told.
    """
    low, high = true[0] - TOLERANCE_SECONDS, true[-1] + TOLERANCE_SECONDS
    inside = (found.times >= low) & (found.times <= high)
    beats, downbeats = found.times[inside], found.times[inside & found.downbeats]
    f = f_measure(true, beats)
    levels = at_other_levels(beats) if len(beats) else []
    return {
        "f": f,
        "any_level": max([f, *(f_measure(true, level) for level in levels)]),
        "downbeat_f": f_measure(true[true_downbeats], downbeats)
        if true_downbeats.any() and found.downbeats.any()
        else None,
        "confidence": found.confidence,
    }


def own_beats(song: Song) -> tuple[Float[np.ndarray, " beat"], Bool[np.ndarray, " beat"]]:
    """The beats of a song by its tempo map and meters, from its first note to its last, and which begin bars.

    A beat is the meter's denominator, or three of them in 6, 9 and 12; quarter notes in 4/4 where no meter is given.
    """
    quarters, end = song.tempo_map, song.notes["onset"][-1]
    changes = [(0.0, 4, 4), *zip(*(song.meters[name].tolist() for name in song.meters.dtype.names or ()), strict=True)]
    beats, downbeats = [], []
    for (time, numerator, denominator), until in zip(changes, [*(each[0] for each in changes[1:]), end], strict=True):
        start, stop = quarters.beats_at(np.array([max(time, 0.0), min(until, end)]))
        length = 4 / max(denominator, 1) * (3 if numerator in (6, 9, 12) else 1)
        bar = max(numerator // 3 if numerator in (6, 9, 12) else numerator, 1)
        found = np.arange(start, stop + (1e-6 if until >= end else -1e-6), length)
        beats.append(found)
        downbeats.append(np.arange(len(found)) % bar == 0)
    times, first = quarters.seconds_at(np.concatenate(beats)), song.notes["onset"][0]
    heard = times >= first - TOLERANCE_SECONDS
    return times[heard], np.concatenate(downbeats)[heard]


def score_clock(song: Song, clock: str) -> dict[str, Any]:
    """Which `clock` a song has, and how its beats are tracked: `compare` with its own, if these are its clock."""
    found = track_beats(song.notes, song.pedal)
    if clock != "file" or not len(found.times):
        return {"clock": clock, "confidence": found.confidence}
    return {"clock": clock, **compare(*own_beats(song), found)}


def read_annotations(path: Path) -> tuple[Float[np.ndarray, " beat"], Bool[np.ndarray, " beat"]]:
    """Annotated beats and which begin bars, from a file as in ASAP (Foscarin et al., 2020).

    Each line has a time in seconds, and after tabs the time again and a label: `db` for a downbeat, `b` for another.
    """
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    return np.array([float(row[0]) for row in rows]), np.array([row[-1].startswith("db") for row in rows])
