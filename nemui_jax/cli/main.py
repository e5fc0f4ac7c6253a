# PYTHON_ARGCOMPLETE_OK
"""One command run, and its exit code."""

import importlib
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence

from nemui_jax.cli import signals
from nemui_jax.cli.parser import parse

DONE, FAILED, USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0 done, 1 failed while running, 2 wrong usage or unusable input."""
    with signals.handled(last=arguments is None) as told:
        try:
            return _run(arguments)
        except BaseException as error:
            if not told and not isinstance(error, KeyboardInterrupt):  # else it is what a library made of a signal
                raise
    return _complain("stopped", 128 + (told[0] if told else signals.SIGNALS[0]))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        args = parse(arguments)
        from nemui_jax.cli import console

        with console.redirected(getattr(args, "quiet", False), getattr(args, "json", False) is True):
            return _command(args.command)(args) or DONE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ValueError, RuntimeError, ImportError, OSError, MemoryError) as error:
        if type(error).__module__.startswith("nemui_jax"):  # our own: a run, a recipe, a file that cannot be used
            return _complain(error, FAILED if isinstance(error, RuntimeError) else USAGE)
        if os.environ.get("NEMUI_TRACEBACK"):
            raise
        return _complain(f"{type(error).__name__}: {error} (set NEMUI_TRACEBACK=1 to see where)", FAILED)


def _command(name: str) -> Callable[[Namespace], int | None]:
    """The function behind a command, from the module that holds it, imported now."""
    module = {"add": "train", "plots": "export"}.get(name, name)
    return getattr(importlib.import_module(f"nemui_jax.cli.{module}"), name)


def _complain(message: object, code: int) -> int:
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(message))
    print(f"nemui: {text}", file=sys.stderr)
    return code
