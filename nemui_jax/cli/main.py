# PYTHON_ARGCOMPLETE_OK
"""Runs one command and returns its exit code.

This module imports only what the interpreter has loaded already, so that signals are handled from the start.
"""

import os
import sys
import warnings

DONE, FAILED, USAGE = 0, 1, 2
COMMAND_MODULES = {"plots": "export"}  # of commands that are not in a module of their name


def main(arguments: "list[str] | None" = None) -> int:
    """Runs one command and returns the exit code: 0 done, 1 failed while running, 2 wrong usage or unusable input.

    130 or 143 if SIGINT or SIGTERM stopped it. `arguments` are by default those of the process, which is then expected
    to exit.
    """
    last, received = arguments is None, []
    # NumPy reads this once. Its products are small here: more threads wait for each other longer than they compute, and
    # round differently, so that ties in a mix would depend on the number of cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        _open_streams()
        from nemui_jax.cli import signals

        with signals.handled(last) as received:
            try:
                code = _run(arguments, received)
            except BaseException as error:
                if not received and not isinstance(error, KeyboardInterrupt):
                    raise
                if last:
                    warnings.simplefilter("ignore")  # what was interrupted is freed from here on, and asyncio warns
                code = None
    except KeyboardInterrupt:
        code = None
    if code is None:
        code = _complain("stopped", 128 + (received[0] if received else 2))
    if last:
        _flush()
        if received:
            os._exit(code)  # what was interrupted, such as an import of JAX, may crash when the interpreter clears it
    return code


def _run(arguments: "list[str] | None", received: list[int]) -> int:
    """Runs the command, with errors as messages unless a signal was `received`: any may then be what it has caused."""
    try:
        from nemui_jax.cli.parser import parse

        args = parse(arguments)
        from nemui_jax.cli import console

        with console.redirected(getattr(args, "quiet", False), getattr(args, "json", False) is True):
            code = _command(args.command)(args) or DONE
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        return FAILED
    except (ValueError, RuntimeError, ImportError, OSError, MemoryError) as error:
        if received:
            raise
        if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("nemui_jax"):
            return _complain(_not_installed(error.name), USAGE)
        if type(error).__module__.startswith("nemui_jax"):  # an error with a message for the user
            return _complain(error, FAILED if isinstance(error, RuntimeError) else USAGE)
        if os.environ.get("NEMUI_TRACEBACK"):
            raise
        return _complain(f"{type(error).__name__}: {error} (set NEMUI_TRACEBACK=1 to see where)", FAILED)


def _not_installed(package: "str | None") -> str:
    """What to do where this Python does not have a package that everybody needs."""
    from nemui_jax import shell

    return f"{package} is not installed for {sys.executable}; {shell.installed_python()}"


def _command(name: str):
    """The function of a command; its module is imported now."""
    import importlib

    return getattr(importlib.import_module(f"nemui_jax.cli.{COMMAND_MODULES.get(name, name)}"), name)


def _complain(message: object, code: int) -> int:
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(message))
    try:
        print(f"nemui: {text}", file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)
    return code


def _open_streams() -> None:
    """Opens the null device for stdin, stdout and stderr if the process was started without them.

    Else the next files to be opened would get their file descriptors, and what is printed could end up in them.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _flush() -> None:
    """Flushes stdout and stderr; a closed pipe is not an error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _discard(stream)


def _discard(stream) -> None:
    """Redirects a stream to the null device, so that the interpreter does not fail to flush it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
