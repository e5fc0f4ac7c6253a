"""Terminal output that commands share: results, tables, progress bars, durations, load reports."""

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

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from nemui_jax import shell
from nemui_jax.cli.parser import DEFAULT_RUN
from nemui_jax.data import cache, dataset
from nemui_jax.files import escape

SHORTEST_COLUMN = 12  # to which a column of words is cut


class _Output(NamedTuple):
    """The real stdout while printing is redirected, and whether it is reserved for JSON."""

    stdout: TextIO
    json: bool


_output: ContextVar[_Output | None] = ContextVar("output", default=None)


@contextlib.contextmanager
def redirected(quiet: bool, json: bool) -> Iterator[None]:
    """Redirects what is printed, except results: `quiet` drops it, else `json` sends it to stderr."""
    if not quiet and not json:
        yield
        return
    token = _output.set(_Output(sys.stdout, json))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if quiet else sys.stderr):
        try:
            yield
        finally:
            _output.reset(token)


def print_result(path: Path, text: str = "") -> None:
    """Prints a line about a result, by default its path; with --quiet only the path."""
    output = _output.get()
    if output is not None and not output.json:
        print(path, file=output.stdout, flush=True)
    else:
        print(text or path, flush=True)


def print_json(result: Any) -> None:
    """Prints the result of a command as JSON."""
    output = _output.get()
    print(json.dumps(result, indent=1), file=output.stdout if output else sys.stdout, flush=True)


def print_next(*commands: Sequence[object]) -> None:
    """Prints commands that the user may want next, quoted for the shell."""
    print("Next:")
    for words in commands:
        print(f"  {shell.command(*words)}", flush=True)


def run_flag(path: Path) -> list[object]:
    """The flag that names a run; nothing for the default run."""
    return [] if path == DEFAULT_RUN else ["--run", path]


def print_reports(reports: Sequence[dataset.FileReport]) -> None:
    """Prints the load report: files with a reason or remarks, and totals."""
    for report in reports:
        if report.reason:
            print(f"not used  {escape(report.path)}: {report.reason}")
        elif report.remarks:
            print(f"used      {escape(report.path)}: {'; '.join(report.remarks)}")
    used = [report.entry for report in reports if report.entry]
    seconds, notes = sum((entry.seconds for entry in used), 0.0), sum(entry.notes for entry in used)
    print(f"{len(used)} of {len(reports)} files used: {duration(seconds)} of music, {notes:,} notes")
    if used:
        clocks = {"file": "of the file's tempo map", "tracked": "tracked from the notes", "steady": "steady"}
        counts = [(sum(entry.clock == kind for entry in used), what) for kind, what in clocks.items()]
        print("beats: " + ", ".join(f"{count} {what}" for count, what in counts if count))


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def is_terminal() -> bool:
    """Whether stdout is a terminal."""
    return Console().is_terminal


@contextlib.contextmanager
def progress_bar(label: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A progress bar on a terminal, and nothing elsewhere. `total` may be given later.

    It yields a function `show(done, total, text)`; the text is optional and is shown beside the bar.
    """
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(label, total=total, text="")
        yield lambda done, total, text="": bar.update(task, completed=done, total=total, text=text)


def start_jax() -> None:
    """Sets JAX's compilation cache to the user's cache folder; call it before JAX is imported."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.cache_folder() / "programs"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
    warnings.showwarning = partial(_show_warning, warnings.showwarning)


def _show_warning(show: Callable[..., None], message: Warning | str, *others: Any, **named: Any) -> None:
    """Shows a warning, except about an unreadable program in JAX's cache: that is deleted, to be compiled again."""
    found = re.match(r"Error (?:reading|writing) persistent compilation cache entry for '([\w<>]+)'", str(message))
    if found is None:
        show(message, *others, **named)
        return
    for path in Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).glob(f"{glob.escape(found[1])}-*"):
        path.unlink(missing_ok=True)


def console() -> Console:
    """A console that prints tables as wide as the terminal, and names without interpreting brackets and colons."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False, emoji=False)


def print_columns(heads: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str]) -> None:
    """Prints a table of any length at once, aligned to the `left` or right; left columns are cut if there is no room.

    Rich's own tables take a second for every thousand rows.
    """
    lines = [list(heads), *map(list, rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    excess = sum(widths) + 2 * len(widths) - console().width
    for place in sorted((heads.index(name) for name in left if name in heads), key=lambda place: -widths[place]):
        cut = min(max(excess, 0), max(widths[place] - SHORTEST_COLUMN, 0))
        widths[place], excess = widths[place] - cut, excess - cut
    for line in lines:
        cells = (_aligned(*each) for each in zip(line, widths, (head in left for head in heads), strict=True))
        print(f" {'  '.join(cells)}".rstrip())


def _aligned(text: str, width: int, left: bool) -> str:
    """Text as wide as a column: padded, or cut."""
    if (over := cell_len(text) - width) > 0:
        return set_cell_size(text, width - 1) + "…"
    return text + " " * -over if left else " " * -over + text


def one_line(name: str) -> Text:
    """A name in a table, cut if there is no room. Columns of numbers should be `no_wrap`, so that only names are."""
    return Text(name, no_wrap=True, overflow="ellipsis")


def duration(seconds: float) -> str:
    """Seconds as 59.9 s, 12:34 or 1:23:45."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
