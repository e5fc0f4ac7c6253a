"""Batches drawn on the device: the music there, a shuffle of its blocks, targets unpacked."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key, UInt32

from nemui_jax.config import Config, TrainConfig
from nemui_jax.data import dataset, layout
from nemui_jax.model import losses
from nemui_jax.training import distributed


class Data(NamedTuple):
    """The music on the device."""

    rolls: dataset.Rolls
    queries: layout.Queries
    skipped: Int[Array, ""] | np.int32 = np.int32(0)  # steps that were taken on other music


def load_data(corpus: dataset.Corpus, config: Config, mesh: Mesh | None = None) -> tuple[Data, int]:
    """The corpus on the devices, and the most notes that begin in one block (a shape, so static to the step)."""
    rolls = dataset.pack(corpus, config)
    most = dataset.most_notes(rolls.note_start, config.model.block_steps)
    data = Data(rolls, layout.corpus_queries(corpus.lengths, config))
    return jax.device_put(data) if mesh is None else distributed.place_tree(data, mesh), most


def sample_batch(
    key: Key[Array, ""], step: Int[Array, ""], queries: layout.Queries, config: TrainConfig
) -> layout.Queries:
    """The batch of this step: windows that begin at blocks in shuffled order, every block once a pass."""
    count = len(queries.step)
    position = step.astype(jnp.uint32) * config.batch_windows + jnp.arange(config.batch_windows, dtype=jnp.uint32)
    first = shuffle(key, position, count)
    index = jnp.minimum(first[:, None] + jnp.arange(config.window_blocks, dtype=jnp.uint32)[None], count - 1).reshape(
        -1
    )
    return layout.Queries(*(column[index] for column in queries))


def shuffle(key: Key[Array, ""], position: UInt32[Array, " batch"], count: int) -> UInt32[Array, " batch"]:
    """Entry `position` of an endless shuffle of `range(count)`, a new order each pass, in constant time and memory.

    A Feistel network on pairs (Luby and Rackoff, 1988) permutes the next larger square number; what exceeds `count`
    wraps round, so that below `2 / sqrt(count)` of a pass are entries seen twice.
    """
    side = jnp.uint32(np.ceil(np.sqrt(count)))
    turn, place = position // (side * side), position % (side * side)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, turn)
    left, right = place // side, place % side
    for turn_round in range(4):
        seeds = jax.vmap(jax.random.fold_in)(keys, turn_round * side + right)
        left, right = right, (left + jax.vmap(jax.random.bits)(seeds) % side) % side
    return (left * side + right) % jnp.uint32(count)


def make_targets(rolls: dataset.Rolls, start: Int[Array, " query"], config: Config, most: int) -> losses.Target:
    """The music of the blocks that begin at these steps, unpacked."""
    block, pitches = config.model.block_steps, config.roll.high - config.roll.low + 1
    cells = start[:, None] + jnp.arange(block)[None]
    bits = jnp.unpackbits(rolls.bits[cells], axis=-1, count=pitches, bitorder="little").astype(jnp.float32)
    first, last = rolls.note_start[start], rolls.note_start[start + block]
    note = first[:, None] + jnp.arange(most)[None]
    return losses.Target(
        onset=bits[:, :, 0],
        frame=bits[:, :, 1],
        pedal=rolls.pedal[cells] / 255,
        note_step=jnp.clip(rolls.note_step[note] - start[:, None], 0, block - 1),
        note_column=rolls.note_column[note].astype(jnp.int32),
        note_velocity=rolls.note_velocity[note] / 127,
        note_timing=rolls.note_timing[note],
        note_mask=(note < last[:, None]).astype(jnp.float32),
    )
