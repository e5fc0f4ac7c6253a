"""Neural Music Interpolation in JAX.

    import nemui_jax as nemui

    run = nemui.train("midis/")  # later: nemui.load("runs/default")
    run.mix({0: 0.5, "joplin": 0.5}).write("mix.mid")

Beside runs there are pure functions to `jit`, `vmap` and `grad` in programs of your own: `init` and `decode` are the
decoder, `loss` is what it is trained with, `init_state`, `train_step` and `train_steps` train it, `mix_latents` goes
between latents, `decode_song` plays a learned song, `mix` mixes some; `preset` and `override` make configurations. All
is imported when it is first used: `import nemui_jax` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemui_jax.api import LoadedRun, load, train
    from nemui_jax.config import Config, override, preset
    from nemui_jax.model.decoder import Block, decode, init
    from nemui_jax.model.latents import mix_latents
    from nemui_jax.model.losses import Target, loss
    from nemui_jax.music.song import Song
    from nemui_jax.piece import Factors, Piece
    from nemui_jax.runs.trainer import Event
    from nemui_jax.sampling.decode import LatentSong, decode_song
    from nemui_jax.sampling.mix import mix
    from nemui_jax.training.step import TrainState, init_state, train_step, train_steps

__version__ = "0.2.0"

_HOMES = {
    "api": ("LoadedRun", "load", "train"),
    "config": ("Config", "override", "preset"),
    "model.decoder": ("Block", "decode", "init"),
    "model.latents": ("mix_latents",),
    "model.losses": ("Target", "loss"),
    "music.song": ("Song",),
    "piece": ("Factors", "Piece"),
    "sampling.decode": ("LatentSong", "decode_song"),
    "sampling.mix": ("mix",),
    "runs.trainer": ("Event",),
    "training.step": ("TrainState", "init_state", "train_step", "train_steps"),
}

__all__ = [
    "Block",
    "Config",
    "Event",
    "Factors",
    "LatentSong",
    "LoadedRun",
    "Piece",
    "Song",
    "Target",
    "TrainState",
    "__version__",
    "decode",
    "decode_song",
    "init",
    "init_state",
    "load",
    "loss",
    "mix",
    "mix_latents",
    "override",
    "preset",
    "train",
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
