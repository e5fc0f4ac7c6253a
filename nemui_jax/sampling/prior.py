"""New songs: latent tracks drawn from a prior over a run's latents.

A drawn song is played with `play` and NOISE. The prior resamples learned songs: a new song mixes a few of them at
weights that vary with time, and each is rearranged into passages that fit the others in harmony.

Other priors were worse. Successive latent rows are nearly independent: on a song left out of 16, ridge regression on
one to four rows predicts at most 1.5 % of the next row's variance. Songs from such an autoregressive Gaussian are less
tonal and cost a language model more. The same holds for a diffusion model over windows of rows (as Dupont et al., 2022,
"From data to functa"), of which one configuration was tried, for 40 s on two cores, too little to train it.
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
from nemui_jax.music.song import TempoMap
from nemui_jax.sampling.arrange import count_blocks_in
from nemui_jax.sampling.decode import LatentTrack, retime_track

SONGS_PER_DRAW = 5  # songs that a new song is made of
NOISE = 0.5  # of its latents; these two lower the likeness to the nearest song from 0.63 to 0.40 on the built-in tunes
WEIGHT_SPREAD = 0.3  # standard deviation of the log weights: 0 is an even mix, 1 is close to one song after another
WEIGHT_SECONDS = 6.0  # length scale of the weights in time
PASSAGE_SECONDS = 6.0  # mean time between a track's chances to jump, and the time over which harmonies are compared
CANDIDATES = 64  # places that are compared at a jump


def draw_song(
    tracks: Sequence[LatentTrack], config: Config, blocks: int, seed: int
) -> tuple[list[LatentTrack], Float[np.ndarray, "song block"]]:
    """The tracks of a new song of `blocks` blocks, and their weights in each block (sum 1).

    Weights are the softmax of Gaussian processes over time. A track plays its song on; where its weight is low, or its
    song ends, it jumps to the place whose harmony is closest to that of the tracks drawn before it. All are in the key
    of the first. Tracks of one row (`knot_steps` 0) stay as they are. ValueError for fewer than two tracks.
    """
    if len(tracks) < 2:
        raise ValueError(f"new songs are made of two songs or more, and there are {len(tracks)}; vary it with perturb")
    rng = np.random.default_rng(seed)
    chosen = [tracks[index] for index in rng.permutation(len(tracks))[:SONGS_PER_DRAW]]
    step_seconds = STEADY_BEAT_SECONDS / STEPS_PER_BEAT
    block_seconds, knot_seconds = config.model.block_steps * step_seconds, config.model.knot_steps * step_seconds
    unscaled = np.exp(WEIGHT_SPREAD * smooth_noise(rng, len(chosen), blocks, WEIGHT_SECONDS / block_seconds))
    weights = unscaled / unscaled.sum(0)
    if not config.model.knot_steps:
        return chosen, weights

    steps = blocks * config.model.block_steps
    knots = np.arange(layout.count_song_rows(steps, config.model)) * config.model.knot_steps // config.model.block_steps
    harmony = np.zeros((len(knots), 12))
    drawn = []
    for track, weight in zip(chosen, weights[:, np.minimum(knots, blocks - 1)], strict=True):
        track = _at_mean_tempo(track)
        chroma = chromas(track, config.model.knot_steps)
        index = passages(rng, weight, chroma, harmony, max(round(PASSAGE_SECONDS / knot_seconds), 1))
        harmony = unit(harmony + chroma[index])
        drawn.append(dataclasses.replace(track, rows=track.rows[index], steps=steps, shift=chosen[0].shift))
    return drawn, weights


def draw_seconds(
    tracks: Sequence[LatentTrack], config: Config, seconds: float, seed: int
) -> tuple[list[LatentTrack], Float[np.ndarray, "song block"]]:
    """As `draw_song`, of as many blocks as are played in so many seconds."""
    draw = partial(draw_song, tracks, config, seed=seed)
    first = max(math.ceil(seconds / STEADY_BEAT_SECONDS * STEPS_PER_BEAT / config.model.block_steps), 1)
    return draw(count_blocks_in(seconds, draw(first)[0], lambda blocks: draw(blocks)[1], config))


def _at_mean_tempo(track: LatentTrack) -> LatentTrack:
    """A track at its mean tempo throughout: tempo changes mean nothing once passages are out of order."""
    seconds = float(pianoroll.seconds_at(track.steps, track.clock))
    return retime_track(track, TempoMap.steady(seconds / track.steps * STEPS_PER_BEAT))


def smooth_noise(rng: np.random.Generator, count: int, length: int, scale: float) -> Float[np.ndarray, "count length"]:
    """Gaussian processes of variance 1 with a squared-exponential covariance of this length scale."""
    reach = int(3 * scale) + 1
    kernel = np.exp(-((np.arange(-reach, reach + 1) / scale) ** 2))
    noise = rng.normal(size=(count, length + 2 * reach))
    return np.stack([np.convolve(row, kernel, mode="valid") for row in noise]) / np.linalg.norm(kernel)


def chromas(track: LatentTrack, knot_steps: int) -> Float[np.ndarray, "row 12"]:
    """The number of onsets on each pitch class, in the common key, in each cell; scaled to length 1."""
    notes, counts = track.source.notes, np.zeros((len(track.rows), 12))
    steps = pianoroll.steps_at(notes["onset"], track.clock)
    row = np.minimum((steps / knot_steps).astype(np.intp), len(counts) - 1)
    np.add.at(counts, (row, (notes["pitch"].astype(int) + track.shift) % 12), 1)
    return unit(counts)


def unit(vectors: Float[np.ndarray, "row 12"]) -> Float[np.ndarray, "row 12"]:
    """Vectors scaled to length 1; those of length 0 stay as they are."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def passages(
    rng: np.random.Generator,
    weight: Float[np.ndarray, " knot"],
    chroma: Float[np.ndarray, "row 12"],
    harmony: Float[np.ndarray, "knot 12"],
    length: int,
) -> Int[np.ndarray, " knot"]:
    """The row of a track to be played at each knot, in passages of about `length` rows.

    `weight` is the track's weight in the mix, `chroma` the harmony of its rows, `harmony` that of the other tracks.
    """
    last = len(chroma) - 1
    faint = weight <= np.quantile(weight, min(2 / length, 1))
    index = np.empty(len(weight), np.intp)
    for knot in range(len(weight)):
        index[knot] = index[knot - 1] + 1
        if knot == 0 or index[knot] > last or (faint[knot] and rng.random() < 0.5):
            wanted = harmony[knot : knot + length]
            starts = rng.integers(len(chroma), size=CANDIDATES)
            offered = chroma[np.minimum(starts[:, None] + np.arange(len(wanted)), last)]
            index[knot] = starts[(offered * wanted).sum((1, 2)).argmax()]
    return index
