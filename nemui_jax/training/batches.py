"""Batches drawn on the device: the music, a shuffle of its blocks, and their targets."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key, UInt32

from nemui_jax.config import Config, TrainConfig
from nemui_jax.data import cells, dataset, layout
from nemui_jax.model import losses
from nemui_jax.model.heads import Excerpt, count_pitches, heads_of
from nemui_jax.training import distributed


class Data(NamedTuple):
    """The music on the device, and the blocks that batches are drawn from."""

    rolls: cells.Rolls
    queries: layout.Queries
    skipped: Int[Array, ""] | np.int32 = np.int32(0)  # of the updates so far, those made on other music


def load_data(corpus: dataset.Corpus, config: Config, mesh: Mesh | None = None) -> Data:
    """The corpus on the devices."""
    rolls = dataset.pack(corpus, config)
    data = Data(rolls, repeat_dense(layout.corpus_queries(corpus.entries, config.model), rolls, config))
    return jax.device_put(data) if mesh is None else distributed.place_tree(data, mesh)


def repeat_dense(queries: layout.Queries, rolls: cells.Rolls, config: Config) -> layout.Queries:
    """Each query once, and once more for every `repeat_notes` notes that begin in its block.

    Blocks of many notes are rare and are learned last: drawn as often as others, they hold most of the errors. Windows
    of several blocks stay as they are, as theirs follow each other.
    """
    if not config.train.repeat_notes or config.train.window_blocks > 1:
        return queries
    times = 1 + _notes_of(queries, rolls.note_start, config) // config.train.repeat_notes
    return layout.Queries(*(np.repeat(column, times) for column in queries))


def notes_per_step(data: Data, config: Config) -> float:
    """The mean number of notes that begin in a step of the blocks, each counted as often as it is drawn."""
    return float(np.mean(_notes_of(data.queries, data.rolls.note_start, config)) / config.model.block_steps)


def _notes_of(
    queries: layout.Queries, note_start: Int[Any, " step_and_one"], config: Config
) -> Int[np.ndarray, " query"]:
    """The number of notes that begin in each block."""
    step, start = np.asarray(queries.step), np.asarray(note_start)
    return start[step + config.model.block_steps] - start[step]


def sample_batch(key: Key[Array, ""], step: Int[Array, ""], data: Data, config: TrainConfig) -> layout.Queries:
    """The batch of this update: `batch_windows` windows of blocks."""
    return sample_queries(key, step - data.skipped, data.queries, config)


def sample_queries(
    key: Key[Array, ""], step: Int[Array, ""], queries: layout.Queries, config: TrainConfig
) -> layout.Queries:
    """Windows of consecutive blocks, whose first blocks are shuffled: each block comes first once a pass."""
    count = len(queries.step)
    position = step.astype(jnp.uint32) * config.batch_windows + jnp.arange(config.batch_windows, dtype=jnp.uint32)
    window = shuffle(key, position, count)[:, None] + jnp.arange(config.window_blocks, dtype=jnp.uint32)[None]
    index = jnp.minimum(window, count - 1).reshape(-1)
    return layout.Queries(*(column[index] for column in queries))


def shuffle(key: Key[Array, ""], position: UInt32[Array, " batch"], count: int) -> UInt32[Array, " batch"]:
    """Entries `position` of an endless shuffle of `range(count)`, in a new order each pass, in constant memory.

    A Feistel network on pairs (Luby and Rackoff, 1988) permutes the numbers below the next square. It is applied again
    to results of `count` or more until they are below it (cycle-walking: Black and Rogaway, 2002), which permutes
    `range(count)`: each entry is mapped to the next one below `count` on its cycle, and no two to the same.
    """
    side = jnp.uint32(math.isqrt(count - 1) + 1)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, position // jnp.uint32(count))

    def feistel_round(number: Int[Array, ""], pair: tuple[Array, Array]) -> tuple[Array, Array]:
        left, right = pair
        seeds = jax.vmap(jax.random.fold_in)(keys, number.astype(jnp.uint32) * side + right)
        return right, (left + jax.vmap(jax.random.bits)(seeds) % side) % side

    def permute(walk: tuple[Array, Array]) -> tuple[Array, Array]:
        entry, outside = walk
        left, right = jax.lax.fori_loop(0, 4, feistel_round, (entry // side, entry % side))
        entry = jnp.where(outside, left * side + right, entry)
        return entry, entry >= count

    entry, _ = jax.lax.while_loop(
        lambda walk: jnp.any(walk[1]), permute, (position % jnp.uint32(count), jnp.ones_like(position, bool))
    )
    return entry


def make_targets(rolls: cells.Rolls, start: Int[Array, " query"], config: Config) -> losses.Target:
    """The targets of the blocks that begin at these steps."""
    steps = start[:, None] + jnp.arange(config.model.block_steps)[None]
    place = jnp.arange(config.model.chord_size)[None, None]
    note = rolls.note_start[steps][..., None] + place  # beyond the end it is the last note, whose mask is 0
    unpack = partial(jnp.unpackbits, axis=-1, count=count_pitches(config), bitorder="little")
    names = cells.curve_names(config.model)
    music = Excerpt(
        onset=unpack(rolls.bits[steps, 0]).astype(jnp.float32),
        frame=unpack(rolls.bits[steps, 1]).astype(jnp.float32),
        velocity=rolls.note_velocity[note] / cells.VELOCITY_LEVELS,
        timing=rolls.note_timing[note],
        curves={name: rolls.curves[steps, column] / cells.CURVE_LEVELS for column, name in enumerate(names)},
    )
    return losses.Target(
        values={name: head.read(music) for name, head in heads_of(config).items()},
        note_mask=(note < rolls.note_start[steps + 1][..., None]).astype(jnp.float32),
    )
