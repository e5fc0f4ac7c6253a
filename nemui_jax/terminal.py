"""What all commands share on a terminal: errors, results, tables, bars, lengths of time, reports."""

import contextlib
import glob
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from nemui_jax import dataset, midi
from nemui_jax.dataset import FileReport
from nemui_jax.runs import Run


class UsageError(ValueError):
    """Wrong usage or unusable input: one line, exit code 2."""


class Failed(RuntimeError):
    """What went wrong while running, in one line: exit code 1."""


class _Hush(NamedTuple):
    """What stdout is, while what is printed goes elsewhere, and whether it is for JSON alone."""

    stdout: TextIO
    json: bool


_hush: ContextVar[_Hush | None] = ContextVar("hush", default=None)


@contextlib.contextmanager
def hushed(quiet: bool, json: bool) -> Iterator[None]:
    """Keeps what is printed from stdout, but for results: `quiet` drops it, else `json` sends it to stderr."""
    if not quiet and not json:
        yield
        return
    token = _hush.set(_Hush(sys.stdout, json))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if quiet else sys.stderr):
        try:
            yield
        finally:
            _hush.reset(token)


def print_result(path: Path, told: str = "") -> None:
    """Tells where a result is in some words; with --quiet its path alone."""
    hush = _hush.get()
    if hush is not None and not hush.json:
        print(path, file=hush.stdout, flush=True)
    else:
        print(told or path, flush=True)


def print_json(result: Any) -> None:
    """The result of a command as JSON."""
    hush = _hush.get()
    print(json.dumps(result, indent=1), file=hush.stdout if hush else sys.stdout, flush=True)


def print_reports(reports: Sequence[FileReport]) -> None:
    for report in reports:
        if report.reason:
            print(f"not used  {midi.escape(report.path)}: {report.reason}")
        elif report.remarks:
            print(f"used      {midi.escape(report.path)}: {'; '.join(report.remarks)}")
    used = [report.entry for report in reports if report.entry]
    seconds, notes = sum((entry.seconds for entry in used), 0.0), sum(entry.notes for entry in used)
    print(f"{len(used)} of {len(reports)} files used: {clock(seconds)} of music, {notes:,} notes")


def usable_step(run: Run, tell: Callable[[str], None] = print, songs: Sequence[int] | None = None) -> int:
    """The step of the newest checkpoint that is whole (for these `songs`); UsageError where there is none yet."""
    from nemui_jax import checkpoint

    step, damaged = checkpoint.whole_step(run, songs)
    if step is None:
        raise UsageError(f"{run.path}: nothing learned yet; train it first")
    if damaged:
        tell(f"{run.path}: damaged checkpoint {', '.join(map(str, damaged))}; using {step}")
    return step


def load_song(path: Path, run: Run, max_seconds: float = midi.MAX_SECONDS) -> tuple[dataset.SongEntry, midi.Song]:
    try:
        return dataset.load_file(path, run.config.roll, max_seconds)
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
    warnings.showwarning = partial(_mend_programs, warnings.showwarning)


def _mend_programs(show: Callable[..., None], message: Warning | str, *others: Any, **named: Any) -> None:
    """Shows a warning, but for those on JAX's cache: a program cut off there is deleted, to be compiled anew."""
    told = re.match(r"Error (?:reading|writing) persistent compilation cache entry for '([\w<>]+)'", str(message))
    if told is None:
        show(message, *others, **named)
        return
    for path in Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).glob(f"{glob.escape(told[1])}-*"):
        path.unlink(missing_ok=True)


def console() -> Console:
    """Prints tables as wide as the terminal; names are printed as they are, with brackets and colons."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False, emoji=False)


def one_line(name: str) -> Text:
    """A name in a table: cut where there is no room. Columns of numbers should be `no_wrap`, so that names give way."""
    return Text(name, no_wrap=True, overflow="ellipsis")


def clock(seconds: float) -> str:
    """Seconds as 59.9 s, 12:34 or 1:23:45."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
