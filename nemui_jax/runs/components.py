"""Which decoder and which optimiser a run was trained with, by name: with another its numbers mean nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemui_jax.errors import RunError


def component_name(component: Callable[..., Any]) -> str:
    """The name of a class or function that was passed in, such as `nemui_jax.model.decoder.Decoder`."""
    return f"{component.__module__}.{component.__qualname__}"


def check_component(run: Path, kind: str, recorded: str, component: Callable[..., Any]) -> None:
    """RunError where a run was trained with another `decoder` or `optimizer` (the `kind`) than the given one."""
    if component_name(component) != recorded:
        raise RunError(
            f"{run}: trained with the {kind} {recorded}, not {component_name(component)}; "
            f"pass {kind}={recorded.rpartition('.')[2]}, or train another run"
        )
