"""Songs that nobody played: tracks drawn from a prior over the run's latents, and a judge that picks the best.

Conventions: notes are NOTE arrays (`midi.NOTE`), times in seconds; a draw is played with `sample.play`. No JAX here.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nemui_jax import latents, style
from nemui_jax.config import Config
from nemui_jax.metrics import STEP_SECONDS
from nemui_jax.sample import Track

VOICES = 3  # songs that a draw is made of
SWAY_SECONDS = 6.0  # how long the voices' weights stay much the same
SWAY = 1.0  # standard deviation of the logarithms of weights: 0 is an even mix, a high one song after song
STAY_SECONDS = 20.0  # mean length of the passages that a voice reads
STRETCH_SECONDS = 10.0  # the shortest copy that counts
NEAR_COPY = 0.5  # likeness from which a stretch is a copy of a song's
LEAST_ONSETS = 10  # of a stretch that can be called a copy


class Nearest(NamedTuple):
    """The passage of a song that is most like a stretch of a piece."""

    song: int
    likeness: float  # 0 to 1
    start: float  # seconds in the piece
    song_start: float  # seconds in the song

    @property
    def too_close(self) -> bool:
        return self.likeness > NEAR_COPY


def draw(
    tracks: Sequence[Track], config: Config, blocks: int, seed: int
) -> tuple[list[Track], Float[np.ndarray, "song block"]]:
    """Tracks and weights (sum 1 in each block) of a new song of `blocks` blocks, for `sample.play`.

    A few songs, each read in passages from anywhere in it, play together with weights that sway: the softmax of
    smooth Gaussian processes. A voice jumps to its next passage while it is faint. All come out in the first's key.
    """
    if len(tracks) < 2:
        raise ValueError(f"random songs lie between learned ones and the run has {len(tracks)}; use perturb instead")
    rng = np.random.default_rng(seed)
    chosen = [tracks[index] for index in rng.permutation(len(tracks))[:VOICES]]
    block_seconds = config.model.block_steps * config.roll.step_seconds
    sway = SWAY * smooth(rng, (len(chosen), blocks), SWAY_SECONDS / block_seconds)
    weights = np.exp(sway) / np.exp(sway).sum(0)
    if not config.model.knot_steps:
        return chosen, weights

    steps = blocks * config.model.block_steps
    at_knots = weights[:, :: config.model.knot_steps // config.model.block_steps]
    count = latents.count_rows(steps, config.model)
    at_knots = np.pad(at_knots, ((0, 0), (0, count - at_knots.shape[1])), mode="edge")
    stay = STAY_SECONDS / (config.model.knot_steps * config.roll.step_seconds)
    return [
        dataclasses.replace(
            track, rows=track.rows[passages(rng, weight, len(track.rows), stay)], steps=steps, shift=chosen[0].shift
        )
        for track, weight in zip(chosen, at_knots, strict=True)
    ], weights


def smooth(rng: np.random.Generator, shape: tuple[int, int], width: float) -> Float[np.ndarray, "voice block"]:
    """Gaussian processes of variance 1 with a squared-exponential covariance of length scale `width` blocks."""
    reach = int(4 * width) + 1
    kernel = np.exp(-((np.arange(-reach, reach + 1) / width) ** 2))
    noise = rng.normal(size=(shape[0], shape[1] + 2 * reach))
    return np.stack([np.convolve(row, kernel / np.sqrt((kernel**2).sum()), mode="valid") for row in noise])


def passages(
    rng: np.random.Generator, weight: Float[np.ndarray, " knot"], rows: int, stay: float
) -> Int[np.ndarray, " knot"]:
    """Rows that a voice reads, knot by knot: on and on, with a jump where it is faint or the song ends."""
    faint = weight <= np.quantile(weight, min(2 / stay, 1))
    index = np.empty(len(weight), np.intp)
    for knot in range(len(weight)):
        following = index[knot - 1] + 1 if knot else rows
        jump = following >= rows or (faint[knot] and rng.random() < 0.5)
        index[knot] = rng.integers(rows) if jump else following
    return index


def typicality(
    candidates: Sequence[np.ndarray], songs: Sequence[np.ndarray], seconds: float
) -> Float[np.ndarray, " candidate"]:
    return rank(candidates, songs, seconds)


def rank(
    candidates: Sequence[np.ndarray], songs: Sequence[np.ndarray], seconds: float = 60.0
) -> Float[np.ndarray, " candidate"]:
    """How typical the first `seconds` of each candidate are of the songs: higher is better, about 0 for a song.

    The mean over the measures of `style` of the log density of a candidate's value under the songs' (in stretches of
    the same length), less the songs' own mean, each no lower than -FLOOR.
    """
    parts = [
        (song, start)
        for song in songs
        for start in np.arange(0, max(float(song["end"].max(initial=0)) - seconds / 2, 1), seconds)
    ]
    reference = [style.style(song, start, start + seconds) for song, start in parts]
    found = [style.style(notes, 0.0, seconds) for notes in candidates]
    scores = []
    for name in reference[0]:
        known, new = (np.array([one[name] for one in values], float) for values in (reference, found))
        known, new = known.reshape(len(known), -1), new.reshape(len(new), -1)
        if known.shape[1] > 1:
            within = np.linalg.norm(known[:, None] - known, axis=-1)
            known = (within.sum(1) / max(len(known) - 1, 1))[:, None]
            new = np.array([np.linalg.norm(value - np.array([one[name].ravel() for one in reference]), axis=-1).mean() for value in new])[:, None]  # type: ignore
        known, new = known[:, 0], new[:, 0]
        floor = 1e-3 * max(float(np.ptp(known)), 1e-9)
        own = style.log_density(known, known, floor).mean()
        scores.append(np.maximum(style.log_density(known, new, floor) - own, -5))
    return np.mean(scores, axis=0)


def too_close(notes: np.ndarray, songs: Sequence[np.ndarray]) -> Nearest:
    """The passage, in any song and at any transposition within an octave, most like a stretch of some notes.

    Likeness is that of `metrics.likeness` at its best over all places in the song: the F1 of onsets of the same pitch
    at most one step away. Stretches of STRETCH_SECONDS, half overlapping; sparse ones do not count.
    """
    best = Nearest(0, 0.0, 0.0, 0.0)
    length = round(STRETCH_SECONDS / STEP_SECONDS)
    cells = np.unique(_steps(notes) * 128 + notes["pitch"])
    for number, song in enumerate(songs):
        step = _steps(song)
        reach = np.zeros((128 + 12, (int(step.max()) if len(step) else 0) + 2 * length + 2), np.uint8)
        count = np.zeros(reach.shape[1], int)
        onsets = np.unique(step * 128 + song["pitch"])
        np.add.at(count, onsets // 128 + length, 1)
        for slack in (0, 1, -1):
            reach[onsets % 128 + 6, onsets // 128 + length + slack] = 1
        lags = reach.shape[1] - length
        inside = np.add.reduceat(count, np.arange(lags))[:0] if False else np.convolve(count, np.ones(length, int))[length - 1 :][:lags]
        for start in range(0, int(cells[-1] // 128) + 1 if len(cells) else 0, length // 2):
            part = cells[(cells // 128 >= start) & (cells // 128 < start + length)]
            if len(part) < LEAST_ONSETS:
                continue
            for shift in range(-6, 6):
                hits = np.zeros(lags, np.uint16)
                for cell in part:
                    place = int(cell) // 128 - start
                    hits += reach[int(cell) % 128 + 6 + shift, place : place + lags]
                value = 2 * hits / (len(part) + np.maximum(inside, 1))
                lag = int(value.argmax())
                if value[lag] > best.likeness:
                    best = Nearest(number, min(float(value[lag]), 1.0), start * STEP_SECONDS, (lag - length) * STEP_SECONDS)
    return best


def _steps(notes: np.ndarray) -> Int[np.ndarray, " note"]:
    return np.floor(np.maximum(notes["onset"], 0) / STEP_SECONDS + 0.5).astype(np.intp)
