"""The decoder: a latent and a time within its cell to the block of steps that begins there.

Behind two functions, `init` and `decode`, which take one query; map them with `jax.vmap`.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nemui_jax.config import Config, ModelConfig

Params = dict[str, Any]
FIRST_LOGIT = {"onset": -5.0, "frame": -3.5}  # cells are rare: training need not begin by unlearning half of them


class Block(NamedTuple):
    """What the decoder says of a block of steps: logits, but for velocity (share of 127) and timing (in steps)."""

    onset: Float[Any, "*query step pitch"] = None
    frame: Float[Any, "*query step pitch"] = None
    velocity: Float[Any, "*query step pitch"] = None
    timing: Float[Any, "*query step pitch"] = None
    pedal: Float[Any, "*query step"] = None


def time_features(time: Float[Array, ""], config: ModelConfig) -> Float[Array, " feature"]:
    """Sinusoids of a time from 0 to 1 within the cell.

    Its harmonics up to half the step rate; or random Fourier features (Tancik et al., 2020), from a fixed key.
    """
    if config.fourier_features:
        frequency = jax.random.normal(jax.random.key(2021), (config.fourier_features,)) * config.fourier_sigma
    else:
        frequency = jnp.arange(1, config.knot_steps // 2 + 1)
    angle = 2 * jnp.pi * frequency * time
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)])


class Decoder(nn.Module):
    """An MLP with LeakyReLU; one matrix product serves all heads."""

    config: Config

    @nn.compact
    def __call__(self, latent: Float[Array, " latent"], time: Float[Array, ""]) -> Block:
        model = self.config.model
        joined = jnp.concatenate([latent, time_features(time, model)])
        hidden = joined
        for layer in range(model.hidden_layers):
            if layer in model.rejoin:
                hidden = jnp.concatenate([hidden, joined])
            hidden = nn.leaky_relu(nn.Dense(model.hidden_size, name=f"hidden_{layer}")(hidden))

        cells = (model.block_steps, self.config.roll.high - self.config.roll.low + 1)
        shapes = {head: cells[:1] if head == "pedal" else cells for head in model.heads}
        sizes = [math.prod(shape) for shape in shapes.values()]
        first = np.repeat([FIRST_LOGIT.get(head, 0.0) for head in shapes], sizes) * (len(shapes) > 1)
        flat = nn.Dense(sum(sizes), name="heads", bias_init=lambda *_: jnp.asarray(first, jnp.float32))(hidden)
        parts = jnp.split(flat, np.cumsum(sizes)[:-1])
        return Block(**{head: part.reshape(shapes[head]) for head, part in zip(shapes, parts, strict=True)})


def init(key: Array, config: Config) -> Params:
    """Weights of a decoder before training."""
    latent, time = jnp.zeros(config.model.latent_size), jnp.zeros(())
    return jax.jit(Decoder(config).init)(key, latent, time)


def decode(params: Params, latent: Float[Array, " latent"], time: Float[Array, ""], config: Config) -> Block:
    """The block of `block_steps` steps that begins at `time`, 0 to 1, within the cell whose row is `latent`."""
    block = Decoder(config).apply(params, latent, time)
    assert isinstance(block, Block)  # and not, as Flax allows, a pair with changed variables
    return block


def widen(params: Params, old: Config, new: Config) -> Params:
    """The weights of a decoder for a grid with more pitches; what it says of the old ones stays as it is."""
    pad = (old.roll.low - new.roll.low, new.roll.high - old.roll.high)
    steps, width, start = old.model.block_steps, old.roll.high - old.roll.low + 1, 0
    parts: dict[str, list[Array]] = {"kernel": [], "bias": []}
    for head in old.model.heads:
        size = steps if head == "pedal" else steps * width
        for name, found in parts.items():
            part = params["params"]["heads"][name][..., start : start + size]
            if head != "pedal":
                first = FIRST_LOGIT.get(head, 0.0) if name == "bias" else 0.0
                cells = part.reshape(*part.shape[:-1], steps, width)
                around = [(0, 0)] * (cells.ndim - 1) + [pad]
                part = jnp.pad(cells, around, constant_values=first).reshape(*part.shape[:-1], -1)
            found.append(part)
        start += size
    heads = {name: jnp.concatenate(found, axis=-1) for name, found in parts.items()}
    return {**params, "params": {**params["params"], "heads": heads}}
