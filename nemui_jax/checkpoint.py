"""Runs on disk: configuration, manifest, songs, and Orbax checkpoints that are known to be whole.

    config.json           configuration, seed, length of training, format version
    manifest.json         one row a song
    songs/<sha256>.npz    the events of each song, so that a run needs its folder no more
    checkpoints/<step>/   Orbax: params, latents, moments, step
    checkpoints/<step>.json   SHA-256 of each of its files, written last: a step without it does not count
    metrics.jsonl         one line a chunk of training
    lock                  held by the process that trains

Orbax restores flipped array bytes without a word, hence the hashes.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from nemui_jax import latents, model, train
from nemui_jax.config import Config, from_json, to_json
from nemui_jax.dataset import Corpus, SongEntry, load_song, save_song
from nemui_jax.midi import Song
from nemui_jax.train import TrainState

FORMAT = 1
KEPT = 2  # newest checkpoints that stay


class RunError(ValueError):
    """A run that cannot be used as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Run:
    """What a run is, without its numbers."""

    path: Path
    config: Config
    seed: int
    total: int  # steps of training when done
    entries: tuple[SongEntry, ...]

    @property
    def rows(self) -> int:
        """Rows in the latent table."""
        return sum(latents.count_rows(entry.steps, self.config.model) for entry in self.entries)

    def song(self, index: int) -> Song:
        """The events of a song, as they were in its file."""
        sha256 = self.entries[index].sha256
        try:
            return load_song(self.path / "songs" / f"{sha256}.npz", sha256)
        except ValueError as error:
            raise RunError(f"{error}; the run's copy of song {index} is damaged") from error

    def corpus(self) -> Corpus:
        """All songs."""
        return Corpus(self.entries, tuple(self.song(index) for index in range(len(self.entries))))


def exists(path: Path) -> bool:
    """Whether there is a run in this folder."""
    return (path / "config.json").exists()


def create(path: Path, config: Config, seed: int, total: int, corpus: Corpus) -> Run:
    """Writes a new run without checkpoints. `config.json` comes last: without it a folder is no run."""
    path = path.absolute()
    for entry, song in zip(corpus.entries, corpus.songs, strict=True):
        save_song(path / "songs" / f"{entry.sha256}.npz", song, entry.sha256)
    run = Run(path, config, seed, total, corpus.entries)
    describe(run)
    return run


def describe(run: Run) -> None:
    """Writes a run's manifest and configuration."""
    _write(run.path / "manifest.json", json.dumps([dataclasses.asdict(entry) for entry in run.entries], indent=1))
    head = {"format": FORMAT, "seed": run.seed, "total": run.total, "config": json.loads(to_json(run.config))}
    _write(run.path / "config.json", json.dumps(head, indent=1))


def read(path: Path) -> Run:
    """The run in a folder. RunError if there is none, or if it is damaged or of a newer format."""
    path = path.absolute()
    if not exists(path):
        raise RunError(f"{path}: no run here; make one with: python run.py train --dir FOLDER --run {path}")
    try:
        head = json.loads((path / "config.json").read_text())
        if head["format"] > FORMAT:
            raise RunError(f"{path}: format {head['format']} is newer than this program's {FORMAT}; update nemui_jax")
        entries = tuple(SongEntry(**row) for row in json.loads((path / "manifest.json").read_text()))
        return Run(path, from_json(json.dumps(head["config"])), head["seed"], head["total"], entries)
    except (OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path}: config.json or manifest.json is damaged ({error})") from error


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds a run for writing. RunError names the process that holds it already; a dead one's lock does not count."""
    path.mkdir(parents=True, exist_ok=True)
    with open(path / "lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise RunError(f"{path}: process {file.read().strip()} is training this run; wait for it or use another --run") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def save(run: Run, state: TrainState) -> int:
    """Saves a state as the newest checkpoint; it is durable when this returns its step."""
    step = int(state.step)
    folder = run.path / "checkpoints" / str(step)
    if _whole(folder):
        return step
    shutil.rmtree(folder, ignore_errors=True)  # left without hashes by a process that was killed
    with _quiet_orbax() as ocp:
        ocp.save_checkpointables(folder, _parts(state))
    _write(folder.with_suffix(".json"), json.dumps(_hashes(folder), indent=1))
    for old in sorted(saved_steps(run.path))[:-KEPT]:
        folder.with_name(f"{old}.json").unlink(missing_ok=True)
        shutil.rmtree(folder.with_name(str(old)), ignore_errors=True)
    return step


def saved_steps(path: Path) -> list[int]:
    """Steps with a finished checkpoint, damaged or not, newest first."""
    names = [file.stem for file in (path / "checkpoints").glob("*.json")]
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def whole_step(run: Run) -> tuple[int | None, list[int]]:
    """The newest checkpoint whose files are what was written, and the newer ones that are damaged."""
    damaged = []
    for step in saved_steps(run.path):
        if _whole(run.path / "checkpoints" / str(step)):
            return step, damaged
        damaged.append(step)
    if damaged:
        raise RunError(f"{run.path}: every checkpoint is damaged ({', '.join(map(str, damaged))}); train with --fresh")
    return None, []


def restore(run: Run, step: int) -> TrainState:
    """The whole state of a checkpoint, to go on training."""
    abstract = jax.eval_shape(lambda key: train.init(key, run.rows, run.config), jax.random.key(0))
    found = _load(run, step, _parts(abstract))
    moments = found["moments"]
    return TrainState(found["step"]["step"], found["params"], moments["params"], found["latents"]["table"], moments["latents"])


def restore_model(run: Run, step: int) -> tuple[model.Params, jax.Array]:
    """Weights and latent table of a checkpoint, to sample."""
    abstract = jax.eval_shape(lambda key: train.init(key, run.rows, run.config), jax.random.key(0))
    parts = _parts(abstract)
    found = _load(run, step, {name: parts[name] for name in ("params", "latents")})
    return found["params"], found["latents"]["table"]


def _parts(state: TrainState) -> dict[str, Any]:
    """The state as Orbax keeps it: sampling reads two of the four."""
    return {
        "params": state.params,
        "latents": {"table": state.latents},
        "moments": {"params": state.params_opt, "latents": state.latents_opt},
        "step": {"step": state.step},
    }


def _load(run: Run, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
    with _quiet_orbax() as ocp:
        return ocp.load_checkpointables(run.path / "checkpoints" / str(step), abstract)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _whole(folder: Path) -> bool:
    try:
        return json.loads(folder.with_suffix(".json").read_text()) == _hashes(folder)
    except (OSError, ValueError):
        return False


def _write(path: Path, text: str) -> None:
    """A text file that appears whole or not at all, and lasts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[Any]:
    """Orbax, imported when first needed (it takes a second), without its warnings on shardings we leave to JAX."""
    from orbax.checkpoint import v1 as ocp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield ocp
