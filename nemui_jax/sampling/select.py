"""Probabilities to notes: at the plain threshold for a recall, at the songs' density for a mix."""

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

WINDOW_BLOCKS = 8  # blocks over which density is matched
UNHEARD_WEIGHT = 0.003  # the weight, in a mix, of a note that is in none of its songs
RESTRIKE_STEPS = 2  # steps
PEDAL_STEPS = 8  # steps over which a mix's pedal is smoothed


class Density(NamedTuple):
    """How much there is in each block of a stretch, in cells."""

    onsets: Float[Any, " block"]
    frames: Float[Any, " block"]
    pedal: Float[Any, " block"]


class DecodedSong(NamedTuple):
    """What a song says by itself over a stretch: it does not depend on what it is mixed with."""

    decoded: Decoded
    density: Density

    def part(self, first: int, last: int) -> "DecodedSong":
        """Blocks `first` to `last`."""
        block = len(self.decoded.pedal) // len(self.density.pedal)
        cells = [column[first * block : last * block] for column in self.decoded]
        return DecodedSong(Decoded(*cells), Density(*(column[first:last] for column in self.density)))


def decode_song(
    params: Params, track: LatentTrack, blocks: int, config: Config, decoder: DecoderClass = Decoder
) -> DecodedSong:
    """A track by itself over so many blocks."""
    stretch = latents.read_track(track.rows, track.steps, blocks, config.model)
    decoded = decode_latents(params, stretch, layout.block_times(blocks, config.model), config, decoder)
    return DecodedSong(decoded, measure_density(decoded, config))


def measure_density(decoded: Decoded, config: Config) -> Density:
    """The density of a stretch at the plain threshold."""
    grid, pedal = select_by_threshold(decoded, config)
    sounding = np.zeros(len(pedal) + 1)
    np.add.at(sounding, grid["step"], 1)
    np.add.at(sounding, grid["end"], -1)
    onsets = np.bincount(grid["step"], minlength=len(pedal))
    steps = np.stack([onsets, np.cumsum(sounding[:-1]), pedal > 0.5])
    return Density(*steps.reshape(3, -1, config.model.block_steps).sum(-1))


def select_by_threshold(decoded: Decoded, config: Config) -> tuple[np.ndarray, Float[np.ndarray, " step"]]:
    """GRID notes (in the common key) and pedal shares where probabilities exceed 0.5."""
    roll = np.stack(decoded[:4]).swapaxes(0, 1)  # channels apart in memory: they are looked at one by one
    if config.train.loss == "squared":
        frame = decoded.frame > 0.5
        roll[:, pianoroll.ONSET] = frame & ~np.pad(frame, ((1, 0), (0, 0)))[:-1]
    return pianoroll.from_roll(roll, config.roll.low), decoded.pedal


def select_by_density(
    decoded: Decoded,
    voices: Sequence[DecodedSong],
    weights: Float[np.ndarray, "song block"],
    alone: Bool[np.ndarray, " block"],
    config: Config,
    temperature: float = 0.0,
    seed: int = 0,
) -> tuple[np.ndarray, Float[np.ndarray, " step"]]:
    """GRID notes (in the common key) and pedal shares of a mix, given what each of its songs is by itself.

    The mix has the weighted mean of its songs' densities: in each window the likeliest cells, as many as that. A key is
    not struck again within RESTRIKE steps, unless a song does that. Blocks where one song is `alone` are that song at
    the plain threshold.
    """
    window = WINDOW_BLOCKS * config.model.block_steps
    own = [voice.decoded for voice in voices]
    single = np.repeat(alone, config.model.block_steps)
    share = np.repeat(np.maximum(latent_weights(weights), 0), config.model.block_steps, 1)[:, :, None].astype(
        np.float32
    )
    onsets = weighted_sum(share, [one.onset for one in own])
    frames = weighted_sum(share, [one.frame for one in own])
    pedals = weighted_sum(share, [one.pedal[:, None] for one in own])
    counts = zip(*(voice.density for voice in voices), strict=True)
    wanted = Density(*(np.maximum((weights * np.stack(column)).sum(0), 0) * ~alone for column in counts))

    score = score_onsets(
        add_temperature(decoded.onset, temperature, seed) if temperature else decoded.onset, onsets, config
    )
    best = score.copy()
    for apart in range(1, RESTRIKE_STEPS + 1):
        np.maximum(best[apart:], score[:-apart], out=best[apart:])
        np.maximum(best[:-apart], score[apart:], out=best[:-apart])
    score *= (score == best) | (onsets > 0.75)
    score[single] = 0
    struck = top_k_per_window(score, wanted.onsets, window)
    struck[single] = decoded.onset[single] > 0.5

    frame = decoded.frame * (UNHEARD_WEIGHT + frames)
    frame[single] = decoded.frame[single]
    sounding = held_probability(struck, frame)
    sounding[single] = 0
    held = top_k_per_window(sounding, wanted.frames, window)
    held[single] = decoded.frame[single] > 0.5

    velocity, timing = mix_expression(own, share, window)
    velocity[single], timing[single] = decoded.velocity[single], decoded.timing[single]
    roll = np.stack([struck, held, velocity, timing]).swapaxes(0, 1)
    foot = moving_sum(decoded.pedal[:, None] + pedals, PEDAL_STEPS)
    foot[single] = 0
    down = top_k_per_window(foot, wanted.pedal, window)[:, 0].astype(float)
    down[single] = decoded.pedal[single]
    return pianoroll.from_roll(roll, config.roll.low), down


def add_temperature(chance: Float[Any, "step pitch"], temperature: float, seed: int) -> Float[np.ndarray, "step pitch"]:
    """Probabilities with logistic noise on their logits: the likeliest of these are a draw, not the likeliest."""
    chance = np.clip(chance, 1e-7, 1 - 1e-7)
    logits = np.log(chance / (1 - chance)) + np.random.default_rng(seed).logistic(0, temperature, chance.shape)
    return 1 / (1 + np.exp(-logits))


def score_onsets(
    onset: Float[Any, "step pitch"], onsets: Float[np.ndarray, "step pitch"], config: Config
) -> Float[np.ndarray, "step pitch"]:
    """How far four agree that a cell of a mix is an onset, as the product of what each says.

    They are the decoder on the mixed latent (`onset`); the songs themselves (`onsets`, a weighted mean); the other
    onsets of the same step, so that chords stay chords; and those of the same pitch class around, so that harmony does.
    """
    score = onset * (UNHEARD_WEIGHT + onsets)
    pitch_class = (np.arange(score.shape[1]) + config.roll.low) % 12
    mass = moving_sum(score @ np.eye(12)[pitch_class], WINDOW_BLOCKS * config.model.block_steps)
    harmony = (mass / (mass.sum(1, keepdims=True) + 1e-9))[:, pitch_class]
    return score * score.sum(1, keepdims=True) * harmony


def mix_expression(
    own: Sequence[Decoded], share: Float[np.ndarray, "song step 1"], steps: int
) -> tuple[Float[np.ndarray, "step pitch"], Float[np.ndarray, "step pitch"]]:
    """Velocity and timing of a mix's onsets: as the songs that have the note play it, at the loudness of all of them.

    Loudness is the mean velocity of the onsets around. A note that no song has is as loud as that, and on the grid.
    """
    said = [part * (one.onset > 0.5) for part, one in zip(share, own, strict=True)]
    loud = [
        moving_sum((one.onset * one.velocity).sum(1, keepdims=True), steps)
        / (moving_sum(one.onset.sum(1, keepdims=True), steps) + 1e-3)
        for one in own
    ]
    known = np.maximum(sum(said), 1e-6)
    louder = weighted_sum(said, [one.velocity - level for one, level in zip(own, loud, strict=True)])
    return weighted_sum(share, loud) + louder / known, weighted_sum(said, [one.timing for one in own]) / known


def weighted_sum(weights: Iterable[Any], parts: Iterable[Any]) -> Any:
    """The sum of arrays, each times its weight."""
    return sum(weight * part for weight, part in zip(weights, parts, strict=True))


def moving_sum(values: Float[np.ndarray, "step value"], steps: int) -> Float[np.ndarray, "step value"]:
    """Sums over the steps around each, half of them before it."""
    until = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, 0, dtype=float)])
    here = np.arange(len(values))
    sums = until[np.minimum(here + steps // 2 + 1, len(values))] - until[np.maximum(here - steps // 2, 0)]
    return sums.astype(np.float32)


def held_probability(
    struck: Bool[np.ndarray, "step pitch"], frame: Float[Any, "step pitch"]
) -> Float[np.ndarray, "step pitch"]:
    """How likely the last note on each pitch still sounds: the least frame probability since its onset."""
    held = np.where(struck, 1.0, np.minimum(frame, 1.0).astype(float))
    held[0] = struck[0]
    onsets = np.cumsum(struck, axis=0, dtype=float)  # each onset takes what follows below all that was before
    held -= onsets
    np.minimum.accumulate(held, axis=0, out=held)
    held += onsets
    return held


def top_k_per_window(
    values: Float[np.ndarray, "step pitch"], counts: Float[np.ndarray, " block"], window_steps: int
) -> Bool[np.ndarray, "step pitch"]:
    """In each window, as many of the highest values as the counts of its blocks add up to."""
    chosen = np.zeros(values.shape, bool)
    for window, start in enumerate(range(0, len(values), window_steps)):
        part = values[start : start + window_steps]
        count = min(round(float(counts[window * WINDOW_BLOCKS : (window + 1) * WINDOW_BLOCKS].sum())), part.size - 1)
        if count > 0:
            least, next_least = np.partition(part, (part.size - count, part.size - count - 1), axis=None)[
                [-count, -count - 1]
            ]
            chosen[start : start + window_steps] = part > (least + next_least) / 2
    return chosen
