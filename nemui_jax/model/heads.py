"""The heads of the decoder: one table of what each predicts, what its errors cost and how its target is read.

To add a head, add its entry to HEADS, whatever it reads that is not on the device yet to `dataset.Rolls`, and its name
to `ModelConfig.heads`. Its errors are summed over all steps and pitches, or over notes where `at_onsets` is set.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nemui_jax.config import Config
from nemui_jax.data.dataset import Rolls


class Excerpt(NamedTuple):
    """Blocks of the music on the device: its rolls, and where the steps and notes of each block stand in them."""

    rolls: Rolls
    step: Int[Array, "query step"]
    note: Int[Array, "query note"]  # notes that begin in the block, and others up to the largest number of them
    pitches: int


@dataclass(frozen=True)
class Head:
    """One output of the decoder for each step, and each pitch if `per_pitch`."""

    loss: Callable[[Array, Array], Array]  # of outputs and targets, element by element
    read: Callable[[Excerpt], Array]  # targets [query step pitch], [query step], or [query note] if `at_onsets`
    activation: Callable[[Array], Array] = lambda output: output
    per_pitch: bool = True
    at_onsets: bool = False  # it means something only where a note begins
    weight: float = 1.0  # of its loss, such that no head is learned late
    first_bias: float = 0.0  # before training
    default: float = 0.0  # for a decoder that does not have this head


def cross_entropy(logits: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, "..."]:
    """Nats to say whether each is on, given its logit."""
    # As jnp.logaddexp(logits, 0) - logits * target, and 5 % faster a whole update.
    size = jnp.abs(logits)
    return 0.5 * (logits + size) - logits * target + jnp.log(1 + jnp.exp(-size))


def squared_error(values: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square of each difference."""
    return jnp.square(values - target)


def read_bits(music: Excerpt, channel: int) -> Float[Array, "query step pitch"]:
    """Onsets (channel 0) or frames (1) as 0 or 1."""
    bits = music.rolls.bits[music.step, channel]
    return jnp.unpackbits(bits, axis=-1, count=music.pitches, bitorder="little").astype(jnp.float32)


HEADS: dict[str, Head] = {
    # Onsets and frames are rare: their biases save training from unlearning half of all cells.
    "onset": Head(cross_entropy, lambda music: read_bits(music, 0), jax.nn.sigmoid, first_bias=-5.0),
    "frame": Head(cross_entropy, lambda music: read_bits(music, 1), jax.nn.sigmoid, first_bias=-3.5),
    "velocity": Head(  # share of 127
        squared_error,
        lambda music: music.rolls.note_velocity[music.note] / 127,
        at_onsets=True,
        weight=5.0,
        default=64 / 127,
    ),
    "timing": Head(  # steps from the onset's step
        squared_error, lambda music: music.rolls.note_timing[music.note], at_onsets=True, weight=1.5
    ),
    "pedal": Head(  # share of the step
        cross_entropy, lambda music: music.rolls.pedal[music.step] / 255, jax.nn.sigmoid, per_pitch=False
    ),
}


def heads_of(config: Config) -> dict[str, Head]:
    """The heads of a configuration by name, in the order of the decoder's outputs.

    With the `squared` loss of the original they are trained on the mean squared error, and are no logits.
    """
    heads = {name: HEADS[name] for name in config.model.heads}
    if config.train.loss != "squared":
        return heads
    plain: dict[str, Any] = {"loss": squared_error, "activation": lambda output: output, "first_bias": 0.0}
    return {
        name: dataclasses.replace(head, **plain, weight=1 / count_pitches(config) if head.per_pitch else 1.0)
        for name, head in heads.items()
    }


def count_pitches(config: Config) -> int:
    """Pitches of the grid."""
    return config.roll.high - config.roll.low + 1


def head_shape(head: Head, config: Config) -> tuple[int, ...]:
    """[step pitch] or [step] of a block."""
    steps = config.model.block_steps
    return (steps, count_pitches(config)) if head.per_pitch else (steps,)
