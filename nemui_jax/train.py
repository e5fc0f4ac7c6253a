"""Learning: the state, the step, many steps a dispatch.

All data is on the device, batches are drawn there by index, and the host is visited once a chunk of steps.
"""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, Shaped, UInt32

from nemui_jax import devices, latents, model
from nemui_jax.config import Config, TrainConfig
from nemui_jax.dataset import Corpus, Rolls, most_notes, pack, queries
from nemui_jax.latents import Queries
from nemui_jax.losses import Target, loss

CHUNK = 50  # steps a dispatch; seconds on a laptop
ROWS = 256  # the table's length is a multiple of this, so that any usual number of devices shares it evenly


class TrainState(NamedTuple):
    """All that a step changes."""

    step: Int[Array, ""]
    params: model.Params
    params_opt: optax.OptState
    latents: Float[Array, "row latent"]
    latents_opt: optax.OptState  # every leaf with a leading axis of rows: a row counts its own updates


class Data(NamedTuple):
    """The music on the device."""

    rolls: Rolls
    queries: Queries
    skipped: Int[Array, ""] | np.int32 = np.int32(0)  # steps that were taken on other music


def load(corpus: Corpus, config: Config, mesh: Mesh | None = None) -> tuple[Data, int]:
    """The corpus on the devices, and the most notes that begin in one block (a shape, so static to the step)."""
    rolls = pack(corpus, config)
    most = most_notes(rolls.note_start, config.model.block_steps)
    data = Data(rolls, queries(corpus.entries, config))
    return jax.device_put(data) if mesh is None else devices.place(data, mesh), most


def place(state: TrainState, mesh: Mesh | None) -> TrainState:
    """A state over the devices of a mesh: its rows split, all else whole on each."""
    whole, split = devices.place(state[:3], mesh), devices.place(state[3:], mesh, split=True)
    return TrainState(*whole, *split)


def optimiser(config: TrainConfig) -> optax.GradientTransformation:
    """Adam without its rate, for weights and, a row at a time, for latents."""
    return optax.scale_by_adam(b2=config.decay, nesterov=config.nesterov)


def rate(step: Int[Array, ""], total: Int[Array, ""], config: TrainConfig) -> Float[Array, ""]:
    """The share of the peak learning rate in force: a warm-up over the first 20th, then a cosine to 1 %."""
    if config.constant_rate:
        return jnp.ones(())
    done = step / total
    return jnp.minimum(done * 20, 1) * (0.01 + 0.99 * (0.5 + 0.5 * jnp.cos(jnp.pi * jnp.minimum(done, 1))))


def init(key: Key[Array, ""], rows: int, config: Config) -> TrainState:
    """The state before training, for a table of this many rows, padded to a multiple of ROWS."""
    params_key, latents_key = jax.random.split(key)
    params = model.init(params_key, config)
    table = pad(jax.random.normal(latents_key, (rows, config.model.latent_size)) * config.model.latent_scale)
    adam = optimiser(config.train)
    return TrainState(jnp.zeros((), jnp.int32), params, adam.init(params), table, jax.vmap(adam.init)(table))


def pad(rows: Shaped[Array, "row ..."]) -> Shaped[Array, "padded ..."]:
    """Rows, and zeros up to a multiple of ROWS."""
    return jnp.pad(rows, [(0, -len(rows) % ROWS)] + [(0, 0)] * (rows.ndim - 1))


def step(
    state: TrainState, data: Data, key: Key[Array, ""], total: Int[Array, ""], config: Config, most: int
) -> tuple[TrainState, Float[Array, ""]]:
    """One optimiser step on weights and on the rows that a batch reads; returns the new state and the loss.

    Rows are updated lazily: only those of the batch are gathered, with their moments, updated one by one and put back,
    so the cost does not depend on the size of the table. Over several devices the batch and the table are split, and
    XLA sees to what goes between them.
    """
    batch = devices.constrain(draw(key, state.step - data.skipped, data.queries, config.train), split=True)
    target = targets(data.rolls, batch.step, config, most)
    rows, slot = jnp.unique(
        jnp.concatenate([batch.row, batch.next_row]),
        size=2 * len(batch.row),
        fill_value=len(state.latents),  # past the end: read as anything, dropped when written
        return_inverse=True,
    )
    before, after = jnp.split(slot, 2)

    def cost(params, table):
        return batch_loss(params, table[before], table[after], batch.time, target, config)

    adam, share = optimiser(config.train), rate(state.step, total, config.train)
    table, moments = jax.tree.map(lambda leaf: leaf.at[rows].get(mode="clip"), (state.latents, state.latents_opt))
    value, (params_grad, table_grad) = jax.value_and_grad(cost, (0, 1))(state.params, table)
    params_move, params_opt = adam.update(params_grad, state.params_opt)
    table_move, moments = jax.vmap(adam.update)(table_grad, moments)
    params: Any = optax.apply_updates(state.params, optax.tree.scale(-share * config.train.weight_rate, params_move))
    table = optax.apply_updates(table, optax.tree.scale(-share * config.train.row_rate, table_move))
    learned = devices.constrain((state.step + 1, params, params_opt), split=False)
    kept = jax.tree.map(
        lambda whole, part: whole.at[rows].set(part, mode="drop", unique_indices=True),
        (state.latents, state.latents_opt),
        (table, moments),
    )
    return TrainState(*learned, *devices.constrain(kept, split=True)), value


def batch_loss(
    params: model.Params,
    before: Float[Array, "query latent"],
    after: Float[Array, "query latent"],
    time: Float[Array, " query"],
    target: Target,
    config: Config,
) -> Float[Array, ""]:
    """The loss of a batch of queries, given the rows of the knots around them."""
    latent = latents.read(before, after, time)
    block = jax.vmap(partial(model.decode, config=config), (None, 0, 0))(params, latent, time)
    return loss(block, target, config.train)


@partial(jax.jit, static_argnames=("config", "most", "length"), donate_argnames="state")
def steps(
    state: TrainState, data: Data, key: Key[Array, ""], total: Int[Array, ""], *, config: Config, most: int, length: int
) -> tuple[TrainState, Float[Array, " length"]]:
    """`length` steps in one dispatch; returns the new state and each step's loss."""
    return jax.lax.scan(lambda carry, _: step(carry, data, key, total, config, most), state, length=length)


def loop(
    state: TrainState, data: Data, key: Key[Array, ""], total: int, config: Config, most: int, until: int | None = None
) -> Iterator[tuple[TrainState, np.ndarray]]:
    """Trains up to step `until`, by default `total`, a chunk at a time; yields the state and the chunk's losses.

    Chunks end at multiples of CHUNK, so a run that was interrupted goes on with the same ones.
    """
    done, until = int(state.step), total if until is None else until
    while done < until:
        length = min(CHUNK - done % CHUNK, until - done)
        with devices.scope(state.latents):
            state, losses = steps(state, data, key, jnp.int32(total), config=config, most=most, length=length)
        done += length
        yield state, np.asarray(losses)


def default_steps(blocks: int, config: TrainConfig) -> int:
    """How long to train for this many blocks of music, in whole chunks: each block is seen `passes` times."""
    wanted = config.passes * blocks / (config.batch_windows * config.window_blocks)
    return -(-max(round(wanted), config.least_steps) // CHUNK) * CHUNK


def finite(state: TrainState, losses: np.ndarray) -> bool:
    """Whether training still is: no loss, weight or row is infinite or not a number."""
    leaves = [losses, state.latents, *jax.tree.leaves(state.params)]
    return all(bool((np if isinstance(leaf, np.ndarray) else jnp).isfinite(leaf).all()) for leaf in leaves)


def steps_in(seconds: float, state: TrainState, data: Data, key: Key[Array, ""], config: Config, most: int) -> int:
    """How many steps, in whole chunks, train in this time on this machine; compiles and tries a chunk to know."""
    began = time.monotonic()
    run = partial(steps, data=data, key=key, total=jnp.int32(CHUNK), config=config, most=most, length=CHUNK)
    with devices.scope(state.latents):
        state, _ = jax.block_until_ready(run(state))
        compiled = time.monotonic()
        jax.block_until_ready(run(state))
    chunk_seconds = time.monotonic() - compiled
    return max(int((seconds - (time.monotonic() - began)) / chunk_seconds), 1) * CHUNK


def draw(key: Key[Array, ""], step: Int[Array, ""], queries: Queries, config: TrainConfig) -> Queries:
    """The batch of this step: windows that begin at blocks in shuffled order, every block once a pass."""
    count = len(queries.step)
    position = step.astype(jnp.uint32) * config.batch_windows + jnp.arange(config.batch_windows, dtype=jnp.uint32)
    first = shuffle(key, position, count)
    index = jnp.minimum(first[:, None] + jnp.arange(config.window_blocks, dtype=jnp.uint32)[None], count - 1).reshape(
        -1
    )
    return Queries(*(column[index] for column in queries))


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


def targets(rolls: Rolls, start: Int[Array, " query"], config: Config, most: int) -> Target:
    """The music of the blocks that begin at these steps, unpacked."""
    block, pitches = config.model.block_steps, config.roll.high - config.roll.low + 1
    cells = start[:, None] + jnp.arange(block)[None]
    bits = jnp.unpackbits(rolls.bits[cells], axis=-1, count=pitches, bitorder="little").astype(jnp.float32)
    first, last = rolls.note_start[start], rolls.note_start[start + block]
    note = first[:, None] + jnp.arange(most)[None]
    return Target(
        onset=bits[:, :, 0],
        frame=bits[:, :, 1],
        pedal=rolls.pedal[cells] / 255,
        note_step=jnp.clip(rolls.note_step[note] - start[:, None], 0, block - 1),
        note_column=rolls.note_column[note].astype(jnp.int32),
        note_velocity=rolls.note_velocity[note] / 127,
        note_timing=rolls.note_timing[note],
        note_mask=(note < last[:, None]).astype(jnp.float32),
    )
