"""Commands that work when they are pasted into the shell in which this program was started."""

import os
import shlex
import sys
from pathlib import Path

from nemui_jax.files import escape

_PACKAGE = Path(__file__).resolve().parent


def command(*words: object) -> str:
    """A command of this program, quoted, begun as the one that runs was: `.venv/bin/python run.py songs`."""
    return shlex.join([*_program(), *(escape(str(word)) for word in words)])


def install(extra: str) -> str:
    """How to install an optional dependency: `.venv/bin/python -m pip install -e '.[plots]'`."""
    root = _PACKAGE.parent
    if not (root / "pyproject.toml").exists():  # not a clone
        return shlex.join([_short(sys.executable), "-m", "pip", "install", f"nemui-jax[{extra}]"])
    return shlex.join([_short(sys.executable), "-m", "pip", "install", "-e", f"{_short(root)}[{extra}]"])


def installed_python() -> str:
    """What to start instead, where the Python that runs does not have what this program needs."""
    python = _PACKAGE.parent / ".venv" / "bin" / "python"
    if python.exists():
        return f"start it as: {shlex.join([_short(python), 'run.py'])}"
    if (_PACKAGE.parent / "pyproject.toml").exists():
        return "install all that it needs with: make demo"
    return f"install it with: {shlex.join([_short(sys.executable), '-m', 'pip', 'install', 'nemui-jax'])}"


def _program() -> list[str]:
    started = Path(sys.argv[0] if sys.argv else "")
    ours = started.name in ("run.py", "nemui") or (started.name == "__main__.py" and _PACKAGE.name in started.parts)
    if not ours:  # a program that imports the package
        return [_short(sys.executable), "-m", _PACKAGE.name]
    if started.name == "nemui":  # a script of its own, whose interpreter stands in its first line
        return [_short(started)]
    return sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]


def _short(path: str | Path) -> str:
    """A path as it is shortest from the current folder, if it lies in that; symbolic links are left as they are."""
    path = os.path.abspath(path)
    try:
        inside = os.path.relpath(path)
    except (OSError, ValueError):  # the current folder is gone
        return path
    return path if inside.startswith("..") else inside
