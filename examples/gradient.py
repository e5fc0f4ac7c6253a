"""A latent by gradient: one with which a trained decoder plays a chord of C major.

python examples/gradient.py RUN
"""

import sys

import jax
import jax.numpy as jnp
import optax

import nemui_jax as nemui

CHORD = (48, 60, 64, 67)  # MIDI numbers, in the common key


def main(folder: str, steps: int = 100) -> list[int]:
    run = nemui.load(folder)
    low, pitches = run.config.roll.low, run.config.roll.high - run.config.roll.low + 1
    wanted = jnp.zeros((run.config.model.block_steps, pitches)).at[:, jnp.array(CHORD) - low].set(1.0)

    def cost(latent: jax.Array) -> jax.Array:
        frame = nemui.decode(run.params, latent, jnp.zeros(()), run.config)["frame"]  # logits
        return optax.sigmoid_binary_cross_entropy(frame, wanted).sum()

    slope, adam = jax.jit(jax.grad(cost)), optax.adam(0.1)
    latent = jnp.asarray(run.table).mean(0)
    moments = adam.init(latent)
    for _ in range(steps):
        move, moments = adam.update(slope(latent), moments)
        latent = latent + jnp.asarray(move)
    frame = nemui.decode(run.params, latent, jnp.zeros(()), run.config)["frame"]
    found = (jnp.flatnonzero(frame.mean(0) > 0) + low).tolist()
    print(f"loss {cost(latent):.1f}; it plays {found}")
    return found


if __name__ == "__main__":
    main(sys.argv[1])
