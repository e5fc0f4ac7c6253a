"""What a run is made of, as plain data: the roll, the model, the training; presets; to and from JSON."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

PRESETS = ("default", "original")


@dataclass(frozen=True)
class RollConfig:
    """How notes are laid on a grid."""

    grid: str = "auto"  # whose beats steps count: "auto", "beats" or "seconds"; see `music.clock`
    low: int = 21  # lowest and highest pitch of the grid, in the common key; set from the songs
    high: int = 108
    common_key: bool = True  # transpose every song to tonic C


@dataclass(frozen=True)
class ModelConfig:
    """The decoder and the latent tracks that it reads."""

    heads: tuple[str, ...] = ("onset", "frame", "velocity", "timing", "pedal")
    block_steps: int = 12  # steps answered by one query
    knot_steps: int = 24  # steps in a cell, which is decoded from one latent row; 0: one row a song
    latent_size: int = 128
    latent_scale: float = 0.01  # standard deviation of rows before training
    hidden_size: int = 320
    hidden_layers: int = 1
    rejoin: tuple[int, ...] = ()  # hidden layers that see the input again, appended to theirs
    fourier_features: int = 0  # random Fourier frequencies; 0: harmonics of the cell
    fourier_sigma: float = 64.0  # their standard deviation, in cycles per cell

    def __post_init__(self) -> None:
        if self.block_steps < 1 or self.knot_steps % self.block_steps:
            raise ValueError(f"knot_steps {self.knot_steps} is not a multiple of block_steps {self.block_steps}")


@dataclass(frozen=True)
class TrainConfig:
    """How latents and weights are learned."""

    loss: str = "likelihood"  # "likelihood": each head its own; "squared": plain squared error on frames
    batch_windows: int = 512  # stretches of music in a batch
    window_blocks: int = 1  # consecutive blocks in each
    row_rate: float = 0.4  # peak learning rate of latent rows
    weight_rate: float = 0.01  # peak learning rate of weights
    decay: float = 0.97  # Adam's b2
    nesterov: bool = True  # Adam with Nesterov momentum
    constant_rate: bool = False  # no warm-up and no cosine
    passes: float = 43.0  # times that every block is seen, where no other length is asked for
    least_steps: int = 400


@dataclass(frozen=True)
class Config:
    """Everything that a run's numbers depend on, besides its songs and its seed."""

    preset: str = "default"
    roll: RollConfig = field(default_factory=RollConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def preset(name: str) -> Config:
    """The configuration of this name.

    `original` is NeMuI (2021): one vector a song, time as position in the song through random Fourier
    features, a five-layer MLP that joins its input again at layers 0 and 3, squared error on frames.
    """
    if name == "default":
        return Config()
    if name == "original":
        return Config(
            preset="original",
            roll=RollConfig(grid="seconds", low=0, high=127, common_key=False),
            model=ModelConfig(
                heads=("frame",),
                block_steps=1,
                knot_steps=0,
                latent_size=32,
                latent_scale=1.0,
                hidden_size=512,
                hidden_layers=6,  # an input layer and five hidden ones, of which 0 and 3 see the input again
                rejoin=(1, 4),
                fourier_features=128,
            ),
            train=TrainConfig(
                loss="squared",
                batch_windows=1,
                window_blocks=500,
                row_rate=1e-3,
                weight_rate=1e-3,
                decay=0.999,
                nesterov=False,
                constant_rate=True,
            ),
        )
    raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")


def to_json(config: Config) -> str:
    """A configuration as JSON text, one field a line."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """The configuration that `to_json` wrote; ValueError names a field that is missing or not known."""
    data = json.loads(text)
    try:
        parts: dict[str, Any] = {"roll": RollConfig, "model": ModelConfig, "train": TrainConfig}
        built = {name: kind(**_tuples(data.pop(name))) for name, kind in parts.items()}
        return Config(**data, **built)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a configuration of this version: {error}") from error


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def differences(old: Config, new: Config) -> list[str]:
    """What differs between two configurations, as lines such as `model.latent_size: 64, now 32`."""
    lines = [] if old.preset == new.preset else [f"preset: {old.preset}, now {new.preset}"]
    for part in ("roll", "model", "train"):
        before, after = dataclasses.asdict(getattr(old, part)), dataclasses.asdict(getattr(new, part))
        lines += [f"{part}.{name}: {before[name]}, now {after[name]}" for name in before if before[name] != after[name]]
    return lines
