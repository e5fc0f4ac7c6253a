"""Probabilities to notes: those above 0.5 for the recall of a song, as many as in the songs for a mix."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from nemui_jax.config import Config
from nemui_jax.data import layout, pianoroll
from nemui_jax.model import latents
from nemui_jax.model.decoder import Decoder, DecoderClass, Params
from nemui_jax.sampling.blend import latent_weights
from nemui_jax.sampling.decode import Decoded, LatentTrack, decode_latents

WINDOW_BLOCKS = 8  # blocks in which a mix has the density of its songs
UNHEARD_WEIGHT = 0.003  # the weight, in a mix, of a note that is in none of its songs
RESTRIKE_STEPS = 2  # steps within which a mix does not repeat a pitch, unless a song does
PEDAL_STEPS = 8  # steps over which a mix's pedal is smoothed


class Density(NamedTuple):
    """How many onsets, frames and steps with pedal there are in each block."""

    onsets: Float[Any, " block"]
    frames: Float[Any, " block"]
    pedal: Float[Any, " block"]


class DecodedSong(NamedTuple):
    """A song decoded by itself; it can be kept, as it does not depend on the songs it is mixed with."""

    decoded: Decoded
    density: Density

    def part(self, first: int, last: int) -> "DecodedSong":
        """Blocks from `first` to before `last`."""
        block = len(self.decoded.pedal) // len(self.density.pedal)
        cells = [column[first * block : last * block] for column in self.decoded]
        return DecodedSong(Decoded(*cells), Density(*(column[first:last] for column in self.density)))


def decode_song(
    params: Params, track: LatentTrack, blocks: int, config: Config, decoder: DecoderClass = Decoder
) -> DecodedSong:
    """A track decoded by itself, over so many blocks."""
    stretch = latents.read_track(track.rows, track.steps, blocks, config.model)
    decoded = decode_latents(params, stretch, layout.block_times(blocks, config.model), config, decoder)
    return DecodedSong(decoded, measure_density(decoded, config))


def measure_density(decoded: Decoded, config: Config) -> Density:
    """The density of the notes above 0.5."""
    grid, pedal = select_by_threshold(decoded, config)
    sounding = np.zeros(len(pedal) + 1)
    np.add.at(sounding, grid["step"], 1)
    np.add.at(sounding, grid["end"], -1)
    onsets = np.bincount(grid["step"], minlength=len(pedal))
    steps = np.stack([onsets, np.cumsum(sounding[:-1]), pedal > 0.5])
    return Density(*steps.reshape(3, -1, config.model.block_steps).sum(-1))


def select_by_threshold(decoded: Decoded, config: Config) -> tuple[np.ndarray, Float[np.ndarray, " step"]]:
    """GRID notes (in the common key) and pedal shares where probabilities exceed 0.5."""
    roll = np.stack(decoded[:4]).swapaxes(0, 1)  # memory by channel, as they are used one by one
    if config.train.loss == "squared":
        frame = decoded.frame > 0.5
        roll[:, pianoroll.ONSET] = frame & ~np.pad(frame, ((1, 0), (0, 0)))[:-1]
    return pianoroll.from_roll(roll, config.roll.low), decoded.pedal


def select_by_density(
    decoded: Decoded,
    songs: Sequence[DecodedSong],
    weights: Float[np.ndarray, "song block"],
    alone: Bool[np.ndarray, " block"],
    config: Config,
    temperature: float = 0.0,
    seed: int = 0,
) -> tuple[np.ndarray, Float[np.ndarray, " step"]]:
    """GRID notes (in the common key) and pedal shares of a mix, given each of its songs decoded by itself.

    In each window of WINDOW_BLOCKS the likeliest onsets and frames are taken, as many as the weighted mean of the
    songs' densities. A pitch is not repeated within RESTRIKE_STEPS, unless a song does so. Blocks where one song is
    `alone` are selected by threshold.
    """
    window = WINDOW_BLOCKS * config.model.block_steps
    by_song = [song.decoded for song in songs]
    single = np.repeat(alone, config.model.block_steps)
    share = np.repeat(np.maximum(latent_weights(weights), 0), config.model.block_steps, 1)[:, :, None].astype(
        np.float32
    )
    onsets = weighted_sum(share, [one.onset for one in by_song])
    frames = weighted_sum(share, [one.frame for one in by_song])
    pedals = weighted_sum(share, [one.pedal[:, None] for one in by_song])
    counts = zip(*(song.density for song in songs), strict=True)
    wanted = Density(*(np.maximum((weights * np.stack(column)).sum(0), 0) * ~alone for column in counts))

    score = score_onsets(
        add_temperature(decoded.onset, temperature, seed) if temperature else decoded.onset, onsets, config
    )
    nearby_best = score.copy()
    for steps in range(1, RESTRIKE_STEPS + 1):
        np.maximum(nearby_best[steps:], score[:-steps], out=nearby_best[steps:])
        np.maximum(nearby_best[:-steps], score[steps:], out=nearby_best[:-steps])
    score *= (score == nearby_best) | (onsets > 0.75)
    score[single] = 0
    struck = top_k_per_window(score, wanted.onsets, window)
    struck[single] = decoded.onset[single] > 0.5

    frame = decoded.frame * (UNHEARD_WEIGHT + frames)
    frame[single] = decoded.frame[single]
    held_score = held_probability(struck, frame)
    held_score[single] = 0
    held = top_k_per_window(held_score, wanted.frames, window)
    held[single] = decoded.frame[single] > 0.5

    velocity, timing = mix_expression(by_song, share, window)
    velocity[single], timing[single] = decoded.velocity[single], decoded.timing[single]
    roll = np.stack([struck, held, velocity, timing]).swapaxes(0, 1)
    pedal_score = moving_sum(decoded.pedal[:, None] + pedals, PEDAL_STEPS)
    pedal_score[single] = 0
    pedal = top_k_per_window(pedal_score, wanted.pedal, window)[:, 0].astype(float)
    pedal[single] = decoded.pedal[single]
    return pianoroll.from_roll(roll, config.roll.low), pedal


def add_temperature(
    probability: Float[Any, "step pitch"], temperature: float, seed: int
) -> Float[np.ndarray, "step pitch"]:
    """Probabilities with logistic noise on their logits: to take the largest of these is to draw at random."""
    probability = np.clip(probability, 1e-7, 1 - 1e-7)
    noise = np.random.default_rng(seed).logistic(0, temperature, probability.shape)
    logits = np.log(probability / (1 - probability)) + noise
    return 1 / (1 + np.exp(-logits))


def score_onsets(
    onset: Float[Any, "step pitch"], onsets: Float[np.ndarray, "step pitch"], config: Config
) -> Float[np.ndarray, "step pitch"]:
    """Scores of a mix's onsets, each a product of four factors.

    They are the decoder's probability for the mixed latent (`onset`); the weighted mean of the songs' (`onsets`); the
    sum over the step, which keeps chords together; and the share of the pitch class in the steps around, which keeps
    the harmony.
    """
    score = onset * (UNHEARD_WEIGHT + onsets)
    pitch_class = (np.arange(score.shape[1]) + config.roll.low) % 12
    mass = moving_sum(score @ np.eye(12)[pitch_class], WINDOW_BLOCKS * config.model.block_steps)
    harmony = (mass / (mass.sum(1, keepdims=True) + 1e-9))[:, pitch_class]
    return score * score.sum(1, keepdims=True) * harmony


def mix_expression(
    songs: Sequence[Decoded], share: Float[np.ndarray, "song step 1"], steps: int
) -> tuple[Float[np.ndarray, "step pitch"], Float[np.ndarray, "step pitch"]]:
    """Velocity and timing of a mix's onsets: the means over the songs that have the note, relative to their loudness.

    Loudness is the mean velocity of the onsets within `steps` around; a mix has the weighted mean of its songs'. A note
    that no song has gets this velocity and a timing of 0.
    """
    weights = [part * (song.onset > 0.5) for part, song in zip(share, songs, strict=True)]  # 0 without an onset
    loudness = [
        moving_sum((song.onset * song.velocity).sum(1, keepdims=True), steps)
        / (moving_sum(song.onset.sum(1, keepdims=True), steps) + 1e-3)
        for song in songs
    ]
    total = np.maximum(sum(weights), 1e-6)
    accent = weighted_sum(weights, [song.velocity - level for song, level in zip(songs, loudness, strict=True)])
    timing = weighted_sum(weights, [song.timing for song in songs])
    return weighted_sum(share, loudness) + accent / total, timing / total


def weighted_sum(weights: Iterable[Any], parts: Iterable[Any]) -> Any:
    """The sum of arrays, each times its weight."""
    return sum(weight * part for weight, part in zip(weights, parts, strict=True))


def moving_sum(values: Float[np.ndarray, "step value"], steps: int) -> Float[np.ndarray, "step value"]:
    """Sums over `steps` steps around each step, half of them before it."""
    until = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, 0, dtype=float)])
    step = np.arange(len(values))
    sums = until[np.minimum(step + steps // 2 + 1, len(values))] - until[np.maximum(step - steps // 2, 0)]
    return sums.astype(np.float32)


def held_probability(
    struck: Bool[np.ndarray, "step pitch"], frame: Float[Any, "step pitch"]
) -> Float[np.ndarray, "step pitch"]:
    """The probability that the last note on each pitch still sounds: the lowest frame probability since its onset."""
    held = np.where(struck, 1.0, np.minimum(frame, 1.0).astype(float))
    held[0] = struck[0]
    onsets = np.cumsum(struck, axis=0, dtype=float)  # subtracted, so that the minimum starts anew at each onset
    held -= onsets
    np.minimum.accumulate(held, axis=0, out=held)
    held += onsets
    return held


def top_k_per_window(
    values: Float[np.ndarray, "step pitch"], counts: Float[np.ndarray, " block"], window_steps: int
) -> Bool[np.ndarray, "step pitch"]:
    """The largest values of each window, as many as the sum of the counts of its blocks."""
    chosen = np.zeros(values.shape, bool)
    for window, start in enumerate(range(0, len(values), window_steps)):
        part = values[start : start + window_steps]
        count = min(round(float(counts[window * WINDOW_BLOCKS : (window + 1) * WINDOW_BLOCKS].sum())), part.size - 1)
        if count > 0:
            smallest_in, largest_out = np.partition(part, (part.size - count, part.size - count - 1), axis=None)[
                [-count, -count - 1]
            ]
            chosen[start : start + window_steps] = part > (smallest_in + largest_out) / 2
    return chosen
