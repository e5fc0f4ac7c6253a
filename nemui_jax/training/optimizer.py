"""How weights and latent rows are updated, in optax's terms."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from nemui_jax.config import TrainConfig

SCHEDULE_COUNTS = 1000  # a schedule is of the share of a training that is done, in this many counts
WARMUP_SHARE, LAST_RATE = 0.05, 0.01


class Optimizer(NamedTuple):
    """A transformation for the weights and one for each latent row, which counts its own updates.

    Their `update` is given `progress`, the share of all updates that is done, where it takes extra arguments.
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
    """The share of the peak learning rate: a warm-up over the first 20th, then a cosine to 1 %; or 1 throughout."""
    if config.constant_rate:
        return optax.constant_schedule(1.0)
    return optax.warmup_cosine_decay_schedule(
        0.0, 1.0, round(WARMUP_SHARE * SCHEDULE_COUNTS), SCHEDULE_COUNTS, end_value=LAST_RATE
    )


def learning_rate_share(step: Int[Array, ""], total: Int[Array, ""], config: TrainConfig) -> Float[Array, ""]:
    """The share of the peak learning rate that is in force in an update."""
    return jnp.asarray(learning_rate_schedule(config)(SCHEDULE_COUNTS * step / total))


def scale_by_progress(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Scales updates by a schedule of `progress`; optax's own count updates, which rows have few of, each its own."""

    def init(params: optax.Params) -> optax.EmptyState:
        return optax.EmptyState()

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        return optax.tree.scale(schedule(SCHEDULE_COUNTS * extra_args["progress"]), updates), state

    return optax.GradientTransformationExtraArgs(init, update)
