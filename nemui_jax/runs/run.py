"""Runs on disk: what a run is, without its numbers. No JAX here.

run.json              format version, seed, length of training, configuration, one row a song
songs/<sha256>.npz    the events of each song, so that a run needs its folder no more
checkpoints/          see `checkpoint`
metrics.jsonl         one line a chunk of training
recall.json           how well each song is known, once trained
lock                  held by the process that trains
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from nemui_jax import shell
from nemui_jax.config import Config, from_json, to_json
from nemui_jax.data import cache, dataset, layout
from nemui_jax.errors import RunError
from nemui_jax.files import sync, write_text
from nemui_jax.music.song import Song

FORMAT = 2


@dataclass(frozen=True)
class Run:
    """What a run is, without its numbers."""

    path: Path
    config: Config
    seed: int
    total: int  # steps of training when done
    entries: tuple[dataset.SongEntry, ...]

    @property
    def lengths(self) -> list[int]:
        """Steps of each song."""
        return [entry.steps for entry in self.entries]

    @property
    def row_starts(self) -> list[int]:
        """The first row of each song in the latent table, and the number of rows."""
        return layout.row_starts(self.lengths, self.config)

    @property
    def rows(self) -> int:
        """Rows in the latent table."""
        return self.row_starts[-1]

    def song(self, index: int) -> Song:
        """The events of a song, as they were in its file."""
        sha256 = self.entries[index].sha256
        try:
            return cache.load_song(self.path / "songs" / f"{sha256}.npz", sha256)
        except ValueError as error:
            raise RunError(f"{self.path}: its copy of song {index} is damaged or gone ({error})") from error

    def fingerprint(self, step: int) -> str:
        """A short hash of a checkpoint's contents."""
        return hashlib.sha256((self.path / "checkpoints" / f"{step}.json").read_bytes()).hexdigest()[:12]

    def corpus(self) -> dataset.Corpus:
        """All songs."""
        return dataset.Corpus(self.entries, tuple(self.song(index) for index in range(len(self.entries))))




def run_exists(path: Path) -> bool:
    """Whether there is a run in this folder."""
    return (path / "run.json").exists()




def create_run(path: Path, config: Config, seed: int, total: int, corpus: dataset.Corpus) -> Run:
    """Writes a new run without checkpoints. `run.json` comes last: without it a folder is no run."""
    path = path.absolute()
    if (path / "checkpoints").exists():  # of a run whose run.json is gone, or somebody's own
        raise RunError(f"{path}: holds checkpoints but no run.json; name another --run")
    for entry, song in zip(corpus.entries, corpus.songs, strict=True):
        cache.save_song(path / "songs" / f"{entry.sha256}.npz", song, entry.sha256)
    for partial in (path / "songs").glob(".*.npz.*.partial"):  # of a process that was killed
        partial.unlink(missing_ok=True)
    sync(path / "songs")
    run = Run(path, config, seed, total, corpus.entries)
    write_manifest(run)
    return run




def write_manifest(run: Run) -> None:
    """Writes what a run is."""
    what = {
        "format": FORMAT,
        "seed": run.seed,
        "total": run.total,
        "config": json.loads(to_json(run.config)),
        "songs": [dataclasses.asdict(entry) for entry in run.entries],
    }
    write_text(run.path / "run.json", json.dumps(what, indent=1))




def read_run(path: Path) -> Run:
    """The run in a folder. RunError if there is none, or if it is damaged or of a newer format."""
    path = path.absolute()
    if not run_exists(path):
        train = shell.command("train", "--dir", "FOLDER", "--run", path)
        raise RunError(f"{path}: no run here; make one with: {train}")
    try:
        what = json.loads((path / "run.json").read_text())
        if what["format"] > FORMAT:
            raise RunError(f"{path}: format {what['format']} is newer than this program's {FORMAT}; update nemui_jax")
        if what["format"] < FORMAT:
            raise RunError(
                f"{path}: format {what['format']} is an older program's; train its folder again, with --fresh"
            )
        entries = tuple(dataset.SongEntry(**row) for row in what["songs"])
        return Run(path, from_json(json.dumps(what["config"])), what["seed"], what["total"], entries)
    except (OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path}: run.json is damaged ({error})") from error




@contextlib.contextmanager
def lock_run(path: Path) -> Iterator[None]:
    """Holds a run for writing. RunError names the process that holds it already; a dead one's lock does not count.

    A folder that holds no run in the end is not left behind.
    """
    with _open_lock(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip()
            raise RunError(f"{path}: process {holder} is using this run; wait for it or name another --run") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            if not run_exists(path):
                _remove_partial_run(path)




def _open_lock(path: Path) -> TextIO:
    try:
        path.mkdir(parents=True, exist_ok=True)
        return open(path / "lock", "a+")
    except (FileExistsError, NotADirectoryError) as error:
        raise RunError(f"{path}: a file stands there; name another --run") from error
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); name another --run") from error




def _remove_partial_run(path: Path) -> None:
    """Removes what a run was to be, and its folder if nothing else is in it; a person's own files stay."""
    for file in (path / "songs").glob("*"):
        if re.fullmatch(r"\.?[0-9a-f]{64}\.npz(\.[\w-]+\.partial)?", file.name):
            file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (path / "songs").rmdir()
    if {item.name for item in path.iterdir()} <= {"lock"}:
        shutil.rmtree(path)




def set_aside(path: Path) -> Path:
    """Moves all that a run holds, but its lock, to a new folder beside it; returns that folder."""
    aside = next(other for n in itertools.count(1) if not (other := path.with_name(f"{path.name}.old-{n}")).exists())
    aside.mkdir()
    for item in path.iterdir():
        if item.name != "lock":
            item.rename(aside / item.name)
    return aside




def song_differences(old: Sequence[dataset.SongEntry], new: Sequence[dataset.SongEntry]) -> str:
    """What differs between two lists of songs, in a few words; empty if nothing does."""
    before, after = {entry.sha256: entry.name for entry in old}, {entry.sha256: entry.name for entry in new}
    gone = [name for sha256, name in before.items() if sha256 not in after]
    come = [name for sha256, name in after.items() if sha256 not in before]
    parts = [
        f"{len(names)} {word} ({names[0]}{', ...' if names[1:] else ''})"
        for names, word in ((gone, "gone"), (come, "new"))
        if names
    ]
    if not parts and list(before) != list(after):
        parts = ["in another order"]
    return ", ".join(parts)




def read_scores(run: Run) -> list[dict[str, float]]:
    """How well each song is played back, as it was measured; empty where it was not."""
    try:
        found = json.loads((run.path / "recall.json").read_text())
        return found if len(found) == len(run.entries) else [{} for _ in run.entries]
    except (OSError, ValueError):
        return [{} for _ in run.entries]


def read_log(run: Run) -> list[dict[str, Any]]:
    """The log of a run's training, one row a chunk; a line cut off by a crash does not count."""
    rows = []
    with contextlib.suppress(FileNotFoundError):
        for line in (run.path / "metrics.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return rows


