"""What all commands share on a terminal: errors, tables, bars, lengths of time, reports."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from nemui_jax import dataset, midi
from nemui_jax.dataset import FileReport
from nemui_jax.runs import Run


class UsageError(ValueError):
    """Wrong usage or unusable input: one line, exit code 2."""


class Failed(RuntimeError):
    """What went wrong while running, in one line: exit code 1."""


def print_reports(reports: Sequence[FileReport]) -> None:
    for report in reports:
        if report.reason:
            print(f"not used  {midi.escape(report.path)}: {report.reason}")
        elif report.remarks:
            print(f"used      {midi.escape(report.path)}: {'; '.join(report.remarks)}")
    used = [report.entry for report in reports if report.entry]
    seconds, notes = sum((entry.seconds for entry in used), 0.0), sum(entry.notes for entry in used)
    print(f"{len(used)} of {len(reports)} files used: {clock(seconds)} of music, {notes:,} notes")


def usable_step(run: Run) -> int:
    from nemui_jax import checkpoint

    step, damaged = checkpoint.whole_step(run)
    if step is None:
        raise UsageError(f"{run.path}: nothing learned yet; train it first")
    if damaged:
        print(f"{run.path}: damaged checkpoint {', '.join(map(str, damaged))}; using {step}")
    return step


def load_song(path: Path, run: Run) -> tuple[dataset.SongEntry, midi.Song]:
    try:
        return dataset.load_file(path, run.config.roll)
    except midi.MidiError as error:
        raise UsageError(f"{midi.escape(path)}: {error}") from error


def read_recalls(run: Run) -> list[dict[str, float]]:
    try:
        found = json.loads((run.path / "recall.json").read_text())
        return found if len(found) == len(run.entries) else [{} for _ in run.entries]
    except (OSError, ValueError):
        return [{} for _ in run.entries]


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


@contextlib.contextmanager
def bar(label: str, total: int) -> Iterator[Any]:
    """A progress bar on a terminal; nothing elsewhere."""
    console = Console()
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def start_jax() -> None:
    """Settings that JAX reads when it is imported: programs compiled once are kept in the user's cache."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(dataset.cache_folder() / "programs"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def clock(seconds: float) -> str:
    """Seconds as 59.9 s, 12:34 or 1:23:45."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
