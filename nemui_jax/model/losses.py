"""The loss: the decoder's outputs against the music of their blocks, as one number."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nemui_jax.config import Config
from nemui_jax.model.decoder import Block
from nemui_jax.model.heads import heads_of


class Target(NamedTuple):
    """The music of a batch of blocks; notes are padded to the same number for every block."""

    values: dict[str, Float[Array, "query ..."]]  # by head: [query step pitch], [query note] or [query step]
    note_step: Int[Array, "query note"]  # within the block
    note_place: Int[Array, "query note"]  # among the notes of the step, from the lowest on, below `chord_size`
    note_mask: Float[Array, "query note"]  # 0 where padded


def loss(blocks: Block, target: Target, config: Config) -> Float[Array, ""]:
    """The weighted losses of all heads, summed over a batch of blocks and divided by its steps of music."""
    queries, total = len(target.note_mask), jnp.zeros(())
    for name, head in heads_of(config).items():
        output, mask = blocks[name], 1.0
        if head.per == "note":
            output, mask = output[jnp.arange(queries)[:, None], target.note_step, target.note_place], target.note_mask
        total += head.weight * jnp.sum(head.loss(output, target.values[name]) * mask)
    return total / (queries * config.model.block_steps)


def target_of(blocks: Block, config: Config) -> Target:
    """A decoder's outputs as the target of another: probabilities, and values for as many notes as it plays at a step.

    Without onsets, notes are taken to begin wherever they sound.
    """
    values = {name: head.activation(blocks[name]) for name, head in heads_of(config).items()}
    begins = values["onset" if "onset" in values else "frame"] > 0.5
    shape = (len(begins), config.model.block_steps, config.model.chord_size)
    step, place = jax.lax.broadcasted_iota(jnp.int32, shape, 1), jax.lax.broadcasted_iota(jnp.int32, shape, 2)
    flat = {name: value.reshape(shape[0], -1) for name, value in values.items() if heads_of(config)[name].per == "note"}
    return Target(
        values=values | flat,
        note_step=step.reshape(shape[0], -1),
        note_place=place.reshape(shape[0], -1),
        note_mask=(place < begins.sum(-1, keepdims=True)).astype(jnp.float32).reshape(shape[0], -1),
    )
