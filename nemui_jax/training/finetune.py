"""New songs for a trained model: `fit_song` fits rows with the decoder fixed, `add_song` trains rows and decoder.

Both use `train_loop` on the new song alone: `fit_song` with `update_params` off, `add_song` with `distillation` as the
penalty, which keeps the old songs by their rows: their music is not read.
"""

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, Key

from nemui_jax.config import Config
from nemui_jax.data import dataset
from nemui_jax.model import losses
from nemui_jax.model.decoder import Decoder, DecoderClass, Params, decode, widen
from nemui_jax.music.song import Song
from nemui_jax.training import batches
from nemui_jax.training.optimizer import make_optimizer
from nemui_jax.training.step import (
    NO_PENALTY,
    UPDATES_PER_CALL,
    OptimizerOf,
    TrainState,
    batch_loss,
    start_state,
    train_loop,
)

BATCH_BLOCKS = 256  # of the new song, and in `add_song` as many of old ones
OLD_ROWS = 2**15  # at most, spread evenly over all old songs, are on the device: 34 MB of the rows of large libraries
OLD_WEIGHT, LEAST_OLD_WEIGHT = 200.0, 1.0  # of the loss on OLD_ROWS old rows, and on few, to that on the new song
TIMES = 2**16  # that are drawn from in a cell that is a whole song
FIT_UPDATES, FIT_UPDATES_TO_ADD = 150, 600
FIT_ROW_RATE = 0.1
FINETUNE_UPDATES, UPDATES_PER_ROW = 500, 2.0  # for adding a song: these, or more if it is long
ALONE_UPDATES, ALONE_UPDATES_PER_ROW, ALONE_WEIGHT_RATE_RATIO = 200, 0.8, 0.2  # where no old songs are to be kept
FINETUNE_ROW_RATE_RATIO, FINETUNE_WEIGHT_RATE_RATIO = 0.6, 0.1  # of the rates in the configuration

Progress = Callable[[int, int], None]


def fit_song(
    params: Params,
    song: Song,
    entry: dataset.SongEntry,
    config: Config,
    seed: int = 0,
    progress: Progress = lambda *_: None,
    decoder: DecoderClass = Decoder,
    optimizer: OptimizerOf = make_optimizer,
    updates: int = FIT_UPDATES,
) -> Float[Array, "row latent"]:
    """Latent rows for a song, optimised from zero with the decoder fixed, as in DeepSDF (Park et al., 2019).

    Notes outside the pitches of the grid are left out. `progress(done, total)` is called with the number of updates.
    """
    data = batches.load_data(dataset.Corpus((entry,), (song,)), config)
    settings = _with_batch(config, len(data.queries.step), row_rate=FIT_ROW_RATE)
    params = _copied(params)
    state = start_state(params, jnp.zeros((entry.rows, config.model.latent_size)), settings, optimizer)
    loop = train_loop(
        state,
        data,
        jax.random.key(seed),
        updates,
        settings,
        decoder=decoder,
        optimizer=optimizer,
        update_params=False,
    )
    return _finish(state, loop, updates, progress).latents[: entry.rows]


class TrainedModel(NamedTuple):
    """A decoder with rows that it plays, and what they were trained with."""

    params: Params
    rows: Float[Any, "row latent"]  # of its songs: all of them, or some that are spread evenly
    config: Config


def finetune_steps(rows: int, alone: bool = False) -> int:
    """Updates of the decoder for a song of so many rows, in whole calls, whatever the number of old songs.

    Fewer are enough where it is `alone`: where no old song is to be kept.
    """
    least, per_row = (ALONE_UPDATES, ALONE_UPDATES_PER_ROW) if alone else (FINETUNE_UPDATES, UPDATES_PER_ROW)
    updates = max(least, round(per_row * rows))
    return -(-updates // UPDATES_PER_CALL) * UPDATES_PER_CALL


def add_song(
    model: TrainedModel,
    entry: dataset.SongEntry,
    song: Song,
    seed: int = 0,
    progress: Progress = lambda *_: None,
    decoder: DecoderClass = Decoder,
    optimizer: OptimizerOf = make_optimizer,
    rows: Float[Any, "row latent"] | None = None,
) -> tuple[TrainedModel, Float[np.ndarray, "row latent"]]:
    """Trains a model on one more song; returns it, and the song's rows, which come after those that it had.

    The old songs' rows do not change, and what the decoder makes of them is kept by `distillation`, where the model
    has any. If the song has pitches outside the grid or controllers without a head, the decoder is widened.
    The song's rows begin as `rows`, or as `fit_song` fits them. `progress(done, total)` is called with the number of
    updates.
    """
    old, alone = model.config, dataset.Corpus((entry,), (song,))
    fitted = dataset.fit_heads(dataset.fit_pitches(old, alone), alone)
    low, high = min(old.roll.low, fitted.roll.low), max(old.roll.high, fitted.roll.high)
    config = dataclasses.replace(fitted, roll=dataclasses.replace(old.roll, low=low, high=high))
    data = batches.load_data(alone, config)
    settings = _with_batch(
        config,
        BATCH_BLOCKS,
        row_rate=FINETUNE_ROW_RATE_RATIO * config.train.row_rate,
        weight_rate=(FINETUNE_WEIGHT_RATE_RATIO if len(model.rows) else ALONE_WEIGHT_RATE_RATIO)
        * config.train.weight_rate,
    )
    key, old_key = jax.random.split(jax.random.key(seed))
    params, penalty = widen(model.params, old, config), NO_PENALTY
    if len(model.rows):
        kept = np.linspace(0, len(model.rows) - 1, min(len(model.rows), OLD_ROWS)).astype(int)
        penalty = Partial(distillation, old_key, _copied(params), jnp.asarray(np.asarray(model.rows)[kept]))
    total, before = finetune_steps(entry.rows, alone=not len(model.rows)), 0
    if rows is None:
        before = FIT_UPDATES_TO_ADD
        fit_progress = lambda done, _: progress(done, before + total)  # noqa: E731
        rows = fit_song(params, song, entry, config, seed, fit_progress, decoder, optimizer, updates=before)
    state = start_state(_copied(params), jnp.asarray(np.asarray(rows)), settings, optimizer)
    loop = train_loop(state, data, key, total, settings, decoder=decoder, optimizer=optimizer, penalty=penalty)
    state = _finish(state, loop, total, lambda done, _: progress(before + done, before + total))
    learned = np.asarray(state.latents[: entry.rows])
    return TrainedModel(state.params, np.concatenate([model.rows, learned]), config), learned


def distillation(
    key: Key[Array, ""],
    teacher: Params,
    rows: Float[Array, "row latent"],
    params: Params,
    step: Int[Array, ""],
    config: Config,
    decoder: DecoderClass,
) -> Float[Array, ""]:
    """The loss of a decoder on what `teacher` plays from a batch of rows, drawn with the times of their blocks.

    So a network learns a new task and keeps what it knew without the data of that: Li and Hoiem, 2016, "Learning
    without Forgetting", after Hinton et al., 2015.
    """
    row_key, time_key = jax.random.split(jax.random.fold_in(key, step))
    shape = (config.train.batch_windows * config.train.window_blocks,)
    blocks = config.model.knot_steps // config.model.block_steps or TIMES
    latent = rows[jax.random.randint(row_key, shape, 0, len(rows))]
    time = jax.random.randint(time_key, shape, 0, blocks) / blocks
    played = jax.vmap(partial(decode, config=config, decoder=decoder), (None, 0, 0))(teacher, latent, time)
    weight = max(OLD_WEIGHT * len(rows) / OLD_ROWS, LEAST_OLD_WEIGHT)
    return weight * batch_loss(params, latent, time, losses.target_of(played, config), config, decoder)


def _copied(params: Params) -> Params:
    """A copy of a decoder's weights, as training donates its state.

    It is bound to no device, as rows that are made here are: the state would be partly so, and training be compiled
    again for its second call, in which all of it is.
    """
    return jax.tree.map(lambda weight: jnp.array(np.asarray(weight)), params)


def _with_batch(config: Config, blocks: int, **rates: float) -> Config:
    """The configuration for batches of at most so many blocks of the new song, at these learning rates."""
    windows = max(min(blocks, BATCH_BLOCKS) // config.train.window_blocks, 1)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, batch_windows=windows, **rates))


def _finish(
    state: TrainState, loop: Iterable[tuple[TrainState, np.ndarray]], total: int, progress: Progress
) -> TrainState:
    """Runs a loop to its end, with progress; returns the last state."""
    for state, _ in loop:
        progress(int(state.step), total)
    return state
