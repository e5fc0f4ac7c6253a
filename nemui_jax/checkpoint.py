"""Orbax checkpoints that are known to be whole.

    checkpoints/<step>/       Orbax: params, latents, moments, step
    checkpoints/<step>.json   rows of its table, SHA-256 of its files; written last: a step without does not count

Orbax restores flipped array bytes without a word, hence the hashes.
"""

import contextlib
import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from nemui_jax import model, train
from nemui_jax.runs import Run, RunError, write_text
from nemui_jax.train import TrainState

KEPT = 2  # newest checkpoints that stay


def save(run: Run, state: TrainState) -> int:
    """Saves a state as the newest checkpoint; it is durable when this returns its step."""
    step = int(state.step)
    folder = run.path / "checkpoints" / str(step)
    if _whole(folder, run.rows):
        return step
    shutil.rmtree(folder, ignore_errors=True)  # left without hashes by a process that was killed
    with _quiet_orbax() as ocp:
        ocp.save_checkpointables(folder, _parts(state))
    write_text(folder.with_suffix(".json"), json.dumps(_seal(run.rows, _hashes(folder)), indent=1))
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
        folder = run.path / "checkpoints" / str(step)
        if _whole(folder, run.rows):
            return step, damaged
        if not _of_other_songs(folder, run.rows):
            damaged.append(step)
    if damaged:
        raise RunError(f"{run.path}: every checkpoint is damaged ({', '.join(map(str, damaged))}); train with --fresh")
    return None, []


def restore(run: Run, step: int) -> TrainState:
    """The whole state of a checkpoint, to go on training."""
    abstract = jax.eval_shape(lambda key: train.init(key, run.rows, run.config), jax.random.key(0))
    found = _load(run, step, _parts(abstract))
    moments = found["moments"]
    return TrainState(
        found["step"]["step"], found["params"], moments["params"], found["latents"]["table"], moments["latents"]
    )


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


def _seal(rows: int, files: dict[str, str]) -> dict[str, Any]:
    """What stands in a checkpoint's .json: it vouches for itself too."""
    body = {"rows": rows, "files": files}
    return body | {"sha256": hashlib.sha256(json.dumps(body).encode()).hexdigest()}


def _whole(folder: Path, rows: int) -> bool:
    """Whether a checkpoint is as it was written, for a table of so many rows."""
    try:
        return json.loads(folder.with_suffix(".json").read_text()) == _seal(rows, _hashes(folder))
    except (OSError, ValueError):
        return False


def _of_other_songs(folder: Path, rows: int) -> bool:
    """Whether a checkpoint was saved while `add` was about to change the list of songs, or had just done so."""
    try:
        found = json.loads(folder.with_suffix(".json").read_text())
        return found["rows"] != rows and found == _seal(found["rows"], found["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[Any]:
    """Orbax, imported when first needed (it takes a second), without its warnings on shardings we leave to JAX."""
    from orbax.checkpoint import v1 as ocp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield ocp
