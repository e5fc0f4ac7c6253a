"""New songs: tracks drawn from a prior over a run's latents.

Conventions: notes are NOTE arrays, times are seconds, or the grid's. A draw is played with `play` and NOISE.

The prior resamples: a few songs, each in passages from anywhere in it that agree in harmony, at weights that vary.
Successive latent rows are nearly unrelated: on a song left out of 16, ridge regression on one to four rows predicts
at most 1.5 % of the next one's variance. Songs from such an autoregressive Gaussian were less tonal and cost a
language model more; so were those of a diffusion model over windows of rows (as Dupont et al., 2022, "From data to
functa"), tried in one configuration that 40 s on two cores did not train.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from nemui_jax.config import Config
from nemui_jax.data import layout, pianoroll
from nemui_jax.music.clock import STEADY_BEAT_SECONDS, STEPS_PER_BEAT
from nemui_jax.music.song import TempoMap, retime
from nemui_jax.sampling.arrange import count_blocks_in
from nemui_jax.sampling.decode import LatentTrack

SONGS_PER_DRAW = 5  # songs that a draw is made of
NOISE = 0.5  # to play it with: together they take likeness to the nearest song from 0.63 to 0.40 on the built-in tunes
WEIGHT_SPREAD = 0.3  # standard deviation of their log weights: 0 is an even mix, 1 is close to one song after another
WEIGHT_SECONDS = 6.0  # length scale of their weights in time
STAY_SECONDS = 6.0  # mean time between a voice's chances to jump; passages are compared over as long
CANDIDATES = 64  # places among which a voice chooses


def draw_song(
    tracks: Sequence[LatentTrack], config: Config, blocks: int, seed: int
) -> tuple[list[LatentTrack], Float[np.ndarray, "song block"]]:
    """Tracks, and their weights in each block (sum 1), of a new song of `blocks` blocks.

    Weights are the softmax of Gaussian processes over time. A voice reads its song on, and jumps where it is faint or
    its song ends, to the place that agrees best in harmony with the voices before it. All are in the first's key.
    ValueError if there are fewer than two tracks. Tracks of one row (`knot_steps` 0) stay as they are.
    """
    if len(tracks) < 2:
        raise ValueError(f"new songs are drawn between learned ones, and there are {len(tracks)}; vary it with perturb")
    rng = np.random.default_rng(seed)
    voices = [tracks[index] for index in rng.permutation(len(tracks))[:SONGS_PER_DRAW]]
    step_seconds = STEADY_BEAT_SECONDS / STEPS_PER_BEAT
    block_seconds, knot_seconds = config.model.block_steps * step_seconds, config.model.knot_steps * step_seconds
    sway = np.exp(WEIGHT_SPREAD * smooth_noise(rng, len(voices), blocks, WEIGHT_SECONDS / block_seconds))
    weights = sway / sway.sum(0)
    if not config.model.knot_steps:
        return voices, weights

    steps = blocks * config.model.block_steps
    knots = np.arange(layout.count_song_rows(steps, config.model)) * config.model.knot_steps // config.model.block_steps
    harmony = np.zeros((len(knots), 12))
    drawn = []
    for voice, weight in zip(voices, weights[:, np.minimum(knots, blocks - 1)], strict=True):
        voice = _steady(voice)
        chroma = chromas(voice, config.model.knot_steps)
        index = passages(rng, weight, chroma, harmony, max(round(STAY_SECONDS / knot_seconds), 1))
        harmony = unit(harmony + chroma[index])
        drawn.append(dataclasses.replace(voice, rows=voice.rows[index], steps=steps, shift=voices[0].shift))
    return drawn, weights


def draw_seconds(
    tracks: Sequence[LatentTrack], config: Config, seconds: float, seed: int
) -> tuple[list[LatentTrack], Float[np.ndarray, "song block"]]:
    """As `draw_song`, of as many blocks as are played in so many seconds."""
    draw = partial(draw_song, tracks, config, seed=seed)
    first = max(math.ceil(seconds / STEADY_BEAT_SECONDS * STEPS_PER_BEAT / config.model.block_steps), 1)
    return draw(count_blocks_in(seconds, draw(first)[0], lambda blocks: draw(blocks)[1], config))


def _steady(track: LatentTrack) -> LatentTrack:
    """A track at its mean tempo throughout: passages out of their order have no use for its tempo changes."""
    seconds = float(pianoroll.seconds_at(track.steps, track.clock))
    clock = TempoMap.steady(seconds / track.steps * STEPS_PER_BEAT)
    return dataclasses.replace(track, source=retime(track.source, track.clock, clock), clock=clock)


def smooth_noise(rng: np.random.Generator, count: int, length: int, scale: float) -> Float[np.ndarray, "count length"]:
    """Gaussian processes of variance 1 with a squared-exponential covariance of this length scale."""
    reach = int(3 * scale) + 1
    kernel = np.exp(-((np.arange(-reach, reach + 1) / scale) ** 2))
    noise = rng.normal(size=(count, length + 2 * reach))
    return np.stack([np.convolve(row, kernel, mode="valid") for row in noise]) / np.linalg.norm(kernel)


def chromas(track: LatentTrack, knot_steps: int) -> Float[np.ndarray, "row 12"]:
    """The onsets on each pitch class, in the common key, from each knot to the next; of length 1."""
    notes, counts = track.source.notes, np.zeros((len(track.rows), 12))
    steps = pianoroll.steps_at(notes["onset"], track.clock)
    row = np.minimum((steps / knot_steps).astype(np.intp), len(counts) - 1)
    np.add.at(counts, (row, (notes["pitch"].astype(int) + track.shift) % 12), 1)
    return unit(counts)


def unit(vectors: Float[np.ndarray, "row 12"]) -> Float[np.ndarray, "row 12"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def passages(
    rng: np.random.Generator,
    weight: Float[np.ndarray, " knot"],
    chroma: Float[np.ndarray, "row 12"],
    harmony: Float[np.ndarray, "knot 12"],
    stay: int,
) -> Int[np.ndarray, " knot"]:
    """The row that a voice reads at each knot."""
    last = len(chroma) - 1
    faint = weight <= np.quantile(weight, min(2 / stay, 1))
    index = np.empty(len(weight), np.intp)
    for knot in range(len(weight)):
        index[knot] = index[knot - 1] + 1
        if knot == 0 or index[knot] > last or (faint[knot] and rng.random() < 0.5):
            around = harmony[knot : knot + stay]
            starts = rng.integers(len(chroma), size=CANDIDATES)
            heard = chroma[np.minimum(starts[:, None] + np.arange(len(around)), last)]
            index[knot] = starts[(heard * around).sum((1, 2)).argmax()]
    return index
