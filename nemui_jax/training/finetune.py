"""Songs that the run has not seen: rows for them with the decoder fixed, or a lesson in which it learns too."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from nemui_jax.config import Config
from nemui_jax.data import dataset, layout
from nemui_jax.model import decoder
from nemui_jax.music.song import Song
from nemui_jax.training import batches
from nemui_jax.training.step import CHUNK, batch_loss, default_steps, learning_rate_share, make_optimizer

BATCH = 256  # blocks of the new song, and as many of old ones where the decoder learns too
FIT_STEPS = 150
FIT_RATE = 0.1
FINETUNE_STEPS = 400  # at least
FINETUNE_SHARE = 0.15  # of the steps that all old songs are trained for
FINETUNE_RATES = {"row_rate": 0.3, "weight_rate": 0.2}  # of those that the run was trained with


class Learner(NamedTuple):
    """What changes while a song is learned; where `params_opt` is None the decoder does not."""

    step: Int[Array, ""]
    params: decoder.Params
    params_opt: optax.OptState | None
    rows: Float[Array, "row latent"]
    rows_opt: optax.OptState


class Music(NamedTuple):
    """The new song, and the queries and rows of the old ones if they are rehearsed; these rows stay as they are."""

    rolls: dataset.Rolls
    new: layout.Queries  # rows counted from the new song's first
    old: tuple[layout.Queries, Float[Array, "row latent"]] | None = None


def fit_song(
    params: decoder.Params,
    song: Song,
    entry: dataset.SongEntry,
    config: Config,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Float[Array, "row latent"]:
    """Latent rows for a song with the decoder fixed, found by Adam from the origin, as in DeepSDF (Park et al., 2019).

    Notes beyond the pitches of the grid are left out. `progress(done, of)` is called as steps are done.
    """
    data, most = batches.load_data(dataset.Corpus((entry,), (within_pitches(song, entry, config),)), config)
    learner = _beginner(params, entry, config, weights=False)
    rates = dataclasses.replace(config.train, row_rate=FIT_RATE)
    settings = dataclasses.replace(config, train=rates)
    return _learn(learner, Music(data.rolls, data.queries), FIT_STEPS, settings, most, seed, progress).rows


class TrainedModel(NamedTuple):
    """A decoder and the rows of all the songs that it knows."""

    params: decoder.Params
    table: Float[Any, "row latent"]
    corpus: dataset.Corpus
    config: Config


def finetune_steps(known: TrainedModel) -> int:
    """How many steps a lesson takes, in whole chunks: more where more is known that must stay as it is."""
    trained = default_steps(layout.count_corpus_blocks(known.corpus.lengths, known.config), known.config.train)
    return -(-max(FINETUNE_STEPS, round(FINETUNE_SHARE * trained)) // CHUNK) * CHUNK


def add_song(
    known: TrainedModel,
    entry: dataset.SongEntry,
    song: Song,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> TrainedModel:
    """Teaches a trained decoder one more song, whose rows join the end of the table; the others stay as they are.

    Half of each batch is of old songs, so that the decoder goes on playing their rows. Where the song needs pitches
    that the grid does not have, the grid is widened. `progress(done, of)` is called as steps are done.
    """
    old, wide = known.config, dataset.fit_pitches(known.config, dataset.Corpus((entry,), (song,)))
    low, high = min(old.roll.low, wide.roll.low), max(old.roll.high, wide.roll.high)
    config = dataclasses.replace(old, roll=dataclasses.replace(old.roll, low=low, high=high))
    corpus = dataset.Corpus((*known.corpus.entries, entry), (*known.corpus.songs, song))
    data, most = batches.load_data(corpus, config)
    first, own = len(known.table), layout.count_blocks(entry.steps, config.model)
    rehearsed = layout.Queries(*(column[:-own] for column in data.queries))
    queries = layout.Queries(*(column[-own:] for column in data.queries))
    queries = queries._replace(row=queries.row - first)
    music = Music(data.rolls, queries, (rehearsed, jnp.asarray(known.table)))
    learner = _beginner(decoder.widen(known.params, old, config), entry, config, weights=True)
    rates = {name: getattr(config.train, name) * share for name, share in FINETUNE_RATES.items()}
    settings = dataclasses.replace(config, train=dataclasses.replace(config.train, **rates))
    learner = _learn(learner, music, finetune_steps(known), settings, most, seed, progress)
    return TrainedModel(learner.params, np.concatenate([known.table, learner.rows]), corpus, config)


def _beginner(params: decoder.Params, entry: dataset.SongEntry, config: Config, weights: bool) -> Learner:
    rows = jnp.zeros((layout.count_song_rows(entry.steps, config.model), config.model.latent_size))
    adam = make_optimizer(config.train)
    return Learner(jnp.int32(0), params, adam.init(params) if weights else None, rows, adam.init(rows))


def _learn(
    learner: Learner,
    music: Music,
    total: int,
    config: Config,
    most: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> Learner:
    blocks = BATCH if music.old else min(BATCH, len(music.new.step))
    windows = max(blocks // config.train.window_blocks, 1)
    settings = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_windows=windows))
    for done in range(CHUNK, total + 1, CHUNK):
        learner = _chunk(learner, music, jax.random.key(seed), jnp.int32(total), config=settings, most=most)
        jax.block_until_ready(learner)
        progress(done, total)
    return learner


@partial(jax.jit, static_argnames=("config", "most"))
def _chunk(
    learner: Learner, music: Music, key: Key[Array, ""], total: Int[Array, ""], *, config: Config, most: int
) -> Learner:
    """A chunk of steps on the new song's rows and, where it learns, the decoder."""
    adam = make_optimizer(config.train)

    def step(learner: Learner, _: None) -> tuple[Learner, None]:
        batch = batches.sample_batch(key, learner.step, music.new, config.train)
        step, time, kept = batch.step, batch.time, ()
        if music.old is not None:
            queries, table = music.old
            old = batches.sample_batch(key, learner.step, queries, config.train)
            step, time = jnp.concatenate([step, old.step]), jnp.concatenate([time, old.time])
            kept = (table[old.row],)
        target = batches.make_targets(music.rolls, step, config, most)

        def cost(rows, params):
            latent = jnp.concatenate([rows[batch.row], *kept])
            return batch_loss(params, latent, time, target, config)

        params: Any
        rows: Any
        done, params, params_opt, rows, rows_opt = learner
        share = learning_rate_share(done, total, config.train)
        rows_grad, params_grad = jax.grad(cost, (0, 1))(rows, params)  # XLA leaves out what is not used
        move, rows_opt = adam.update(rows_grad, rows_opt)
        rows = optax.apply_updates(rows, optax.tree.scale(-share * config.train.row_rate, move))
        if params_opt is not None:
            move, params_opt = adam.update(params_grad, params_opt)
            params = optax.apply_updates(params, optax.tree.scale(-share * config.train.weight_rate, move))
        return Learner(done + 1, params, params_opt, rows, rows_opt), None

    return jax.lax.scan(step, learner, length=CHUNK)[0]


def within_pitches(song: Song, entry: dataset.SongEntry, config: Config) -> Song:
    """The song without the notes that lie beyond the pitches of the grid."""
    pitch = song.notes["pitch"].astype(int) + entry.shift
    return dataclasses.replace(song, notes=song.notes[(pitch >= config.roll.low) & (pitch <= config.roll.high)])
