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
from jaxtyping import Array, Float, Int, Key, Shaped

from nemui_jax.config import Config, TrainConfig
from nemui_jax.model import decoder, losses
from nemui_jax.training import batches, distributed

CHUNK = 50  # steps a dispatch; seconds on a laptop
ROWS = 256  # the table's length is a multiple of this, so that any usual number of devices shares it evenly


class TrainState(NamedTuple):
    """All that a step changes."""

    step: Int[Array, ""]
    params: decoder.Params
    params_opt: optax.OptState
    latents: Float[Array, "row latent"]
    latents_opt: optax.OptState  # every leaf with a leading axis of rows: a row counts its own updates


def place_state(state: TrainState, mesh: Mesh | None) -> TrainState:
    """A state over the devices of a mesh: its rows split, all else whole on each."""
    whole, split = distributed.place_tree(state[:3], mesh), distributed.place_tree(state[3:], mesh, split=True)
    return TrainState(*whole, *split)


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam without its rate, for weights and, a row at a time, for latents."""
    return optax.scale_by_adam(b2=config.decay, nesterov=config.nesterov)


def learning_rate_share(step: Int[Array, ""], total: Int[Array, ""], config: TrainConfig) -> Float[Array, ""]:
    """The share of the peak learning rate in force: a warm-up over the first 20th, then a cosine to 1 %."""
    if config.constant_rate:
        return jnp.ones(())
    done = step / total
    return jnp.minimum(done * 20, 1) * (0.01 + 0.99 * (0.5 + 0.5 * jnp.cos(jnp.pi * jnp.minimum(done, 1))))


def init_state(key: Key[Array, ""], rows: int, config: Config) -> TrainState:
    """The state before training, for a table of this many rows, padded to a multiple of ROWS."""
    params_key, latents_key = jax.random.split(key)
    params = decoder.init(params_key, config)
    table = pad_rows(jax.random.normal(latents_key, (rows, config.model.latent_size)) * config.model.latent_scale)
    adam = make_optimizer(config.train)
    return TrainState(jnp.zeros((), jnp.int32), params, adam.init(params), table, jax.vmap(adam.init)(table))


def pad_rows(rows: Shaped[Array, "row ..."]) -> Shaped[Array, "padded ..."]:
    """Rows, and zeros up to a multiple of ROWS."""
    return jnp.pad(rows, [(0, -len(rows) % ROWS)] + [(0, 0)] * (rows.ndim - 1))


def train_step(
    state: TrainState, data: batches.Data, key: Key[Array, ""], total: Int[Array, ""], config: Config, most: int
) -> tuple[TrainState, Float[Array, ""]]:
    """One optimiser step on weights and on the rows that a batch reads; returns the new state and the loss.

    Rows are updated lazily: only those of the batch are gathered, with their moments, updated one by one and put back,
    so the cost does not depend on the size of the table. Over several devices the batch and the table are split, and
    XLA sees to what goes between them.
    """
    batch = distributed.constrain(
        batches.sample_batch(key, state.step - data.skipped, data.queries, config.train), split=True
    )
    target = batches.make_targets(data.rolls, batch.step, config, most)
    rows, slot = jnp.unique(
        batch.row,
        size=len(batch.row),
        fill_value=len(state.latents),  # past the end: read as anything, dropped when written
        return_inverse=True,
    )

    def cost(params, table):
        return batch_loss(params, table[slot], batch.time, target, config)

    adam, share = make_optimizer(config.train), learning_rate_share(state.step, total, config.train)
    table, moments = jax.tree.map(lambda leaf: leaf.at[rows].get(mode="clip"), (state.latents, state.latents_opt))
    value, (params_grad, table_grad) = jax.value_and_grad(cost, (0, 1))(state.params, table)
    params_move, params_opt = adam.update(params_grad, state.params_opt)
    table_move, moments = jax.vmap(adam.update)(table_grad, moments)
    params: Any = optax.apply_updates(state.params, optax.tree.scale(-share * config.train.weight_rate, params_move))
    table = optax.apply_updates(table, optax.tree.scale(-share * config.train.row_rate, table_move))
    learned = distributed.constrain((state.step + 1, params, params_opt), split=False)
    kept = jax.tree.map(
        lambda whole, part: whole.at[rows].set(part, mode="drop", unique_indices=True),
        (state.latents, state.latents_opt),
        (table, moments),
    )
    return TrainState(*learned, *distributed.constrain(kept, split=True)), value


def batch_loss(
    params: decoder.Params,
    latent: Float[Array, "query latent"],
    time: Float[Array, " query"],
    target: losses.Target,
    config: Config,
) -> Float[Array, ""]:
    """The loss of a batch of queries, given the latent row of each."""
    block = jax.vmap(partial(decoder.decode, config=config), (None, 0, 0))(params, latent, time)
    return losses.loss(block, target, config.train)


@partial(jax.jit, static_argnames=("config", "most", "length"), donate_argnames="state")
def train_steps(
    state: TrainState,
    data: batches.Data,
    key: Key[Array, ""],
    total: Int[Array, ""],
    *,
    config: Config,
    most: int,
    length: int,
) -> tuple[TrainState, Float[Array, " length"]]:
    """`length` steps in one dispatch; returns the new state and each step's loss."""
    return jax.lax.scan(lambda carry, _: train_step(carry, data, key, total, config, most), state, length=length)


def train_loop(
    state: TrainState,
    data: batches.Data,
    key: Key[Array, ""],
    total: int,
    config: Config,
    most: int,
    until: int | None = None,
) -> Iterator[tuple[TrainState, np.ndarray]]:
    """Trains up to step `until`, by default `total`, a chunk at a time; yields the state and the chunk's losses.

    Chunks end at multiples of CHUNK, so a run that was interrupted goes on with the same ones.
    """
    done, until = int(state.step), total if until is None else until
    while done < until:
        length = min(CHUNK - done % CHUNK, until - done)
        with distributed.mesh_scope(state.latents):
            state, losses = train_steps(state, data, key, jnp.int32(total), config=config, most=most, length=length)
        done += length
        yield state, np.asarray(losses)


def default_steps(blocks: int, config: TrainConfig) -> int:
    """How long to train for this many blocks of music, in whole chunks: each block is seen `passes` times."""
    wanted = config.passes * blocks / (config.batch_windows * config.window_blocks)
    return -(-max(round(wanted), config.least_steps) // CHUNK) * CHUNK


def is_finite(state: TrainState, losses: np.ndarray) -> bool:
    """Whether training still is: no loss, weight or row is infinite or not a number."""
    leaves = [losses, state.latents, *jax.tree.leaves(state.params)]
    return all(bool((np if isinstance(leaf, np.ndarray) else jnp).isfinite(leaf).all()) for leaf in leaves)


def steps_in_time(
    seconds: float, state: TrainState, data: batches.Data, key: Key[Array, ""], config: Config, most: int
) -> int:
    """How many steps, in whole chunks, train in this time on this machine; compiles and tries a chunk to know."""
    began = time.monotonic()
    run = partial(train_steps, data=data, key=key, total=jnp.int32(CHUNK), config=config, most=most, length=CHUNK)
    with distributed.mesh_scope(state.latents):
        state, _ = jax.block_until_ready(run(state))
        compiled = time.monotonic()
        jax.block_until_ready(run(state))
    chunk_seconds = time.monotonic() - compiled
    return max(int((seconds - (time.monotonic() - began)) / chunk_seconds), 1) * CHUNK
