"""Latents to music: decode a stretch of latents, decide which cells are notes, write them as a song.

A stretch is one latent a block. Its probabilities become notes at a calibrated density: as many onsets, sounding cells
and pedal steps as the songs it is made of have there, by their weights. Where a stretch is one learned song this is
the plain threshold of 0.5, that is, recall.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from nemui_jax import latents, model, rolls
from nemui_jax.config import Config
from nemui_jax.midi import TEMPO, Song
from nemui_jax.runs import Run

BATCH = 128  # queries decoded by one call, so that all lengths share one compiled program
WINDOW = 8  # blocks over which density is matched


@dataclass(frozen=True)
class Track:
    """A song as the decoder knows it: its rows, and what is taken from its file as it stands."""

    name: str
    rows: Float[np.ndarray, "row latent"]
    steps: int
    shift: int  # semitones from its own key to the common key
    source: Song  # tempo, meter and program come from here; recall does not look at its notes


class Decoded(NamedTuple):
    """What the decoder says of a stretch. Probabilities, but for velocity (share of 127) and timing (in steps)."""

    onset: Float[Any, "step pitch"]
    frame: Float[Any, "step pitch"]
    velocity: Float[Any, "step pitch"]
    timing: Float[Any, "step pitch"]
    pedal: Float[Any, " step"]  # share of the step with the pedal down


class Density(NamedTuple):
    """How much there is in each block of a stretch, in cells."""

    onsets: Float[Any, " block"]
    frames: Float[Any, " block"]
    pedal: Float[Any, " block"]


def tracks(run: Run, table: Float[Array, "row latent"]) -> list[Track]:
    """The tracks of a run's songs, in order."""
    rows, start = np.asarray(table), 0
    found = []
    for index, entry in enumerate(run.entries):
        count = latents.count_rows(entry.steps, run.config.model)
        found.append(Track(entry.name, rows[start : start + count], entry.steps, entry.shift, run.song(index)))
        start += count
    return found


def recall(params: model.Params, track: Track, config: Config, program: int | None = None) -> Song:
    """A learned song, played back."""
    blocks = latents.count_queries(track.steps, config.model)
    return play(params, [track], np.ones((1, blocks)), config, program=program)


def play(
    params: model.Params,
    tracks: Sequence[Track],
    weights: Float[np.ndarray, "song block"],
    config: Config,
    *,
    shift: int | None = None,
    program: int | None = None,
    keep_norm: bool = True,
    temperature: float = 0.0,
    seed: int = 0,
) -> Song:
    """Tracks played together, weighted block by block; a track that ends early starts again.

    The song lasts as many blocks as there are weights, which sum to 1 in each. `shift` is the key it comes out in
    (semitones to the common key; by default the heaviest track's at each moment) and `program` its program (by default
    the heaviest's). With a `temperature` onsets are drawn, at the same density, in place of taking the likeliest.
    """
    blocks = weights.shape[1]
    time = latents.times(blocks, config.model)
    stretches = np.stack([latents.along(track.rows, track.steps, blocks, config.model) for track in tracks])
    decoded = decode(params, latents.mix(stretches, weights, keep_norm), time, config)
    if len(tracks) == 1 and temperature == 0:
        grid, pedal = plain(decoded, config)
    else:
        own = [density(decode(params, stretch, time, config), config) for stretch in stretches]
        wanted = Density(*((weights * np.stack(column)).sum(0) for column in zip(*own, strict=True)))
        grid, pedal = calibrated(decoded, wanted, config, temperature, seed)
    return arrange(tracks, weights, grid, pedal, config, shift, program)


def arrange(
    tracks: Sequence[Track],
    weights: Float[np.ndarray, "song block"],
    grid: np.ndarray,
    pedal: Float[Any, " step"],
    config: Config,
    shift: int | None,
    program: int | None,
) -> Song:
    """GRID notes and pedal shares as a song, with key, program, tempo and meter after the tracks'."""
    step_seconds, block = config.roll.step_seconds, config.model.block_steps
    leader = tracks[int(weights.sum(1).argmax())]
    shifts = (
        np.array([track.shift for track in tracks])[weights.argmax(0)] if shift is None else np.full(len(pedal), shift)
    )
    return Song(
        notes=rolls.to_notes(
            grid,
            step_seconds,
            shifts[np.minimum(grid["step"] // block, len(shifts) - 1)],
            leader.source.program if program is None else program,
        ),
        pedal=rolls.to_pedal(pedal, step_seconds),
        tempos=mix_tempos([track.source for track in tracks], weights, block * step_seconds),
        meters=leader.source.meters,
        name=leader.source.name or leader.name,
    )


def mix_tempos(songs: Sequence[Song], weights: Float[np.ndarray, "song block"], block_seconds: float) -> np.ndarray:
    """TEMPO events: the weighted geometric mean of the songs' tempos wherever one of them, or a weight, changes."""
    moves = (np.flatnonzero(np.any(np.diff(weights) != 0, axis=0)) + 1) * block_seconds
    times = np.unique(np.concatenate([[0.0], moves, *(song.tempos["time"] for song in songs)]))
    times = times[times < weights.shape[1] * block_seconds]
    block = np.minimum((times / block_seconds).astype(int), weights.shape[1] - 1)
    logs = np.zeros(len(times))
    for song, weight in zip(songs, weights, strict=True):
        quarter = np.concatenate([[0.5], song.tempos["quarter_seconds"]])  # 120 bpm where a file says nothing
        logs += weight[block] * np.log(quarter[np.searchsorted(song.tempos["time"], times, side="right")])
    tempos = np.empty(len(times), TEMPO)
    tempos["time"], tempos["quarter_seconds"] = times, np.exp(logs)
    return tempos[np.concatenate([[True], np.abs(np.diff(logs)) > 1e-9])]


def decode(
    params: model.Params, stretch: Float[Any, "query latent"], time: Float[Any, " query"], config: Config
) -> Decoded:
    """Decodes a stretch, in batches of one shape."""
    count = len(stretch)
    padding = -count % BATCH
    stretch, time = np.pad(stretch, ((0, padding), (0, 0))), np.pad(time, (0, padding))
    parts = [
        _decode(params, stretch[start : start + BATCH], time[start : start + BATCH], config=config)
        for start in range(0, count, BATCH)
    ]
    whole = [np.concatenate(column)[:count] for column in zip(*jax.device_get(parts), strict=True)]
    return Decoded(*(column.reshape(-1, *column.shape[2:]) for column in whole))


@partial(jax.jit, static_argnames="config")
def _decode(
    params: model.Params, stretch: Float[Any, "query latent"], time: Float[Any, " query"], config: Config
) -> Decoded:
    block = jax.vmap(partial(model.decode, config=config), (None, 0, 0))(params, stretch, time)
    if config.train.loss == "squared":  # frames alone, and no logits: a note begins where a frame does
        silence = jnp.zeros_like(block.frame)
        return Decoded(silence, block.frame, silence + 64 / 127, silence, silence[..., 0])
    return Decoded(
        jax.nn.sigmoid(block.onset),
        jax.nn.sigmoid(block.frame),
        block.velocity,
        block.timing,
        jax.nn.sigmoid(block.pedal),
    )


def density(decoded: Decoded, config: Config) -> Density:
    """The density of a stretch at the plain threshold."""
    grid, pedal = plain(decoded, config)
    sounding = np.zeros(len(pedal) + 1)
    np.add.at(sounding, grid["step"], 1)
    np.add.at(sounding, grid["end"], -1)
    onsets = np.bincount(grid["step"], minlength=len(pedal))
    steps = np.stack([onsets, np.cumsum(sounding[:-1]), pedal > 0.5])
    return Density(*steps.reshape(3, -1, config.model.block_steps).sum(-1))


def plain(decoded: Decoded, config: Config) -> tuple[np.ndarray, Float[np.ndarray, " step"]]:
    """GRID notes (in the common key) and pedal shares where probabilities exceed 0.5."""
    roll = np.stack(decoded[:4], axis=1)
    if config.train.loss == "squared":
        frame = decoded.frame > 0.5
        roll[:, rolls.ONSET] = frame & ~np.pad(frame, ((1, 0), (0, 0)))[:-1]
    return rolls.from_roll(roll, config.roll.low), decoded.pedal


def calibrated(
    decoded: Decoded, wanted: Density, config: Config, temperature: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, Float[np.ndarray, " step"]]:
    """GRID notes (in the common key) and pedal shares at a wanted density: in each window the likeliest cells.

    A struck key cannot be struck again a step later, so of neighbouring onset cells only the likeliest stands, unless
    each is likely by itself (over 0.5). With a `temperature` logistic noise of that scale is added to the logits first.
    """
    steps = WINDOW * config.model.block_steps
    onset = decoded.onset
    if temperature > 0:
        noise = np.random.default_rng(seed).logistic(0, temperature, onset.shape)
        chance = np.clip(onset, 1e-7, 1 - 1e-7)
        onset = 1 / (1 + np.exp(-(np.log(chance / (1 - chance)) + noise)))
    before, after = np.pad(onset, ((1, 0), (0, 0)))[:-1], np.pad(onset, ((0, 1), (0, 0)))[1:]
    stands = ((onset >= before) & (onset > after)) | (onset > 0.5)
    struck = likeliest(np.where(stands, onset, 0), wanted.onsets, steps)
    held = likeliest(holding(struck, decoded.frame), wanted.frames, steps)
    roll = np.stack([struck, held, decoded.velocity, decoded.timing], axis=1)
    down = likeliest(decoded.pedal[:, None], wanted.pedal, steps)[:, 0]
    pedal = np.where(down == (decoded.pedal > 0.5), decoded.pedal, down)
    return rolls.from_roll(roll, config.roll.low), pedal


def holding(struck: Bool[np.ndarray, "step pitch"], frame: Float[Any, "step pitch"]) -> Float[np.ndarray, "step pitch"]:
    """How likely the last note on each pitch still sounds: the least frame probability since its onset."""
    held = np.where(struck, 1, frame)
    held[0] = struck[0]
    for step in range(1, len(held)):
        np.minimum(held[step], held[step - 1], out=held[step], where=~struck[step])
    return held


def likeliest(
    values: Float[np.ndarray, "step pitch"], counts: Float[np.ndarray, " block"], window_steps: int
) -> Bool[np.ndarray, "step pitch"]:
    """In each window, as many of the highest values as the counts of its blocks add up to."""
    chosen = np.zeros(values.shape, bool)
    for window, start in enumerate(range(0, len(values), window_steps)):
        part = values[start : start + window_steps]
        count = min(round(float(counts[window * WINDOW : (window + 1) * WINDOW].sum())), part.size - 1)
        if count > 0:
            least, next_least = np.partition(part, (part.size - count, part.size - count - 1), axis=None)[
                [-count, -count - 1]
            ]
            chosen[start : start + window_steps] = part > (least + next_least) / 2
    return chosen
