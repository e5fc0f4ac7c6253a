# PYTHON_ARGCOMPLETE_OK
"""One command run, and its exit code.

Nothing is imported here but what the interpreter has loaded anyway: a signal is handled from the first line of `main`.
"""

import os
import sys

DONE, FAILED, USAGE = 0, 1, 2
COMMAND_MODULES = {"plots": "export"}  # where they are, if not in a module of their own


def main(arguments: "list[str] | None" = None) -> int:
    """Runs one command and returns the exit code: 0 done, 1 failed while running, 2 wrong usage or unusable input.

    130 or 143 where SIGINT or SIGTERM stopped it. `arguments` are by default those of the process, which then is about
    to end.
    """
    last, received = arguments is None, []
    try:
        _open_streams()
        from nemui_jax.cli import signals

        with signals.handled(last) as received:
            try:
                code = _run(arguments)
            except BaseException as error:
                if not received and not isinstance(error, KeyboardInterrupt):  # else it is what a library made of it
                    raise
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


def _run(arguments: "list[str] | None") -> int:
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
        if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("nemui_jax"):
            return _complain(_not_installed(error.name), USAGE)
        if type(error).__module__.startswith("nemui_jax"):  # our own: a run, a recipe, a file that cannot be used
            return _complain(error, FAILED if isinstance(error, RuntimeError) else USAGE)
        if os.environ.get("NEMUI_TRACEBACK"):
            raise
        return _complain(f"{type(error).__name__}: {error} (set NEMUI_TRACEBACK=1 to see where)", FAILED)


def _not_installed(package: "str | None") -> str:
    """What to do where this Python does not have a package that everybody needs."""
    from nemui_jax import shell

    return f"{package} is not installed for {sys.executable}; {shell.installed_python()}"


def _command(name: str):
    """The function behind a command, from the module that holds it, imported now."""
    import importlib

    return getattr(importlib.import_module(f"nemui_jax.cli.{COMMAND_MODULES.get(name, name)}"), name)


def _complain(message: object, code: int) -> int:
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(message))
    try:
        print(f"nemui: {text}", file=sys.stderr, flush=True)
    except OSError:
        _give_up(sys.stderr)
    return code


def _open_streams() -> None:
    """Where the process was started without stdin, stdout or stderr, what goes there is dropped.

    Else the next files that are opened would take their numbers, and what is printed could end up in them.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _flush() -> None:
    """Writes out what was printed; a reader that has left is no error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _give_up(stream)


def _give_up(stream) -> None:
    """Sends what is still to be written to a stream nowhere, so that the interpreter does not complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
