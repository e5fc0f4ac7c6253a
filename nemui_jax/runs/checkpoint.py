"""Orbax checkpoints that are known to be whole.

    checkpoints/<step>/       Orbax: params, latents, spread, moments, step; of each song that was added, song-<number>
    checkpoints/<step>.json   rows of its songs, SHA-256 of its files; written last: a step without does not count

Steps, temporary folders and deletion are Orbax's. Ours are the checksums (`integrity`), the reading of a song's rows
alone (`rows`), and links: where a song is added the other rows, however many, are not written again.
Old steps are deleted here and not by a preservation policy of Orbax, which would do so before the new one's checksums
are written: a save that fails then has cost an older checkpoint.
"""

import contextlib
import gc
import logging
import os
import re
import shutil
import sys
import time
import traceback
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
from nemui_jax.model import latents
from nemui_jax.model.decoder import Decoder, DecoderClass, Params
from nemui_jax.runs import integrity, rows
from nemui_jax.runs.components import check_component
from nemui_jax.runs.rows import MOMENTS
from nemui_jax.runs.run import Run
from nemui_jax.training import distributed
from nemui_jax.training.optimizer import make_optimizer
from nemui_jax.training.step import OptimizerOf, TrainState, init_state, pad_rows, place_state

KEPT = 2  # newest checkpoints that stay
CHUNK_BYTES = 4 * 2**20
CLEARINGS = 20  # after a save that failed


def save(run: Run, state: TrainState) -> int:
    """Saves a state as the newest checkpoint; it is durable when this returns its step. SaveError if it cannot be."""
    step = int(state.step)
    with _errors(run, step, "steps saved before are whole, and the same command goes on from there"):
        if not _is_whole(run, step):
            spread = {"spread": {"spread": latents.spread(state.latents[: run.rows])}}
            _save(run, step, _parts(state) | spread)
    return step


def append(run: Run, step: int, params: Params, song_rows: Float[Any, "row latent"]) -> int:
    """Saves the checkpoint at a step again as that of `run.total`, with other weights and the rows of its last song.

    What is saved already is linked, not written: the cost does not grow with the table. Moments stay behind. Returns
    the new step, durable; SaveError if it cannot be.
    """
    song = rows.part_of(len(run.entries) - 1)
    parts = {"params": params, "step": {"step": jnp.int32(run.total)}, song: {"rows": song_rows}}
    with _errors(run, run.total, "the run is as it was"):
        _save(run, run.total, parts, linked=step)
    return run.total


def needs(
    table_rows: int, settings: Config, decoder: DecoderClass = Decoder, optimizer: OptimizerOf = make_optimizer
) -> tuple[int, int]:
    """Bytes that the checkpoints of a run with so many rows take, while one is written, and those of the largest file.

    Arrays are not compressed.
    """
    state = jax.eval_shape(lambda key: init_state(key, table_rows, settings, decoder, optimizer), jax.random.key(0))
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)]
    return (KEPT + 1) * sum(sizes), min(max(sizes), CHUNK_BYTES)


def saved_steps(path: Path) -> list[int]:
    """Steps with a finished checkpoint, damaged or not, newest first."""
    names = [file.stem for file in (path / "checkpoints").glob("*.json")]
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def whole_step(run: Run, songs: Sequence[int] | None = None) -> tuple[int | None, list[int]]:
    """The newest checkpoint whose files are what was written, and the newer ones that are damaged.

    With `songs` only what plays these is looked at, not the rest of the table and what training needs. One that was
    saved while `add` was about to change the list of songs, or had just done so, is neither.
    """
    damaged = []
    for step in saved_steps(run.path):
        if _is_whole(run, step, songs):
            return step, damaged
        if not _is_of_other_songs(run, step):
            damaged.append(step)
    if damaged:
        raise RunError(f"{run.path}: every checkpoint is damaged ({', '.join(map(str, damaged))}); train with --fresh")
    return None, []


def usable_step(run: Run, tell: Callable[[str], None] = print, songs: Sequence[int] | None = None) -> int:
    """The step of the newest checkpoint that is whole (for these `songs`); RunError where there is none yet.

    `tell` is called with a line where it is not the one at the end of training.
    """
    step, damaged = whole_step(run, songs)
    if step is None:
        raise RunError(f"{run.path}: nothing learned yet; train it first")
    reason = f"damaged checkpoint {', '.join(map(str, damaged))}; " if damaged else ""
    if damaged or step < run.total:
        tell(f"{run.path}: {reason}using the checkpoint at step {step:,} of {run.total:,}")
    return step


def restore(
    run: Run,
    step: int,
    mesh: Mesh | None = None,
    decoder: DecoderClass = Decoder,
    optimizer: OptimizerOf = make_optimizer,
) -> TrainState:
    """The whole state of a checkpoint, to go on training, over a mesh of devices; it may have been saved on others.

    One that a song was added to is at its end, and has no moments: they are those of a beginning. RunError where the
    run was trained with another decoder or optimizer.
    """
    check_component(run.path, "decoder", run.decoder, decoder)
    check_component(run.path, "optimizer", run.optimizer, optimizer)
    if not (_folder(run, step) / MOMENTS).exists():
        begun = init_state(jax.random.key(0), run.rows, run.config, decoder, optimizer)
        params, table = restore_model(run, step, decoder)
        state = begun._replace(step=jnp.int32(step), params=params, latents=pad_rows(jnp.asarray(table)))
        return place_state(state, mesh)
    found = _load(run, step, _parts(_abstract(run, mesh, decoder, optimizer)))
    moments = found[MOMENTS]
    return TrainState(
        found["step"]["step"], found["params"], moments["params"], found["latents"]["table"], moments["latents"]
    )


def restore_params(run: Run, step: int, decoder: DecoderClass = Decoder) -> Params:
    """The weights of a checkpoint. RunError where the run was trained with another decoder."""
    check_component(run.path, "decoder", run.decoder, decoder)
    return _load(run, step, {"params": _parts(_abstract(run, None, decoder))["params"]})["params"]


def restore_rows(run: Run, step: int, song: int) -> Float[np.ndarray, "row latent"]:
    """The rows of one song; no others are read but those that share its chunks."""
    return rows.read_song(_folder(run, step), run.row_starts, song)


def restore_table(run: Run, step: int) -> Float[np.ndarray, "row latent"]:
    """The rows of all songs, in order."""
    return rows.read_all(_folder(run, step), run.row_starts)


def restore_some_rows(run: Run, step: int, most: int) -> Float[np.ndarray, "row latent"]:
    """About `most` rows, spread evenly over all songs, or all rows where there are no more."""
    return rows.read_all(_folder(run, step), run.row_starts, every=-(-run.rows // most))


def restore_spread(run: Run, step: int) -> Float[np.ndarray, " latent"]:
    """The standard deviation of each number of a row over the table: the unit of noise."""
    shape = (run.config.model.latent_size,)
    abstract = jax.ShapeDtypeStruct(shape, np.float32, sharding=distributed.make_sharding(None, split=False))
    return np.asarray(_load(run, step, {"spread": {"spread": abstract}})["spread"]["spread"])


def restore_model(
    run: Run, step: int, decoder: DecoderClass = Decoder
) -> tuple[Params, Float[np.ndarray, "row latent"]]:
    """The weights, and the rows of all songs. RunError where the run was trained with another decoder."""
    return restore_params(run, step, decoder), restore_table(run, step)


def _folder(run: Run, step: int) -> Path:
    return run.path / "checkpoints" / str(step)


def _is_whole(run: Run, step: int, songs: Sequence[int] | None = None) -> bool:
    """Whether a checkpoint is as it was written, and of the run's songs; with `songs` whether what plays these is."""
    folder = _folder(run, step)
    with contextlib.suppress(OSError, ValueError):
        total_rows, files = integrity.read_manifest(folder)
        if total_rows != run.rows:
            return False
        if songs is None:
            return integrity.hash_files(folder) == files
        plays = rows.files_that_play(folder, run.row_starts, songs)
        return integrity.are_whole(folder, {name: sha256 for name, sha256 in files.items() if plays(name)})
    return False


def _is_of_other_songs(run: Run, step: int) -> bool:
    with contextlib.suppress(ValueError):
        return integrity.read_manifest(_folder(run, step))[0] != run.rows
    return False


@contextlib.contextmanager
def _checkpointer(run: Run) -> Iterator[Any]:
    """Orbax's manager of the run's checkpoints. It deletes what processes that were killed while saving have left."""
    with _quiet_orbax() as ocp:
        plain = ocp.Context()
        plain.array.saving.use_ocdbt, plain.array.saving.use_compression = False, False
        plain.array.saving.storage_options.chunk_byte_size = CHUNK_BYTES
        with ocp.training.Checkpointer(
            run.path / "checkpoints", context=plain, cleanup_tmp_directories=True
        ) as checkpointer:
            for found in checkpointer.checkpoints:
                if not found.path.with_suffix(".json").exists():
                    checkpointer.delete(found, missing_ok=True)
            for partial in (run.path / "checkpoints").glob(".*.json.*.partial"):
                partial.unlink(missing_ok=True)
            yield checkpointer


def _save(run: Run, step: int, parts: dict[str, Any], linked: int | None = None) -> None:
    """Writes parts, and the others of the `linked` step as links to them, as a checkpoint."""
    folder = _folder(run, step)
    with _checkpointer(run) as checkpointer:
        distributed.barrier(f"may save {step}")
        if distributed.is_coordinator():
            folder.with_suffix(".json").unlink(missing_ok=True)
        checkpointer.save_checkpointables(step, parts, force=True, overwrite=True)
        if distributed.is_coordinator():
            files = integrity.hash_files(folder)
            if linked is not None:
                files |= _link(_folder(run, linked), folder)
            sync(folder)  # Orbax leaves this to the system for some of its files and for all folders
            write_text(folder.with_suffix(".json"), integrity.seal({"rows": run.rows, "files": files}))
        distributed.barrier(f"saved {step}")
        steps = [found.step for found in checkpointer.checkpoints]
        kept = {*steps[-KEPT:], linked}  # what is linked stays until the run has its new song
        if distributed.is_coordinator():
            for old in {*saved_steps(run.path)} - kept:
                _folder(run, old).with_suffix(".json").unlink()
        for old in steps:
            if old not in kept:
                checkpointer.delete(old, missing_ok=True)


def _link(old: Path, new: Path) -> dict[str, str]:
    """Links into a checkpoint the parts that another has and it has not, but moments; returns their files' hashes."""
    _, known = integrity.read_manifest(old)
    parts = {part.name for part in old.iterdir() if part.is_dir()} - {part.name for part in new.iterdir()} - {MOMENTS}
    files = {name: sha256 for name, sha256 in known.items() if name.partition("/")[0] in parts}
    for name in files:
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(old / name, new / name)
        except OSError:  # a file system without links
            shutil.copyfile(old / name, new / name)
    return files


@contextlib.contextmanager
def _errors(run: Run, step: int, hope: str) -> Iterator[None]:
    """Turns what goes wrong while saving into SaveError."""
    try:
        yield
    except Exception as error:  # Orbax and the libraries below it raise many kinds for a full disk
        if jax.process_count() == 1:  # else it would wait for the others
            _clear(run)
        raise SaveError(f"{run.path}: step {step:,} could not be saved ({_in_short(error)}); {hope}") from error


def _clear(run: Run) -> None:
    """Deletes what a save that failed has left, also what Orbax's threads still write after that."""
    for _ in range(CLEARINGS):
        with contextlib.suppress(Exception), _checkpointer(run):
            pass  # opening it deletes
        time.sleep(0.05)
        if not any((run.path / "checkpoints").glob("*.orbax-checkpoint-tmp*")):
            return


def _in_short(error: Exception) -> str:
    number = getattr(error, "errno", None) or next(iter(re.findall(r"os_error_code='(\d+)'", str(error))), None)
    return os.strerror(int(number)) if number else f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def _abstract(
    run: Run, mesh: Mesh | None, decoder: DecoderClass, optimizer: OptimizerOf = make_optimizer
) -> TrainState:
    """The shapes of a run's state and how it lies over the devices of a mesh."""
    state = jax.eval_shape(lambda key: init_state(key, run.rows, run.config, decoder, optimizer), jax.random.key(0))

    def lies(part: Any, split: bool) -> Any:
        sharding = distributed.make_sharding(mesh, split)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), part)

    return TrainState(*lies(state[:3], split=False), *lies(state[3:], split=True))


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
        return ocp.load_checkpointables(_folder(run, step), abstract)


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
        logging.getLogger("asyncio").addFilter(_is_not_of_orbax)  # and tasks that this error refers to, when it goes
        raise
    finally:
        logging.disable(disabled)
        sys.unraisablehook = hook


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    """Where a thread of Orbax's could not write a file, only the traceback names Orbax."""
    error = record.exc_info[1] if record.exc_info else None
    return "orbax" not in record.getMessage() + "".join(traceback.format_exception(error) if error else ())
