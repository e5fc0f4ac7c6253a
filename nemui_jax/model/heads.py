"""The heads of the decoder: one table with the loss, weight, first bias and target of each.

To add a head, add its entry to HEADS and its name to `ModelConfig.heads`; add what its target needs to Excerpt, where
that lacks it. A head's loss is summed over all of its outputs, or over notes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nemui_jax.config import HEADS as NAMES
from nemui_jax.config import Config


class Excerpt(NamedTuple):
    """Blocks of music, from which targets are read."""

    onset: Float[Array, "query step pitch"]  # 0 or 1
    frame: Float[Array, "query step pitch"]  # 0 or 1
    velocity: Float[Array, "query step note"]  # from the part's lowest, 0, to its highest, 1
    timing: Float[Array, "query step note"]  # steps from the onset's step
    curves: Mapping[str, Float[Array, "query step"]]  # of each controller, 0 to 1; see `data.curves`


@dataclass(frozen=True)
class Head:
    """One output of the decoder: for each step and pitch, for each step and note, or for each step.

    The notes of a step are counted from the lowest on: see `ModelConfig.chord_size`. Outputs for notes are trained and
    used only where notes begin. They are few, so that each serves many notes: outputs for pitches are a hundred times
    as many, and take longer to compute and to learn.
    """

    loss: Callable[[Array, Array], Array]  # of outputs and targets, element by element
    read: Callable[[Excerpt], Array]  # the targets: [query step pitch], [query step note] or [query step]
    activation: Callable[[Array], Array] = lambda output: output
    per: Literal["pitch", "note", "step"] = "pitch"
    weight: float = 1.0  # of its loss; chosen so that all heads are learned at about the same rate
    first_bias: float = 0.0  # before training
    default: float = 0.0  # value where the decoder does not have this head


def cross_entropy(logits: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, "..."]:
    """The binary cross-entropy of targets 0 to 1 given logits, in nats, element by element."""
    # Equal to jnp.logaddexp(logits, 0) - logits * target, but a whole update is 5 % faster.
    size = jnp.abs(logits)
    return 0.5 * (logits + size) - logits * target + jnp.log(1 + jnp.exp(-size))


def divergence(logits: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, "..."]:
    """The cross-entropy less that of a perfect prediction: 0 where a target between 0 and 1 is learned."""
    entropy = -jax.scipy.special.xlogy(target, target) - jax.scipy.special.xlogy(1 - target, 1 - target)
    return cross_entropy(logits, target) - entropy


def squared_error(values: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square of each difference."""
    return jnp.square(values - target)


def curve_head(name: str) -> Head:
    """The head of a controller; all but the sustain pedal are rare."""
    weight = 1.0 if name in ("pedal", "half_pedal", "soft_pedal") else 32.0
    return Head(divergence, lambda music: music.curves[name], jax.nn.sigmoid, per="step", weight=weight)


HEADS: dict[str, Head] = {
    # Onsets and frames are rare: with these biases training does not begin with half of them predicted.
    "onset": Head(cross_entropy, lambda music: music.onset, jax.nn.sigmoid, first_bias=-5.0),
    "frame": Head(cross_entropy, lambda music: music.frame, jax.nn.sigmoid, first_bias=-3.5),
    "velocity": Head(squared_error, lambda music: music.velocity, per="note", weight=50.0, default=0.5),
    "timing": Head(squared_error, lambda music: music.timing, per="note", weight=6.0),
    **{name: curve_head(name) for name in NAMES[4:]},
}


def heads_of(config: Config) -> dict[str, Head]:
    """The heads of a configuration by name, in the order of the decoder's outputs.

    With the original's loss, "squared", all are trained on squared error, and outputs are not logits.
    """
    heads = {name: HEADS[name] for name in config.model.heads}
    if config.train.loss != "squared":
        return heads
    plain: dict[str, Any] = {"loss": squared_error, "activation": lambda output: output, "first_bias": 0.0}
    return {
        name: dataclasses.replace(head, **plain, weight=1 / count_pitches(config) if head.per == "pitch" else 1.0)
        for name, head in heads.items()
    }


def count_pitches(config: Config) -> int:
    """The number of pitches of the grid."""
    return config.roll.high - config.roll.low + 1


def head_shape(head: Head, config: Config) -> tuple[int, ...]:
    """[step pitch], [step note] or [step] of a block."""
    outputs = {"pitch": (count_pitches(config),), "note": (config.model.chord_size,), "step": ()}
    return (config.model.block_steps, *outputs[head.per])
