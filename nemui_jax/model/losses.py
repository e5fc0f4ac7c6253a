"""The loss: the decoder's outputs against the music of their blocks, as one number."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from nemui_jax.config import Config
from nemui_jax.model.decoder import Block
from nemui_jax.model.heads import heads_of


class Target(NamedTuple):
    """The music of a batch of blocks; the notes of a step are padded to `chord_size`."""

    values: dict[str, Float[Array, "query step ..."]]  # by head: [query step pitch], [query step note] or [query step]
    note_mask: Float[Array, "query step note"]  # 0 where padded


def loss(blocks: Block, target: Target, config: Config) -> Float[Array, ""]:
    """The weighted losses of all heads, summed over a batch of blocks and divided by its steps of music."""
    total = jnp.zeros(())
    for name, head in heads_of(config).items():
        mask = target.note_mask if head.per == "note" else 1.0
        total += head.weight * jnp.sum(head.loss(blocks[name], target.values[name]) * mask)
    return total / (len(target.note_mask) * config.model.block_steps)


def target_of(blocks: Block, config: Config) -> Target:
    """A decoder's outputs as the target of another: probabilities, and values for as many notes as it plays at a step.

    Without onsets, notes are taken to begin wherever they sound.
    """
    values = {name: head.activation(blocks[name]) for name, head in heads_of(config).items()}
    begins = values["onset" if "onset" in values else "frame"] > 0.5
    place = jnp.arange(config.model.chord_size)[None, None]
    return Target(values, (place < begins.sum(-1, keepdims=True)).astype(jnp.float32))
