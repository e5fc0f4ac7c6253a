"""Orbax checkpoints that are known to be whole.

    checkpoints/<step>/       Orbax: params, latents, spread, moments, step; of each song that was added, song-<number>
    checkpoints/<step>.json   rows of its songs, SHA-256 of its files; written last: a step without does not count

Orbax restores flipped array bytes without a word, hence the hashes. Arrays are stored as plain Zarr, in chunks of
CHUNK_BYTES, a file each: to play a song only the chunks with its rows are read, and only their hashes are checked. A
song that is added has an array of its own: the table of the others, however large, is not written again but linked.
"""

import contextlib
import gc
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from nemui_jax.config import Config
from nemui_jax.errors import RunError, SaveError
from nemui_jax.files import sync, write_text
from nemui_jax.model import decoder, latents
from nemui_jax.runs.run import Run
from nemui_jax.training import distributed
from nemui_jax.training.step import TrainState, init_state, pad_rows, place_state

KEPT = 2  # newest checkpoints that stay
TABLE, MOMENTS = "latents/table", "moments"  # in a checkpoint
CHUNK_BYTES = 4 * 2**20


def save(run: Run, state: TrainState) -> int:
    """Saves a state as the newest checkpoint; it is durable when this returns its step. SaveError if it cannot be."""
    step = int(state.step)
    with _errors(run, step, "steps saved before are whole, and the same command goes on from there"):
        if not _whole(run.path / "checkpoints" / str(step), run.rows):
            spread = {"spread": {"spread": latents.spread(state.latents[: run.rows])}}
            _save(run, step, _parts(state) | spread)
    return step




def append(run: Run, step: int, params: decoder.Params, rows: Float[Any, "row latent"]) -> int:
    """Saves the checkpoint at a step again as that of `run.total`, with other weights and the rows of its last song.

    What is saved already is linked, not written: the cost does not grow with the table. Moments stay behind. Returns
    the new step, durable; SaveError if it cannot be.
    """
    parts = {"params": params, "step": {"step": jnp.int32(run.total)}, f"song-{len(run.entries) - 1}": {"rows": rows}}
    with _errors(run, run.total, "what the run knew is as it was"):
        _save(run, run.total, parts, linked=step)
    return run.total




@contextlib.contextmanager
def _errors(run: Run, step: int, hope: str) -> Iterator[None]:
    """Turns what goes wrong while saving into SaveError."""
    try:
        yield
    except Exception as error:  # Orbax and what is below it raise many kinds for a full disk
        for _ in range(20):  # Orbax's threads may still be writing
            if not _clear(run.path / "checkpoints"):
                break
            time.sleep(0.05)
        raise SaveError(f"{run.path}: step {step:,} could not be saved ({_in_short(error)}); {hope}") from error




def _in_short(error: Exception) -> str:
    number = getattr(error, "errno", None) or next(iter(re.findall(r"os_error_code='(\d+)'", str(error))), None)
    return os.strerror(int(number)) if number else f"{type(error).__name__}: {error}".partition("\n")[0][:200]




def needs(rows: int, settings: Config) -> tuple[int, int]:
    """Bytes that the checkpoints of a run with so many rows take, while one is written, and those of the largest file.

    Arrays are not compressed.
    """
    state = jax.eval_shape(lambda key: init_state(key, rows, settings), jax.random.key(0))
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)]
    return (KEPT + 1) * sum(sizes), min(max(sizes), CHUNK_BYTES)




def _save(run: Run, step: int, parts: dict[str, Any], linked: int | None = None) -> None:
    """Writes parts, and the others of the `linked` step as links to them, as a checkpoint."""
    folder = run.path / "checkpoints" / str(step)
    if distributed.is_coordinator():
        shutil.rmtree(folder, ignore_errors=True)
        _clear(folder.parent)
    distributed.barrier(f"may save {step}")
    with _quiet_orbax() as ocp:
        plain = ocp.Context()
        plain.array.saving.use_ocdbt, plain.array.saving.use_compression = False, False
        plain.array.saving.storage_options.chunk_byte_size = CHUNK_BYTES
        with plain:
            ocp.save_checkpointables(folder, parts)
    if distributed.is_coordinator():
        hashes = _hashes(folder)
        if linked is not None:
            hashes |= _link(folder.with_name(str(linked)), folder)
        sync(folder)  # Orbax leaves this to the system for some of its files and for all folders
        write_text(folder.with_suffix(".json"), json.dumps(_seal(run.rows, hashes), indent=1))
        for old in sorted(saved_steps(run.path))[:-KEPT]:
            folder.with_name(f"{old}.json").unlink(missing_ok=True)
            shutil.rmtree(folder.with_name(str(old)), ignore_errors=True)
    distributed.barrier(f"saved {step}")




def _link(old: Path, new: Path) -> dict[str, str]:
    """Links into a checkpoint the parts that another has and it has not, but moments; returns their files' hashes."""
    known = json.loads(old.with_suffix(".json").read_text())["files"]
    parts = {part.name for part in old.iterdir() if part.is_dir()} - {part.name for part in new.iterdir()} - {MOMENTS}
    files = {name: sha256 for name, sha256 in known.items() if name.partition("/")[0] in parts}
    for name in files:
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(old / name, new / name)
        except OSError:  # a file system without links
            shutil.copyfile(old / name, new / name)
    return files




def _clear(folder: Path) -> bool:
    """Deletes what processes that were killed while they saved have left: what has no hashes, and halves of them.

    Returns whether there was such.
    """
    found = False
    for path in folder.glob("*"):
        half = re.fullmatch(r"\d+\.orbax-checkpoint-tmp.*", path.name)
        if half or (path.name.isdecimal() and not path.with_name(f"{path.name}.json").exists()):
            found = True
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".*.json.*.partial"):
        path.unlink(missing_ok=True)
    return found




def saved_steps(path: Path) -> list[int]:
    """Steps with a finished checkpoint, damaged or not, newest first."""
    names = [file.stem for file in (path / "checkpoints").glob("*.json")]
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)




def whole_step(run: Run, songs: Sequence[int] | None = None) -> tuple[int | None, list[int]]:
    """The newest checkpoint whose files are what was written, and the newer ones that are damaged.

    With `songs` only what plays these is looked at, not the rest of the table and what training needs.
    """
    damaged = []
    for step in saved_steps(run.path):
        folder = run.path / "checkpoints" / str(step)
        if _whole(folder, run.rows) if songs is None else _plays(run, folder, songs):
            return step, damaged
        if not _of_other_songs(folder, run.rows):
            damaged.append(step)
    if damaged:
        raise RunError(f"{run.path}: every checkpoint is damaged ({', '.join(map(str, damaged))}); train with --fresh")
    return None, []




def usable_step(run: Run, tell: Callable[[str], None] = print, songs: Sequence[int] | None = None) -> int:
    """The step of the newest checkpoint that is whole (for these `songs`); RunError where there is none yet."""
    step, damaged = whole_step(run, songs)
    if step is None:
        raise RunError(f"{run.path}: nothing learned yet; train it first")
    if damaged:
        tell(f"{run.path}: damaged checkpoint {', '.join(map(str, damaged))}; using {step}")
    return step


def restore(run: Run, step: int, mesh: Mesh | None = None) -> TrainState:
    """The whole state of a checkpoint, to go on training, over a mesh of devices; it may have been saved on others.

    One that a song was added to is at its end, and has no moments: they are those of a beginning.
    """
    if not (run.path / "checkpoints" / str(step) / MOMENTS).exists():
        begun = init_state(jax.random.key(0), run.rows, run.config)
        params, table = restore_model(run, step)
        state = begun._replace(step=jnp.int32(step), params=params, latents=pad_rows(jnp.asarray(table)))
        return place_state(state, mesh)
    found = _load(run, step, _parts(_abstract(run, mesh)))
    moments = found[MOMENTS]
    return TrainState(
        found["step"]["step"], found["params"], moments["params"], found["latents"]["table"], moments["latents"]
    )




def restore_params(run: Run, step: int) -> decoder.Params:
    """The weights of a checkpoint."""
    return _load(run, step, {"params": _parts(_abstract(run))["params"]})["params"]




def restore_rows(run: Run, step: int, song: int) -> Float[np.ndarray, "row latent"]:
    """The rows of one song; no others are read but those that share its chunks."""
    folder, (start, end) = run.path / "checkpoints" / str(step), run.row_starts[song : song + 2]
    if _was_added(folder, song):
        return _open_array(folder / f"song-{song}" / "rows").read().result()
    return _open_array(folder / TABLE)[start:end].read().result()




def restore_table(run: Run, step: int) -> Float[np.ndarray, "row latent"]:
    """The rows of all songs, in order."""
    folder = run.path / "checkpoints" / str(step)
    songs = len(run.entries)
    added = [song for song in range(songs) if _was_added(folder, song)]
    trained = _open_array(folder / TABLE)[: run.row_starts[songs - len(added)]].read().result()
    return np.concatenate([trained, *(restore_rows(run, step, song) for song in added)])




def _was_added(folder: Path, song: int) -> bool:
    return (folder / f"song-{song}").exists()




def restore_spread(run: Run, step: int) -> Float[np.ndarray, " latent"]:
    """The standard deviation of each number of a row over the table: the unit of noise."""
    shape = (run.config.model.latent_size,)
    abstract = jax.ShapeDtypeStruct(shape, np.float32, sharding=distributed.make_sharding(None, split=False))
    return np.asarray(_load(run, step, {"spread": {"spread": abstract}})["spread"]["spread"])




def restore_model(run: Run, step: int) -> tuple[decoder.Params, Float[np.ndarray, "row latent"]]:
    """The weights, and the rows of all songs."""
    return restore_params(run, step), restore_table(run, step)




def _abstract(run: Run, mesh: Mesh | None = None) -> TrainState:
    """The shapes of a run's state and how it lies over the devices of a mesh."""
    state = jax.eval_shape(lambda key: init_state(key, run.rows, run.config), jax.random.key(0))

    def lies(part: Any, split: bool) -> Any:
        sharding = distributed.make_sharding(mesh, split)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), part)

    return TrainState(*lies(state[:3], split=False), *lies(state[3:], split=True))




def _open_array(folder: Path) -> Any:
    import tensorstore  # Orbax stores through it, but hands out whole arrays alone

    where = {"driver": "file", "path": str(folder)}
    return tensorstore.open({"driver": "zarr3", "kvstore": where}, open=True, read=True).result()




def _parts(state: TrainState) -> dict[str, Any]:
    """The state as Orbax keeps it, each part by itself."""
    return {
        "params": state.params,
        "latents": {"table": state.latents},
        MOMENTS: {"params": state.params_opt, "latents": state.latents_opt},
        "step": {"step": state.step},
    }




def _load(run: Run, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
    with _quiet_orbax() as ocp:
        return ocp.load_checkpointables(run.path / "checkpoints" / str(step), abstract)




def _hashes(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): _hash(file) for file in folder.rglob("*") if file.is_file()}




def _hash(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()




def _seal(rows: int, files: dict[str, str]) -> dict[str, Any]:
    """What stands in a checkpoint's .json: it vouches for itself too."""
    body = {"rows": rows, "files": {name: files[name] for name in sorted(files, key=Path)}}
    return body | {"sha256": hashlib.sha256(json.dumps(body).encode()).hexdigest()}




def _whole(folder: Path, rows: int) -> bool:
    """Whether a checkpoint is as it was written, for a table of so many rows."""
    try:
        return json.loads(folder.with_suffix(".json").read_text()) == _seal(rows, _hashes(folder))
    except (OSError, ValueError):
        return False




def _plays(run: Run, folder: Path, songs: Sequence[int]) -> bool:
    """Whether all that plays these songs is as it was written."""
    try:
        found = json.loads(folder.with_suffix(".json").read_text())
        if found != _seal(run.rows, found["files"]):
            return False
        metadata = json.loads((folder / TABLE / "zarr.json").read_text())
        rows = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        starts = run.row_starts
        added = {song for song in songs if _was_added(folder, song)}
        spans = [(starts[song] // rows, (starts[song + 1] - 1) // rows + 1) for song in {*songs} - added]
        needed = *(f"{TABLE}/c/{n}/" for span in spans for n in range(*span)), *(f"song-{song}/" for song in added)
        files = {
            name: sha256
            for name, sha256 in found["files"].items()
            if name.startswith(needed) or not name.startswith((f"{TABLE}/c/", "song-", f"{MOMENTS}/"))
        }
        return all(_hash(folder / name) == sha256 for name, sha256 in files.items())
    except (OSError, ValueError, KeyError, TypeError):
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
    """Orbax, imported when first needed (it takes a second), without its warnings, and with its errors told once."""
    from orbax.checkpoint import v1 as ocp

    disabled, hook = logging.root.manager.disable, sys.unraisablehook
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield ocp
    except BaseException:
        gc.collect()  # tasks that failed say so when they are deleted
        logging.getLogger("absl").setLevel(logging.CRITICAL + 1)  # and its threads when they end, after this
        raise
    finally:
        logging.disable(disabled)
        sys.unraisablehook = hook


