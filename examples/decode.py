"""The decoder in a program of your own: untrained weights, and many queries at once in your own `jit`.

python examples/decode.py
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import nemui_jax as nemui

CONFIG = nemui.Config()


@jax.jit
def onsets(params: dict, latent: Float[Array, "query latent"], time: Float[Array, " query"]) -> Float[Array, " query"]:
    """How many notes the decoder expects to begin in each block of steps."""
    block = jax.vmap(partial(nemui.decode, config=CONFIG), (None, 0, 0))(params, latent, time)
    return jax.nn.sigmoid(block["onset"]).sum((1, 2))


def main() -> None:
    weights_key, latent_key = jax.random.split(jax.random.key(0))
    params = nemui.init(weights_key, CONFIG)
    latent = jax.random.normal(latent_key, (8, CONFIG.model.latent_size))
    time = jnp.linspace(0, 0.5, 8)  # of the way from one row to the next
    print("expected onsets of eight blocks of an untrained decoder:", onsets(params, latent, time).round(1))


if __name__ == "__main__":
    main()
