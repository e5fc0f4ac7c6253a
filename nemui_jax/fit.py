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

from nemui_jax import dataset, latents, metrics, model, sample, train
from nemui_jax.config import Config
from nemui_jax.dataset import Corpus, SongEntry
from nemui_jax.latents import Queries
from nemui_jax.midi import Song
from nemui_jax.sample import Track
from nemui_jax.train import Data, TrainState

FIT_STEPS = 150
FIT_BATCH = 256
FIT_RATE = 0.1
LESSON_STEPS = 150  # half of each batch is the new song, half old ones, so that they are kept
LESSON_RATE = 0.3  # of the rates that the run was trained with


def fit(
    params: model.Params,
    song: Song,
    entry: SongEntry,
    config: Config,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Track, float]:
    """A track for a song with the decoder fixed, and its recall: note F1 of onsets against the song.

    Rows are found by Adam from the origin, as in DeepSDF (Park et al., 2019). Notes beyond the pitches of the grid
    cannot be played, and count as missed. `progress(done, of)` is called as steps are done.
    """
    data, most = train.load(Corpus((entry,), (within(song, entry, config),)), config)
    batch = dataclasses.replace(config.train, batch_windows=min(FIT_BATCH, len(data.queries.step)))
    settings = dataclasses.replace(config, train=batch)
    rows = jnp.zeros((latents.count_rows(entry.steps, config.model), config.model.latent_size))
    state = (jnp.int32(0), rows, train.optimiser(config.train).init(rows))
    key = jax.random.key(seed)
    for done in range(train.CHUNK, FIT_STEPS + 1, train.CHUNK):
        state = _fit(params, state, data, key, config=settings, most=most)
        progress(done, FIT_STEPS)
    track = sample.track(entry, song, state[1])
    return track, metrics.note_scores(song.notes, sample.recall(params, track, config).notes).onset.f1


@partial(jax.jit, static_argnames=("config", "most"))
def _fit(
    params: model.Params,
    state: tuple[Int[Array, ""], Float[Array, "row latent"], optax.OptState],
    data: Data,
    key: Key[Array, ""],
    config: Config,
    most: int,
) -> tuple[Int[Array, ""], Float[Array, "row latent"], optax.OptState]:
    """A chunk of steps on rows alone."""
    adam = train.optimiser(config.train)

    def step(carry, _):
        step, rows, moments = carry
        batch = train.draw(key, step, data.queries, config.train)
        target = train.targets(data.rolls, batch.step, config, most)
        slope = jax.grad(
            lambda r: train.batch_loss(params, r[batch.row], r[batch.next_row], batch.time, target, config)
        )
        move, moments = adam.update(slope(rows), moments)
        share = train.rate(step, jnp.int32(FIT_STEPS), config.train)
        rows: Any = optax.apply_updates(rows, optax.tree.scale(-share * FIT_RATE, move))
        return (step + 1, rows, moments), None

    return jax.lax.scan(step, state, length=train.CHUNK)[0]


class Taught(NamedTuple):
    """A state that knows a list of songs."""

    state: TrainState
    corpus: Corpus
    config: Config


def teach(
    known: Taught, entry: SongEntry, song: Song, seed: int = 0, progress: Callable[[int, int], None] = lambda *_: None
) -> Taught:
    """Teaches a trained state one more song, whose rows join the end of the table.

    The song's rows are fitted first; then the decoder learns too. Old songs are rehearsed: half of what is drawn is
    theirs. Where the song needs pitches that the grid does not have, the grid is widened.
    """
    old, wide = known.config, dataset.fit_pitches(known.config, Corpus((entry,), (song,)))
    low, high = min(old.roll.low, wide.roll.low), max(old.roll.high, wide.roll.high)
    config = dataclasses.replace(old, roll=dataclasses.replace(old.roll, low=low, high=high))
    params = model.widen(known.state.params, old, config)
    params_opt = jax.tree.map(
        lambda part: model.widen(part, old, config, filled=False) if isinstance(part, dict) else part,
        known.state.params_opt,
        is_leaf=lambda part: isinstance(part, dict),
    )
    rows = fit(params, song, entry, config, seed, lambda done, of: progress(done, of + LESSON_STEPS))[0].rows
    fresh = jnp.asarray(rows), jax.vmap(train.optimiser(config.train).init)(jnp.asarray(rows))
    count = dataset.count_rows(known.corpus.entries, config)
    table, moments = jax.tree.map(
        lambda whole, part: train.pad(jnp.concatenate([whole[:count], part])),
        (known.state.latents, known.state.latents_opt),
        fresh,
    )
    state = TrainState(jnp.int32(0), params, params_opt, table, moments)
    corpus = Corpus((*known.corpus.entries, entry), (*known.corpus.songs, song))
    data, most = train.load(corpus, config)
    data = data._replace(queries=_half_new(data.queries, latents.count_queries(entry.steps, config.model)))
    rates = {"row_rate": config.train.row_rate * LESSON_RATE, "weight_rate": config.train.weight_rate * LESSON_RATE}
    settings = dataclasses.replace(config, train=dataclasses.replace(config.train, **rates))
    for state, _ in train.loop(state, data, jax.random.key(seed), LESSON_STEPS, settings, most):  # noqa: B020
        progress(FIT_STEPS + int(state.step), FIT_STEPS + LESSON_STEPS)
    return Taught(state._replace(step=known.state.step + LESSON_STEPS), corpus, config)


def _half_new(queries: Queries, new: int) -> Queries:
    """The queries of old songs, and the last `new` ones over and over, so that either are half of all."""
    old = len(queries.step) - new
    index = np.concatenate([np.arange(old), old + np.arange(max(old, new)) % new])
    return Queries(*(column[index] for column in queries))


def within(song: Song, entry: SongEntry, config: Config) -> Song:
    """The song without the notes that lie beyond the pitches of the grid."""
    pitch = song.notes["pitch"].astype(int) + entry.shift
    return dataclasses.replace(song, notes=song.notes[(pitch >= config.roll.low) & (pitch <= config.roll.high)])
