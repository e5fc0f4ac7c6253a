"""Neural Music Interpolation in JAX.

    import nemui_jax as nemui

    run = nemui.load("runs/default")
    run.mix({0: 0.5, "joplin": 0.5}).write("mix.mid")

Beside runs there are pure functions to `jit`, `vmap` and `grad` in programs of your own: `init` and `decode` are the
decoder, `loss` is what it is trained with, `init_state`, `step` and `steps` train it, `mix` goes between latents,
`play` turns these into notes. All is imported when it is first used, so that `import nemui_jax` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemui_jax.config import Config, preset
    from nemui_jax.interface import LoadedRun, Piece, load
    from nemui_jax.latents import mix
    from nemui_jax.losses import Target, loss
    from nemui_jax.model import Block, decode, init
    from nemui_jax.sample import Track, play
    from nemui_jax.train import TrainState, step, steps
    from nemui_jax.train import init as init_state

__all__ = [
    "Block",
    "Config",
    "LoadedRun",
    "Piece",
    "Target",
    "Track",
    "TrainState",
    "decode",
    "init",
    "init_state",
    "load",
    "loss",
    "mix",
    "play",
    "preset",
    "step",
    "steps",
]

_HOMES = {
    "config": ("Config", "preset"),
    "interface": ("LoadedRun", "Piece", "load"),
    "latents": ("mix",),
    "losses": ("Target", "loss"),
    "model": ("Block", "decode", "init"),
    "sample": ("Track", "play"),
    "train": ("TrainState", "step", "steps"),
}


def __getattr__(name: str) -> Any:
    home, own = ("train", "init") if name == "init_state" else (_home(name), name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), own)


def _home(name: str) -> str | None:
    return next((home for home, names in _HOMES.items() if name in names), None)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
