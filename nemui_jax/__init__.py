"""Neural Music Interpolation in JAX.

    import nemui_jax as nemui

    run = nemui.load("runs/default")
    run.mix({0: 0.5, "joplin": 0.5}).write("mix.mid")

Beside runs there are pure functions to `jit`, `vmap` and `grad` in programs of your own: `init` and `decode` are the
decoder, `loss` is what it is trained with, `init_state`, `train_step` and `train_steps` train it, `mix_latents` goes
between latents, `play` turns these into notes. All is imported when it is first used: `import nemui_jax`
is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemui_jax.api import LoadedRun, Piece, load
    from nemui_jax.config import Config, preset
    from nemui_jax.model.decoder import Block, decode, init
    from nemui_jax.model.latents import mix_latents
    from nemui_jax.model.losses import Target, loss
    from nemui_jax.sampling.decode import LatentTrack
    from nemui_jax.sampling.play import play
    from nemui_jax.training.step import TrainState, init_state, train_step, train_steps

_HOMES = {
    "api": ("LoadedRun", "Piece", "load"),
    "config": ("Config", "preset"),
    "model.decoder": ("Block", "decode", "init"),
    "model.latents": ("mix_latents",),
    "model.losses": ("Target", "loss"),
    "sampling.decode": ("LatentTrack",),
    "sampling.play": ("play",),
    "training.step": ("TrainState", "init_state", "train_step", "train_steps"),
}

__all__ = [
    "Block",
    "Config",
    "LatentTrack",
    "LoadedRun",
    "Piece",
    "Target",
    "TrainState",
    "decode",
    "init",
    "init_state",
    "load",
    "loss",
    "mix_latents",
    "play",
    "preset",
    "train_step",
    "train_steps",
]


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return __all__
