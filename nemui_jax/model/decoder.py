"""The decoder: from a cell's latent and a time within the cell to the block of steps that begins at that time.

Its interface is two functions, `init` and `decode`. `decode` answers one query; map it with `jax.vmap`. The argument
`decoder` may be any Flax Linen module that is made from a Config and called as Decoder is.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nemui_jax.config import Config, ModelConfig
from nemui_jax.errors import UsageError
from nemui_jax.model.heads import head_shape, heads_of

Params = dict[str, Any]
Block = dict[str, Float[Any, "..."]]  # outputs by head, [step pitch], [step note] or [step]; see `heads`
DecoderClass = Callable[[Config], nn.Module]


def time_features(time: Float[Array, ""], config: ModelConfig) -> Float[Array, " feature"]:
    """Sine and cosine features of a time from 0 to 1 within the cell.

    Harmonics of the cell up to half the step rate; or, if `fourier_features` is set, random Fourier features (Tancik
    et al., 2020), drawn from a fixed key.
    """
    if config.fourier_features:
        frequency = jax.random.normal(jax.random.key(2021), (config.fourier_features,)) * config.fourier_sigma
    else:
        frequency = jnp.arange(1, config.knot_steps // 2 + 1)
    angle = 2 * jnp.pi * frequency * time
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)])


class Decoder(nn.Module):
    """An MLP with LeakyReLU and one output layer for all heads."""

    config: Config

    @nn.compact
    def __call__(self, latent: Float[Array, " latent"], time: Float[Array, ""]) -> Block:
        model, heads = self.config.model, heads_of(self.config)
        joined = jnp.concatenate([latent, time_features(time, model)])
        hidden = joined
        for layer in range(model.hidden_layers):
            if layer in model.rejoin:
                hidden = jnp.concatenate([hidden, joined])
            hidden = nn.leaky_relu(nn.Dense(model.hidden_size, name=f"hidden_{layer}")(hidden))

        shapes = [head_shape(head, self.config) for head in heads.values()]
        sizes = [math.prod(shape) for shape in shapes]
        bias = np.repeat([head.first_bias for head in heads.values()], sizes).astype(np.float32)
        outputs = nn.Dense(sum(sizes), name="heads", bias_init=lambda *_: jnp.asarray(bias))(hidden)
        parts = jnp.split(outputs, np.cumsum(sizes)[:-1])
        return {name: part.reshape(shape) for name, part, shape in zip(heads, parts, shapes, strict=True)}


def init(key: Array, config: Config, decoder: DecoderClass = Decoder) -> Params:
    """The weights of a decoder before training."""
    latent, time = jnp.zeros(config.model.latent_size), jnp.zeros(())
    return jax.jit(decoder(config).init)(key, latent, time)


def decode(
    params: Params,
    latent: Float[Array, " latent"],
    time: Float[Array, ""],
    config: Config,
    decoder: DecoderClass = Decoder,
) -> Block:
    """The block of `block_steps` steps that begins at `time`, 0 to 1, within the cell whose row is `latent`."""
    block = decoder(config).apply(params, latent, time)
    assert isinstance(block, dict)  # for the type checker: Flax may return changed variables too
    return block


def widen(params: Params, old: Config, new: Config) -> Params:
    """The weights of a decoder for a grid with more pitches or heads; the outputs that it had stay the same.

    UsageError for a decoder without an output layer `heads` like Decoder's.
    """
    if (old.roll, old.model.heads) == (new.roll, new.model.heads):
        return params
    heads, sizes = heads_of(new), [math.prod(head_shape(head, old)) for head in heads_of(old).values()]
    layer = params["params"].get("heads", {})
    if getattr(layer.get("bias"), "shape", None) != (sum(sizes),):
        raise UsageError(
            f"the song needs pitches {new.roll.low} to {new.roll.high} and heads {', '.join(heads)}, the run does not "
            "have all of them, and its decoder has no layer `heads` to widen; train a new run on all songs"
        )
    pad = (old.roll.low - new.roll.low, new.roll.high - old.roll.high)

    def widened(weights: Array, is_bias: bool) -> Array:
        had = dict(zip(heads_of(old), jnp.split(weights, np.cumsum(sizes)[:-1], axis=-1), strict=True))
        found = []
        for name, head in heads.items():
            shape, first = (*weights.shape[:-1], *head_shape(head, old)), head.first_bias if is_bias else 0.0
            part = had[name].reshape(shape) if name in had else jnp.full(shape, first)
            if head.per == "pitch":
                part = jnp.pad(part, [(0, 0)] * (part.ndim - 1) + [pad], constant_values=first)
            found.append(part.reshape(*weights.shape[:-1], -1))
        return jnp.concatenate(found, axis=-1)

    wider = {name: widened(weights, name == "bias") for name, weights in layer.items()}
    return {**params, "params": {**params["params"], "heads": wider}}
