"""What a run is made of, as plain data: the roll, the model, the training; presets; to and from JSON."""

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from nemui_jax.errors import UsageError

PRESETS = ("default", "original")
GRIDS = ("auto", "beats", "seconds")  # see `music.clock`
HEADS = (  # of the decoder; see `model.heads`
    *("onset", "frame", "velocity", "timing"),
    *("pedal", "half_pedal", "bend", "modulation", "volume", "pan", "expression", "soft_pedal", "pressure"),
)
LOSSES = ("likelihood", "squared")
MAX_STEPS = 10**9  # of training; the step is counted in 32 bits
MAX_SEED = 2**31 - 1
MAX_TEMPERATURE = 100
MAX_NOISE = 1
MAX_COUNT = 10_000  # pieces asked for at once


@dataclass(frozen=True)
class RollConfig:
    """How notes are laid on a grid."""

    grid: str = "auto"  # whose beats steps count: "auto", "beats" or "seconds"; see `music.clock`
    low: int = 21  # lowest and highest pitch of the grid, in the common key; set from the songs
    high: int = 108
    common_key: bool = True  # transpose every song to tonic C
    parts: bool = True  # learn each part by itself; else all but drums merged into one


@dataclass(frozen=True)
class ModelConfig:
    """The decoder and the latent tracks that it reads."""

    heads: tuple[str, ...] = HEADS[:5]  # and one for each other controller that moves in the songs
    block_steps: int = 12  # steps answered by one query
    knot_steps: int = 24  # steps in a cell, which is decoded from one latent row; 0: one row a song
    latent_size: int = 128
    latent_scale: float = 0.01  # standard deviation of rows before training
    hidden_size: int = 320
    chord_size: int = 8  # notes of a step with velocities and timings of their own; those above share the last one's
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
    repeat_notes: int = 8  # for so many notes in it a block is drawn once more; 0, or longer windows: never
    row_rate: float = 0.2  # peak learning rate of latent rows
    weight_rate: float = 0.01  # peak learning rate of weights
    decay: float = 0.97  # Adam's b2
    nesterov: bool = True  # Adam with Nesterov momentum
    constant_rate: bool = False  # no warm-up and no decay
    passes: float = 57.0  # times that a block is seen on average, at most, where no other length is asked for
    known_loss: float = 2.4  # a note, below which songs are known: training goes on only as long again; 0: never
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
            roll=RollConfig(grid="seconds", low=0, high=127, common_key=False, parts=False),
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


_SECTIONS = {"roll": RollConfig, "model": ModelConfig, "train": TrainConfig}
_PITCHES = {"roll.low", "roll.high"}  # in the common key, up to half an octave beyond MIDI's
_MAY_BE_ZERO = {
    "model.knot_steps",
    "model.hidden_layers",
    "model.fourier_features",
    "train.known_loss",
    "train.repeat_notes",
}


def override(config: Config, settings: Iterable[str]) -> Config:
    """The configuration with settings such as `model.hidden_size=64`, later ones over earlier ones.

    UsageError, which names the setting, for a name that there is not and for a value of another type or out of range.
    """
    for setting in settings:
        name, equals, text = setting.partition("=")
        section, _, key = name.strip().partition(".")
        kinds = get_type_hints(_SECTIONS[section]) if section in _SECTIONS else {}
        if key not in kinds:
            raise UsageError(f"{name.strip()!r}: no such setting; {_nearest(name.strip())}")
        if not equals:
            raise UsageError(f"{setting!r}: a value is missing; write {name.strip()}=VALUE")
        try:
            value = _parse(text.strip(), kinds[key])
        except ValueError as error:
            raise UsageError(f"{setting}: {error}") from error
        config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{key: value})})
    check(config)
    return config


def check(config: Config) -> None:
    """UsageError, which names the setting, for a value that makes no sense."""
    for section in _SECTIONS:
        for key, value in dataclasses.asdict(getattr(config, section)).items():
            name, number = f"{section}.{key}", isinstance(value, int | float) and not isinstance(value, bool)
            if number and name not in _PITCHES and (value < 0 or (value == 0 and name not in _MAY_BE_ZERO)):
                raise UsageError(f"{name}={value}: must be {'0 or more' if name in _MAY_BE_ZERO else 'above 0'}")
    roll, model, train = config.roll, config.model, config.train
    for wrong, reason in (
        (roll.grid not in GRIDS, f"roll.grid={roll.grid}: there are {', '.join(GRIDS)}"),
        (not -6 <= roll.low <= roll.high <= 132,
         f"roll.low={roll.low}, roll.high={roll.high}: must be in order, from -6 to 132"),
        (not model.heads, "model.heads: name one at least"),
        (bool(odd := {*model.heads} - {*HEADS}), f"model.heads: no head {min(odd, default='')!r}; "
         f"there are {', '.join(HEADS)}"),
        (len({*model.heads}) < len(model.heads), "model.heads: name each head once"),
        (model.knot_steps % model.block_steps > 0,
         f"model.knot_steps={model.knot_steps}: must be a multiple of model.block_steps={model.block_steps}"),
        (any(not 0 <= layer < model.hidden_layers for layer in model.rejoin),
         f"model.rejoin={','.join(map(str, model.rejoin))}: there are layers 0 to {model.hidden_layers - 1}"),
        (train.loss not in LOSSES, f"train.loss={train.loss}: there are {', '.join(LOSSES)}"),
        (train.loss == "squared" and model.heads != ("frame",), "train.loss=squared: goes with model.heads=frame"),
        (train.decay >= 1, f"train.decay={train.decay}: must be below 1"),
        (train.least_steps > MAX_STEPS, f"train.least_steps={train.least_steps}: must be at most {MAX_STEPS:,}"),
    ):  # fmt: skip
        if wrong:
            raise UsageError(reason)


def _nearest(name: str) -> str:
    """What a name that there is not was probably meant to be."""
    names = [f"{section}.{field.name}" for section, kind in _SECTIONS.items() for field in dataclasses.fields(kind)]
    by_key = {one.partition(".")[2]: one for one in names}
    keys = difflib.get_close_matches(name.rpartition(".")[2], by_key, n=3)
    found = dict.fromkeys([by_key[key] for key in keys] + difflib.get_close_matches(name, names, n=2))
    return f"did you mean {' or '.join(list(found)[:3])}?" if found else f"there are {', '.join(names)}"


def _parse(text: str, kind: Any) -> Any:
    """A value of this type; ValueError says what it should be."""
    if get_origin(kind) is tuple:
        return tuple(_parse(part.strip(), get_args(kind)[0]) for part in text.split(",") if part.strip())
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("must be true or false")
        return text.lower() == "true"
    if kind is str:
        return text
    try:
        value = kind(text)
    except ValueError as error:
        raise ValueError("must be a whole number" if kind is int else "must be a number") from error
    if not math.isfinite(value):
        raise ValueError("must be finite")
    return value
