"""Training: the state, one update of it, and many updates in one call.

All data is on the device and batches are drawn there by index, so that control returns to the host only every
UPDATES_PER_CALL updates.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Shaped

from nemui_jax.config import Config, TrainConfig
from nemui_jax.model import losses
from nemui_jax.model.decoder import Decoder, DecoderClass, Params, decode, init
from nemui_jax.training import batches, distributed
from nemui_jax.training.optimizer import Optimizer, make_optimizer

UPDATES_PER_CALL = 50  # which take seconds on a laptop
ROW_MULTIPLE = 256  # the table's length is a multiple of this, so that it divides evenly over devices
FAST_COMPILE = {"xla_backend_optimization_level": 0}  # of what takes longer to compile than to run

OptimizerOf = Callable[[TrainConfig], Optimizer]
Penalty = Callable[[Params, Int[Array, ""], Config, DecoderClass], Float[Array, ""]]
"""What is added to the loss of the weights, at a step; a `Partial`, as the arrays in it are arguments of a call."""
NO_PENALTY = Partial(lambda *_: jnp.zeros(()))


class TrainState(NamedTuple):
    """Everything that an update changes."""

    step: Int[Array, ""]  # updates done
    params: Params
    params_opt: optax.OptState
    latents: Float[Array, "row latent"]
    latents_opt: optax.OptState  # each leaf has a leading axis of rows


def place_state(state: TrainState, mesh: Mesh | None) -> TrainState:
    """The state on the devices of a mesh: rows split, everything else replicated."""
    replicated, split = distributed.place_tree(state[:3], mesh), distributed.place_tree(state[3:], mesh, split=True)
    return TrainState(*replicated, *split)


def init_state(
    key: Key[Array, ""],
    rows: int,
    config: Config,
    decoder: DecoderClass = Decoder,
    optimizer: OptimizerOf = make_optimizer,
) -> TrainState:
    """The state before training, for a table of this many rows, padded to a multiple of ROW_MULTIPLE."""
    params_key, latents_key = jax.random.split(key)
    params = init(params_key, config, decoder)
    table = jax.random.normal(latents_key, (rows, config.model.latent_size)) * config.model.latent_scale
    return start_state(params, table, config, optimizer)


init_state_once = jax.jit(init_state, static_argnums=(1, 2, 3, 4), compiler_options=FAST_COMPILE)


def start_state(
    params: Params, table: Float[Array, "row latent"], config: Config, optimizer: OptimizerOf = make_optimizer
) -> TrainState:
    """The state before the first update of these weights and rows, which are padded to a multiple of ROW_MULTIPLE."""
    latents, transform = pad_rows(table), optimizer(config.train)
    opt_states = transform.params.init(params), jax.vmap(transform.rows.init)(latents)
    return TrainState(jnp.zeros((), jnp.int32), params, opt_states[0], latents, opt_states[1])


def pad_rows(rows: Shaped[Array, "row ..."]) -> Shaped[Array, "padded ..."]:
    """Rows, and zeros up to a multiple of ROW_MULTIPLE."""
    return jnp.pad(rows, [(0, -len(rows) % ROW_MULTIPLE)] + [(0, 0)] * (rows.ndim - 1))


def train_step(
    state: TrainState,
    data: batches.Data,
    key: Key[Array, ""],
    total: Int[Array, ""] | int,
    config: Config,
    decoder: DecoderClass = Decoder,
    optimizer: OptimizerOf = make_optimizer,
    update_params: bool = True,
    penalty: Penalty = NO_PENALTY,
) -> tuple[TrainState, Float[Array, ""]]:
    """One update, of `total`; returns the new state and the loss.

    It changes the rows of the batch and, if `update_params`, the weights, whose `penalty` is part of the loss. Rows are
    updated lazily: only the rows of the batch and their optimiser states are gathered, updated and written back, so
    that the cost does not depend on the size of the table. On several devices the batch and the table are split.
    """
    batch = distributed.constrain(batches.sample_batch(key, state.step, data, config.train), split=True)
    target = batches.make_targets(data.rolls, batch.step, config)
    past_end = len(state.latents)  # an index that is clipped on reading and dropped on writing
    rows, slot = jnp.unique(batch.row, size=len(batch.row), fill_value=past_end, return_inverse=True)
    latents, latents_opt = jax.tree.map(lambda leaf: leaf.at[rows].get(mode="clip"), (state.latents, state.latents_opt))

    def loss_of(params: Params, latents: Float[Array, "slot latent"]) -> Float[Array, ""]:
        loss = batch_loss(params, latents[slot], batch.time, target, config, decoder)
        return loss + penalty(params, state.step, config, decoder)

    loss, (params_grads, latents_grads) = jax.value_and_grad(loss_of, (0, 1))(state.params, latents)
    transform, progress = map(optax.with_extra_args_support, optimizer(config.train)), state.step / total
    params_update, rows_update = (partial(each.update, progress=progress) for each in transform)

    params, params_opt = state.params, state.params_opt
    if update_params:
        updates, params_opt = params_update(params_grads, params_opt, params)
        params = optax.apply_updates(params, updates)
    updates, latents_opt = jax.vmap(rows_update)(latents_grads, latents_opt, latents)
    latents = optax.apply_updates(latents, updates)
    table, table_opt = jax.tree.map(
        lambda leaf, updated: leaf.at[rows].set(updated, mode="drop", unique_indices=True),
        (state.latents, state.latents_opt),
        (latents, latents_opt),
    )
    replicated = distributed.constrain((state.step + 1, params, params_opt), split=False)
    return TrainState(*replicated, *distributed.constrain((table, table_opt), split=True)), loss


def batch_loss(
    params: Params,
    latent: Float[Array, "query latent"],
    time: Float[Array, " query"],
    target: losses.Target,
    config: Config,
    decoder: DecoderClass = Decoder,
) -> Float[Array, ""]:
    """The loss of a batch of queries, given the latent row of each."""
    blocks = jax.vmap(partial(decode, config=config, decoder=decoder), (None, 0, 0))(params, latent, time)
    return losses.loss(blocks, target, config)


@partial(
    jax.jit,
    static_argnames=("config", "length", "decoder", "optimizer", "update_params"),
    donate_argnames="state",
)
def train_steps(
    state: TrainState,
    data: batches.Data,
    key: Key[Array, ""],
    total: Int[Array, ""] | int,
    *,
    config: Config,
    length: int,
    decoder: DecoderClass = Decoder,
    optimizer: OptimizerOf = make_optimizer,
    update_params: bool = True,
    penalty: Penalty = NO_PENALTY,
) -> tuple[TrainState, Float[Array, " length"]]:
    """`length` updates in one call; returns the new state and the loss of each. See `train_step` for the arguments.

    The state that is passed in is donated: it cannot be used again.
    """

    def body(state: TrainState, _: None) -> tuple[TrainState, Float[Array, ""]]:
        return train_step(state, data, key, total, config, decoder, optimizer, update_params, penalty)

    return jax.lax.scan(body, state, length=length)


def train_loop(
    state: TrainState,
    data: batches.Data,
    key: Key[Array, ""],
    total: int,
    config: Config,
    until: int | None = None,
    *,
    decoder: DecoderClass = Decoder,
    optimizer: OptimizerOf = make_optimizer,
    update_params: bool = True,
    penalty: Penalty = NO_PENALTY,
) -> Iterator[tuple[TrainState, np.ndarray]]:
    """Trains up to update `until`, by default `total`; yields the state and the losses of each call.

    Calls end at multiples of UPDATES_PER_CALL, so that training that is interrupted and continued makes the same calls.
    """
    run = partial(
        train_steps,
        config=config,
        decoder=decoder,
        optimizer=optimizer,
        update_params=update_params,
        penalty=penalty,
    )
    done, until = int(state.step), total if until is None else until
    while done < until:
        length = min(UPDATES_PER_CALL - done % UPDATES_PER_CALL, until - done)
        with distributed.mesh_scope(state.latents):
            state, losses = run(state, data, key, jnp.int32(total), length=length)
        done += length
        yield state, np.asarray(losses)


def default_steps(blocks: int, config: TrainConfig) -> int:
    """The default number of updates for this many blocks of music: `passes` over each block, in whole calls."""
    updates = config.passes * blocks / (config.batch_windows * config.window_blocks)
    return -(-max(round(updates), config.least_steps) // UPDATES_PER_CALL) * UPDATES_PER_CALL


def is_known(losses: Float[np.ndarray, " step"], notes_per_step: float, config: TrainConfig) -> bool:
    """Whether songs are known, by the losses of a call: a shorter one than usual says nothing.

    Losses are of a step of music, with so many notes on average.
    """
    whole = len(losses) == UPDATES_PER_CALL and not config.constant_rate
    return whole and float(losses.mean()) < config.known_loss * notes_per_step


def is_finite(state: TrainState, losses: np.ndarray) -> bool:
    """Whether every loss, weight and row is a finite number."""
    return bool(np.isfinite(losses).all()) and bool(_all_finite((state.latents, state.params)))


@partial(jax.jit, compiler_options=FAST_COMPILE)
def _all_finite(arrays: PyTree[Float[Array, "..."]]) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(arrays)]).all()


def steps_in_time(
    seconds: float,
    state: TrainState,
    data: batches.Data,
    key: Key[Array, ""],
    config: Config,
    *,
    decoder: DecoderClass = Decoder,
    optimizer: OptimizerOf = make_optimizer,
) -> int:
    """How many updates, in whole calls, take so many seconds here; measured with two calls, of which one compiles."""
    began = time.monotonic()
    run = partial(
        train_loop,
        data=data,
        key=key,
        total=2 * UPDATES_PER_CALL,
        config=config,
        decoder=decoder,
        optimizer=optimizer,
    )
    ends = [time.monotonic() for _ in run(state._replace(step=jnp.zeros_like(state.step)))]
    call_seconds = ends[1] - ends[0]
    return max(int((seconds - (time.monotonic() - began)) / call_seconds), 1) * UPDATES_PER_CALL
