"""Which decoder and which optimiser a run was trained with, by name: with another its numbers mean nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemui_jax.errors import RunError


def part_name(part: Callable[..., Any]) -> str:
    """The name of a class or function that was passed as a part, such as `nemui_jax.model.decoder.Decoder`."""
    return f"{part.__module__}.{part.__qualname__}"


def check_part(run: Path, kind: str, recorded: str, part: Callable[..., Any]) -> None:
    """RunError where a run was trained with another part of this kind (`decoder`, `optimizer`) than the given one."""
    if part_name(part) != recorded:
        raise RunError(
            f"{run}: trained with the {kind} {recorded}, not {part_name(part)}; "
            f"pass {kind}={recorded.rpartition('.')[2]}, or train another run"
        )
