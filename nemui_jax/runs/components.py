"""Which decoder and which optimizer a run is trained with: with others its numbers mean nothing. No JAX here."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nemui_jax.errors import RunError, UsageError

if TYPE_CHECKING:
    from nemui_jax.model.decoder import DecoderClass
    from nemui_jax.training.step import OptimizerOf
else:  # what they come from takes seconds to import
    DecoderClass = OptimizerOf = Any
DEFAULTS = {"decoder": "nemui_jax.model.decoder.Decoder", "optimizer": "nemui_jax.training.optimizer.make_optimizer"}


class Components(NamedTuple):
    """What can be replaced in training, in the order in which functions take it."""

    decoder: DecoderClass
    optimizer: OptimizerOf


def choose_components(decoder: DecoderClass | None, optimizer: OptimizerOf | None) -> Components:
    """The given ones, with the default in place of None. Imports JAX."""
    from nemui_jax.model.decoder import Decoder
    from nemui_jax.training.optimizer import make_optimizer

    return Components(decoder or Decoder, optimizer or make_optimizer)


def component_name(component: Callable[..., Any]) -> str:
    """The name of a class or function, such as `nemui_jax.model.decoder.Decoder`. UsageError where it has none."""
    try:
        return f"{component.__module__}.{component.__qualname__}"
    except AttributeError as error:
        raise UsageError(
            f"{component!r} has no name for a run to record; pass a class or a function made with def"
        ) from error


def check_component(run: Path, kind: str, recorded: str, component: Callable[..., Any] | None) -> None:
    """RunError where a run was trained with another `decoder` or `optimizer` (the `kind`); None is the default one."""
    name = DEFAULTS[kind] if component is None else component_name(component)
    if name != recorded:
        raise RunError(
            f"{run}: trained with the {kind} {recorded}, not {name}; "
            f"pass {kind}={recorded.rpartition('.')[2]} in Python, or use another run"
        )
