"""Runs on disk: what a run is, without its numbers. No JAX here.

run.json              format version, seed, length of training, configuration, names of decoder and optimizer, one row
                      a song, checksum
songs/<sha256>.song   the events of each song, so that a run needs its folder no more
checkpoints/          see `checkpoint`
metrics.jsonl         one line a chunk of training
scores.json           note F1 of each song played back, once trained, checksum
lock                  held by the process that trains
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from nemui_jax import shell
from nemui_jax.config import Config, from_json, to_json
from nemui_jax.data import cache, dataset, layout
from nemui_jax.errors import RunError
from nemui_jax.files import resolve, sync, write_text
from nemui_jax.music.song import Song
from nemui_jax.runs import integrity
from nemui_jax.runs.components import DEFAULTS

FORMAT, FIRST_WITH_CHECKSUM = 6, 3
_WRITTEN = (  # all that a run writes but its lock, until format 2 too; what makes a folder a run comes last
    r"(scores|recall)\.json|metrics\.jsonl|tensorboard|profile|plots|export|\..*\.partial",
    r"songs/\.?[0-9a-f]{64}\.(song|npz)(\.[\w-]+\.partial)?",
    r"checkpoints/(\d+(\.json|\.orbax-checkpoint-tmp.*)?|\..*\.partial)",
    r"run\.json",
)
LOCK_SECONDS = 2.0  # that a process which has just taken a lock has to say which it is


@dataclass(frozen=True)
class Run:
    """What a run is, without its numbers."""

    path: Path
    config: Config
    seed: int
    total: int  # steps of training when done
    entries: tuple[dataset.SongEntry, ...]
    decoder: str = DEFAULTS["decoder"]  # names, as `component_name` gives them
    optimizer: str = DEFAULTS["optimizer"]
    planned: int | None = None  # steps of training where songs are not known before; None: just `total`
    known_at: int | None = None  # the step at which they were known, from which rates are those of `total` steps

    @property
    def row_starts(self) -> list[int]:
        """The first row of each song in the latent table, and the number of rows."""
        return layout.row_starts(self.entries)

    @property
    def rows(self) -> int:
        """Rows in the latent table."""
        return self.row_starts[-1]

    def song(self, index: int) -> Song:
        """The events of a song, as they were in its file.

        A damaged copy is made again from that file; RunError where it is gone or changed, or read otherwise.
        """
        entry = self.entries[index]
        try:
            return cache.load_song(_song_path(self, entry.sha256), entry.sha256, any_reader=True)
        except ValueError as error:
            parsed = cache.parse_file((Path(entry.path), math.inf))
            if isinstance(parsed, str) or parsed.sha256 != entry.sha256:
                reason = parsed if isinstance(parsed, str) else "has changed since"
                raise RunError(
                    f"{self.path}: its copy of song {index} {entry.name} is damaged or gone, and its file {entry.path} "
                    f"{reason}; put that file back or train again with --fresh"
                ) from error
            made, _ = dataset.make_entry(parsed.song, Path(entry.path), entry.sha256, self.config)
            if (made.clock, made.steps, made.rows) != (entry.clock, entry.steps, entry.rows):
                raise RunError(
                    f"{self.path}: its copy of song {index} {entry.name} is damaged, and this version reads other "
                    f"beats or notes from {entry.path} than it was trained on; train again with --fresh"
                ) from error
            with contextlib.suppress(OSError):  # a run that may only be read
                store_song(self, parsed.song, entry.sha256)
            return parsed.song

    def fingerprint(self, step: int) -> str:
        """A short hash of a checkpoint's contents."""
        return hashlib.sha256((self.path / "checkpoints" / f"{step}.json").read_bytes()).hexdigest()[:12]

    def corpus(self) -> dataset.Corpus:
        """All songs."""
        return dataset.Corpus(self.entries, tuple(self.song(index) for index in range(len(self.entries))))


def run_exists(path: Path) -> bool:
    """Whether there is a run in this folder."""
    return (resolve(path) / "run.json").exists()


def create_run(
    path: Path,
    config: Config,
    seed: int,
    total: int,
    corpus: dataset.Corpus,
    decoder: str = DEFAULTS["decoder"],
    optimizer: str = DEFAULTS["optimizer"],
    planned: int | None = None,
) -> Run:
    """Writes a new run without checkpoints. `run.json` comes last: without it a folder is no run."""
    run = Run(resolve(path), config, seed, total, corpus.entries, decoder, optimizer, planned)
    if (run.path / "checkpoints").exists():  # of a run whose run.json is gone, or somebody's own
        raise RunError(f"{path}: holds checkpoints but no run.json; name another --run")
    for entry, song in zip(corpus.entries, corpus.songs, strict=True):
        cache.save_song(_song_path(run, entry.sha256), song, entry.sha256)
    for partial in (run.path / "songs").glob(".*.song.*.partial"):  # of a process that was killed
        partial.unlink(missing_ok=True)
    sync(run.path / "songs")
    write_manifest(run)
    return run


def store_song(run: Run, song: Song, sha256: str) -> None:
    """Writes a run's own copy of a song, which is durable when this returns. Raises OSError."""
    cache.save_song(_song_path(run, sha256), song, sha256, durable=True)


def write_manifest(run: Run) -> None:
    """Writes what a run is."""
    what = {
        "format": FORMAT,
        "seed": run.seed,
        "total": run.total,
        "planned": run.planned,
        "known_at": run.known_at,
        "config": json.loads(to_json(run.config)),
        "decoder": run.decoder,
        "optimizer": run.optimizer,
        "songs": [dataclasses.asdict(entry) for entry in run.entries],
    }
    write_text(run.path / "run.json", integrity.seal(what))


def read_run(path: Path) -> Run:
    """The run in a folder. RunError if there is none, or if it is damaged or of another format."""
    path = resolve(path)
    if not run_exists(path):
        train = shell.command("train", "--dir", "FOLDER", "--run", path)
        raise RunError(f"{path}: no run here; make one with: {train}")
    try:
        found = integrity.read_json(path / "run.json")
        early = isinstance(found, dict) and "sha256" not in found and found.get("format") in range(FIRST_WITH_CHECKSUM)
        what = found if early else integrity.unseal(found)
        if what["format"] < FORMAT:
            raise RunError(
                f"{path}: written by an older version, in format {what['format']}, and this one reads {FORMAT}; "
                "train its songs again with --fresh or use another --run"
            )
        if what["format"] > FORMAT:
            raise RunError(f"{path}: format {what['format']} is newer than this program's {FORMAT}; update nemui_jax")
        entries = tuple(dataset.SongEntry.from_json(row) for row in what["songs"])
        names = [what.get(kind, default) for kind, default in DEFAULTS.items()]  # early runs do not name the defaults
        length = {name: what.get(name) for name in ("planned", "known_at")}
        return Run(path, from_json(json.dumps(what["config"])), what["seed"], what["total"], entries, *names, **length)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(
            f"{path}: run.json is damaged ({error}); put a copy back, train again with --fresh or use another --run"
        ) from error


@contextlib.contextmanager
def locked_run(path: Path) -> Iterator[Run]:
    """The run in a folder, held for writing as by `lock_run`, and read when no other process can change it."""
    read_run(path)  # where there is none, nothing is to be locked
    with lock_run(path):
        yield read_run(path)


@contextlib.contextmanager
def lock_run(path: Path) -> Iterator[None]:
    """Holds a run for writing. RunError names the process that holds it already; a dead one's lock does not count.

    What a run has in it must be read after this. A folder that holds no run in the end is not left behind.
    """
    path = resolve(path)
    with _open_lock(path) as file:
        _take_lock(path, file)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            if not run_exists(path):
                _remove_partial_run(path)


def _take_lock(path: Path, file: TextIO) -> None:
    """Locks a file. RunError if another process has, which may be about to write into it which one it is."""
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            file.seek(0)
            holder = file.read().strip()
            if _is_alive(holder) or time.monotonic() > until:
                process = f"process {holder}" if holder else "another process"
                raise RunError(f"{path}: {process} is using this run; wait for it or name another --run") from error
            time.sleep(0.01)


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except PermissionError:  # somebody else's
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True


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
    for file in _written(path, _WRITTEN[1:2]):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (path / "songs").rmdir()
    if {item.name for item in path.iterdir()} <= {"lock"}:
        shutil.rmtree(path)


def set_aside(path: Path) -> Path:
    """Moves all that a run has written, but its lock, to a new folder beside it; returns that folder.

    A person's own files in the run's folder stay where they are.
    """
    path = resolve(path)
    aside = next(other for n in itertools.count(1) if not (other := path.with_name(f"{path.name}.old-{n}")).exists())
    for item in _written(path, _WRITTEN):
        target = aside / item.relative_to(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        item.rename(target)
    for folder in ("songs", "checkpoints"):
        with contextlib.suppress(OSError):  # none, or with files of others
            (path / folder).rmdir()
    return aside


def _written(path: Path, patterns: Sequence[str]) -> list[Path]:
    """Files and folders that match one of some patterns, in their order."""
    names = [
        item.relative_to(path).as_posix() for part in ("*", "songs/*", "checkpoints/*") for item in path.glob(part)
    ]
    return [path / name for pattern in patterns for name in sorted(names) if re.fullmatch(pattern, name)]


def _song_path(run: Run, sha256: str) -> Path:
    return run.path / "songs" / f"{sha256}.song"


def write_scores(run: Run, scores: Sequence[Mapping[str, float | None]]) -> None:
    """Keeps how well each song is played back, in the figures of `note_metrics.playback_scores`."""
    write_text(run.path / "scores.json", integrity.seal({"songs": scores}))


def read_scores(run: Run) -> list[dict[str, Any]]:
    """How well each song is played back, as it was measured; empty where it was not, or where the file is damaged.

    Where there are fewer scores than songs, it was those that came last which were not measured: `add` was stopped.
    """
    scores = []
    with contextlib.suppress(ValueError):
        scores = integrity.unseal(integrity.read_json(run.path / "scores.json"))["songs"]
    missing = len(run.entries) - len(scores)
    return [*scores, *({} for _ in range(missing))] if missing >= 0 else [{} for _ in run.entries]


def read_log(run: Run) -> list[dict[str, Any]]:
    """The log of a run's training, one row a chunk; lines that a crash cut off or that are damaged do not count."""
    lines: list[bytes] = []
    with contextlib.suppress(OSError):
        lines = (run.path / "metrics.jsonl").read_bytes().splitlines()
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and all(_is_number(row.get(name)) for name in ("step", "loss", "seconds")):
                rows.append(row)
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
