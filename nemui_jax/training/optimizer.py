"""The optax transformations that update weights and latent rows, and their schedule."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from nemui_jax.config import TrainConfig

SCHEDULE_COUNTS = 1000  # the count at which schedules end, whatever the number of updates
WARMUP_SHARE, LAST_RATE = 0.05, 0.01  # of all updates; of the peak rate


class Optimizer(NamedTuple):
    """A transformation for the weights, and one for each latent row, whose state counts the updates of that row.

    If `update` takes extra arguments, it is given `progress`: the number of updates done, divided by all.
    """

    params: optax.GradientTransformation
    rows: optax.GradientTransformation


def make_optimizer(config: TrainConfig) -> Optimizer:
    """Adam, with a peak learning rate for weights and one for rows, on one schedule."""
    adam = optax.scale_by_adam(b2=config.decay, nesterov=config.nesterov)
    schedule = learning_rate_schedule(config)
    return Optimizer(
        optax.chain(adam, scale_by_progress(schedule), optax.scale(-config.weight_rate)),
        optax.chain(adam, scale_by_progress(schedule), optax.scale(-config.row_rate)),
    )


def learning_rate_schedule(config: TrainConfig) -> optax.Schedule:
    """The learning rate as a share of its peak: a warm-up over the first 5 %, then in a line to 1 %; or constant."""
    if config.constant_rate:
        return optax.constant_schedule(1.0)
    warmup = round(WARMUP_SHARE * SCHEDULE_COUNTS)
    rise = optax.linear_schedule(0.0, 1.0, warmup)
    fall = optax.linear_schedule(1.0, LAST_RATE, SCHEDULE_COUNTS - warmup)
    return optax.join_schedules([rise, fall], [warmup])


def learning_rate_share(step: Int[Array, ""], total: Int[Array, ""], config: TrainConfig) -> Float[Array, ""]:
    """The learning rate of update `step` of `total`, as a share of its peak."""
    return jnp.asarray(learning_rate_schedule(config)(SCHEDULE_COUNTS * step / total))


def scale_by_progress(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Scales updates by a schedule of `progress`, because the number of updates differs from row to row."""

    def init(params: optax.Params) -> optax.EmptyState:
        return optax.EmptyState()

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        return optax.tree.scale(schedule(SCHEDULE_COUNTS * extra_args["progress"]), updates), state

    return optax.GradientTransformationExtraArgs(init, update)
