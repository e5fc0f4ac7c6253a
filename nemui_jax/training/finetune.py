"""New songs for a trained model: `fit_song` fits rows with the decoder fixed, `add_song` trains rows and decoder.

Both use `train_loop`: `fit_song` with `update_params` off, `add_song` with `first_row` at the new song's first row.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nemui_jax.config import Config
from nemui_jax.data import dataset, layout
from nemui_jax.model.decoder import Decoder, DecoderClass, Params, widen
from nemui_jax.music.song import Song
from nemui_jax.training import batches
from nemui_jax.training.optimizer import make_optimizer
from nemui_jax.training.step import (
    UPDATES_PER_CALL,
    OptimizerOf,
    TrainState,
    default_steps,
    start_state,
    train_loop,
)

BATCH_BLOCKS = 256  # of the new song, and in `add_song` as many of old ones
FIT_UPDATES = 150
FIT_ROW_RATE = 0.1
MIN_FINETUNE_UPDATES = 400
FITTED_FINETUNE_UPDATES, FITTED_UPDATES_PER_ROW = 200, 0.8  # for a song that has been fitted: these, or more if long
FINETUNE_UPDATES_RATIO = 0.15  # of the default number of updates for all old songs
FINETUNE_ROW_RATE_RATIO, FINETUNE_WEIGHT_RATE_RATIO = 0.6, 0.2  # of the rates in the configuration

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
) -> Float[Array, "row latent"]:
    """Latent rows for a song, optimised from zero with the decoder fixed, as in DeepSDF (Park et al., 2019).

    Notes outside the pitches of the grid are left out. `progress(done, total)` is called with the number of updates.
    """
    data, max_notes = batches.load_data(dataset.Corpus((entry,), (song,)), config)
    settings = _with_batch(config, len(data.queries.step), row_rate=FIT_ROW_RATE)
    params = _copied(params)
    state = start_state(params, jnp.zeros((entry.rows, config.model.latent_size)), settings, optimizer)
    loop = train_loop(
        state,
        data,
        jax.random.key(seed),
        FIT_UPDATES,
        settings,
        max_notes,
        decoder=decoder,
        optimizer=optimizer,
        update_params=False,
    )
    return _finish(state, loop, FIT_UPDATES, progress).latents[: entry.rows]


class TrainedModel(NamedTuple):
    """A decoder, the rows of its songs, and what they were trained with."""

    params: Params
    table: Float[Any, "row latent"]
    corpus: dataset.Corpus
    config: Config


def finetune_steps(model: TrainedModel) -> int:
    """Updates for adding a song, in whole calls: more for a model of more songs, so that these are not forgotten."""
    trained = default_steps(layout.count_blocks(model.corpus.entries, model.config.model), model.config.train)
    updates = max(MIN_FINETUNE_UPDATES, round(FINETUNE_UPDATES_RATIO * trained))
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
) -> TrainedModel:
    """Trains a model on one more song, whose rows are appended to the table; the old songs' rows do not change.

    Half of each batch is of old songs, where the model has any, so that the decoder does not forget them. If the song
    has pitches outside the grid or controllers without a head, the decoder is widened. `progress(done, total)` is
    called with the number of updates: fewer of them where the song's rows begin as `rows`, which `fit_song` has fitted,
    and not as zeros.
    """
    old, alone = model.config, dataset.Corpus((entry,), (song,))
    fitted = dataset.fit_heads(dataset.fit_pitches(old, alone), alone)
    low, high = min(old.roll.low, fitted.roll.low), max(old.roll.high, fitted.roll.high)
    config = dataclasses.replace(fitted, roll=dataclasses.replace(old.roll, low=low, high=high))
    corpus = dataset.Corpus((*model.corpus.entries, entry), (*model.corpus.songs, song))
    data, max_notes = batches.load_data(corpus, config)
    new_blocks = layout.count_blocks([entry], config.model)
    data = data._replace(
        queries=layout.Queries(*(column[-new_blocks:] for column in data.queries)),
        replay=layout.Queries(*(column[:-new_blocks] for column in data.queries)) if model.corpus.entries else None,
    )
    settings = _with_batch(
        config,
        BATCH_BLOCKS,
        row_rate=FINETUNE_ROW_RATE_RATIO * config.train.row_rate,
        weight_rate=FINETUNE_WEIGHT_RATE_RATIO * config.train.weight_rate,
    )
    first_row = len(model.table)
    new_rows = np.zeros((entry.rows, model.table.shape[1]), np.float32) if rows is None else np.asarray(rows)
    table = np.concatenate([np.asarray(model.table), new_rows])
    params = _copied(widen(model.params, old, config))
    total = finetune_steps(model) if rows is None else _fitted_steps(entry.rows)
    state = start_state(params, jnp.asarray(table), settings, optimizer)
    loop = train_loop(
        state,
        data,
        jax.random.key(seed),
        total,
        settings,
        max_notes,
        decoder=decoder,
        optimizer=optimizer,
        first_row=first_row,
    )
    state = _finish(state, loop, total, progress)
    return TrainedModel(state.params, np.asarray(state.latents[: len(table)]), corpus, config)


def _copied(params: Params) -> Params:
    """A copy of a decoder's weights, as training donates its state.

    It is bound to no device, as rows that are made here are: the state would be partly so, and training be compiled
    again for its second call, in which all of it is.
    """
    return jax.tree.map(lambda weight: jnp.array(np.asarray(weight)), params)


def _fitted_steps(rows: int) -> int:
    """Updates for adding a song that has been fitted, in whole calls."""
    updates = max(FITTED_FINETUNE_UPDATES, round(FITTED_UPDATES_PER_ROW * rows))
    return -(-updates // UPDATES_PER_CALL) * UPDATES_PER_CALL


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
