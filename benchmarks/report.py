"""Shared by the benchmarks: arguments, songs, timing, and the results as a table and as JSON.

Contenders are timed in turns, so that a load on the machine affects all of them. Times are the minimum of several
rounds; ratios are the median of the rounds' ratios. JAX is imported only when it is needed, because some processes that
benchmarks start do not use it.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from nemui_jax.cli import console
from nemui_jax.config import Config
from nemui_jax.data import dataset
from nemui_jax.music import tunes

ROOT = Path(__file__).resolve().parent.parent
RUN_PY = (sys.executable, str(ROOT / "run.py"))  # to begin a command with
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_began_load = os.getloadavg()


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a file")
    return found


@contextlib.contextmanager
def songs(folder: Path | None) -> Iterator[Path]:
    """A folder of MIDI files: this one, or a temporary one with the built-in tunes."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        tunes.write_all(Path(temporary))
        yield Path(temporary)


def load(folder: Path, settings: Config | None = None) -> tuple[Config, dataset.Corpus]:
    """A folder's songs and the configuration with which `train` would train them, by default the default one's."""
    corpus, _ = dataset.load(folder, settings or Config())
    if not corpus.entries:
        raise SystemExit(f"{folder}: no song there")
    fitted = dataset.fit_heads(dataset.fit_pitches(settings or Config(), corpus), corpus)
    return dataset.fit_size(fitted, corpus), corpus


def in_turns(contenders: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """The seconds of `repeats` calls of each contender, which take turns in alternating order.

    JAX arrays that they return are waited for. Each is called once before, untimed.
    """
    import jax

    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name in list(contenders)[:: 1 if turn % 2 else -1]:
            began = time.perf_counter()
            jax.block_until_ready(contenders[name]())
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return float(np.median(np.divide(over, under)))


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table, with numbers to three significant digits."""
    table = Table(title=title, title_justify="left", box=None)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    console.console().print(table)


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def write(args: argparse.Namespace, figures: Any) -> None:
    """Writes the figures, with arguments, machine, versions and commit, to the file of `--json`, if it is given."""
    if args.json is None:
        return
    arguments = json.loads(json.dumps(vars(args), default=str))
    content = {
        "arguments": arguments,
        "machine": _machine(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "commit": _commit(),
        "load": {"at start": _began_load, "at end": os.getloadavg()},  # 1, 5 and 15 minutes
        "figures": figures,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(content, indent=1) + "\n")


def _machine() -> dict[str, Any]:
    import jax

    cpu = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    devices = [f"{device.platform}: {device.device_kind}" for device in jax.devices()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "cores": cores, "devices": devices}


def _commit() -> str:
    """The current commit, with a + if files differ from it; empty outside a repository."""
    git = ["git", "--no-optional-locks", "-C", str(ROOT)]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True, stderr=subprocess.DEVNULL).strip()
        changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changed else "")
