"""How far a predicted block is from the music: logits and targets to one number."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nemui_jax.config import TrainConfig
from nemui_jax.model import decoder

# Weights of the heads, such that none is learned late. An onset's velocity and timing count as cells do.
PEDAL_WEIGHT, VELOCITY_WEIGHT, TIMING_WEIGHT = 1.0, 5.0, 1.5


class Target(NamedTuple):
    """The music of a batch of blocks: cells as 0 or 1, and the notes that begin in each block, padded."""

    onset: Float[Array, "query step pitch"]
    frame: Float[Array, "query step pitch"]
    pedal: Float[Array, "query step"]  # share of the step
    note_step: Int[Array, "query note"]  # within the block
    note_column: Int[Array, "query note"]
    note_velocity: Float[Array, "query note"]  # share of 127
    note_timing: Float[Array, "query note"]  # in steps
    note_mask: Float[Array, "query note"]  # 0 where padded


def loss(block: decoder.Block, target: Target, config: TrainConfig) -> Float[Array, ""]:
    """What a batch of blocks costs, a step of music."""
    queries, steps, _ = target.frame.shape
    if config.loss == "squared":
        return jnp.mean(jnp.square(block.frame - target.frame))
    onset = cross_entropy(block.onset, target.onset)
    frame = cross_entropy(block.frame, target.frame)
    pedal = cross_entropy(block.pedal, target.pedal)
    velocity = at_notes(block.velocity, target.note_velocity, target)
    timing = at_notes(block.timing, target.note_timing, target)
    total = onset + frame + PEDAL_WEIGHT * pedal + VELOCITY_WEIGHT * velocity + TIMING_WEIGHT * timing
    return total / (queries * steps)


@jax.custom_vjp
def cross_entropy(logits: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, ""]:
    """Nats to say which cells are on, given their logits; targets are constants, they have no gradient."""
    return _cross_entropy(logits, target)[0]


def _cross_entropy(
    logits: Float[Array, "..."], target: Float[Array, "..."]
) -> tuple[Float[Array, ""], Float[Array, "..."]]:
    """The value and the gradient: one exponential serves both, where JAX by itself would take three."""
    small = jnp.exp(-jnp.abs(logits))
    surest = 1 / (1 + small)  # the probability of the likelier side
    nats = jnp.maximum(logits, 0) - logits * target - jnp.log(surest)
    return jnp.sum(nats), jnp.where(logits >= 0, surest, small * surest) - target


cross_entropy.defvjp(_cross_entropy, lambda slope, by: (by * slope, None))


def at_notes(
    values: Float[Array, "query step pitch"], wanted: Float[Array, "query note"], target: Target
) -> Float[Array, ""]:
    """Squared error where notes begin; elsewhere a velocity or a timing means nothing."""
    query = jnp.arange(len(values))[:, None]
    found = values[query, target.note_step, target.note_column]
    return jnp.sum(target.note_mask * jnp.square(found - wanted))
