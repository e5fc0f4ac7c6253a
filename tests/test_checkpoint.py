"""Checkpoints: what was saved comes back, and what is damaged is noticed."""

import asyncio
import dataclasses
import errno
import gc
import itertools
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALLEST
from damage import DAMAGES, contents, flip

from nemui_jax.data import dataset
from nemui_jax.errors import RunError, SaveError
from nemui_jax.runs import checkpoint, integrity, rows
from nemui_jax.runs.run import Run, create_run, read_run
from nemui_jax.training.step import TrainState, init_state


@pytest.fixture(scope="module")
def corpus(songs_folder) -> dataset.Corpus:
    return dataset.load(songs_folder, SMALLEST)[0]


@pytest.fixture(scope="module")
def model_run(corpus, tmp_path_factory) -> Run:
    """A run with checkpoints of steps 9 and 10; copied, never changed."""
    config = dataset.fit_pitches(SMALLEST, corpus)
    run = create_run(tmp_path_factory.mktemp("runs") / "model", config, 5, 300, corpus)
    for step in (9, 10):
        checkpoint.save(run, state_of(run, step))
    return run


@pytest.fixture
def run(model_run, tmp_path) -> Run:
    shutil.copytree(model_run.path, tmp_path / "run")
    return read_run(tmp_path / "run")


def state_of(run: Run, step: int) -> TrainState:
    """A state in which every number is another one, and other ones at every step."""
    shapes = jax.eval_shape(lambda key: init_state(key, run.rows, run.config), jax.random.key(0))
    rng = np.random.default_rng(step)

    def fill(leaf):
        values = rng.integers(0, 1000, leaf.shape) if leaf.dtype == jnp.int32 else rng.normal(size=leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return jax.tree.map(fill, shapes)._replace(step=jnp.int32(step))


def assert_equal(state, other) -> None:
    assert jax.tree.structure(state) == jax.tree.structure(other)
    for leaf, again in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        assert leaf.dtype == again.dtype
        np.testing.assert_array_equal(leaf, again)


# Saving


def test_a_state_returns_bit_for_bit(run):
    for step in (9, 10):
        assert_equal(checkpoint.restore(run, step), state_of(run, step))
    params, table = checkpoint.restore_model(run, 10)
    assert_equal((params, table), (state_of(run, 10).params, state_of(run, 10).latents[: run.rows]))
    np.testing.assert_allclose(checkpoint.restore_spread(run, 10), np.std(table, axis=0), rtol=1e-5)
    assert checkpoint.whole_step(run) == (10, [])  # as numbers: 10 is newer than 9


def test_a_song_is_read_without_the_others(run, monkeypatch):
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 64)  # four rows a chunk
    state = state_of(run, 20)
    checkpoint.save(run, state)
    chunks = run.path / "checkpoints/20" / rows.TABLE / "c"
    assert len(list(chunks.iterdir())) == len(state.latents) // 4
    for song, (start, end) in enumerate(itertools.pairwise(run.row_starts)):
        assert_equal(checkpoint.restore_rows(run, 20, song), np.asarray(state.latents[start:end]))

    for number in range(run.row_starts[1] // 4 + 1, len(state.latents) // 4):  # all that the first song does not need
        shutil.rmtree(chunks / str(number))
    shutil.rmtree(run.path / "checkpoints/20/moments")
    assert checkpoint.whole_step(run, songs=[0]) == (20, [])
    assert_equal(checkpoint.restore_rows(run, 20, 0), np.asarray(state.latents[: run.row_starts[1]]))
    assert checkpoint.whole_step(run, songs=[0, 1]) == (10, [20])
    assert checkpoint.whole_step(run) == (10, [20])

    flip(chunks / "0/0")
    assert checkpoint.whole_step(run, songs=[0]) == (10, [20])


@pytest.mark.parametrize("links", [True, False])
def test_an_added_song_is_written_alone(run, monkeypatch, links):
    if not links:  # as on a file system that has none
        monkeypatch.setattr(os, "link", failing)
    tables, learned = [checkpoint.restore_table(run, 10)], state_of(run, 10)
    for step in (20, 30, 40):
        old = max(checkpoint.saved_steps(run.path))
        run, drawn = grown(run, step), np.random.default_rng(step).normal(size=(run.rows, 4)).astype(np.float32)
        tables.append(drawn[: run.row_starts[-1] - run.row_starts[-2]])
        learned = state_of(run, step)
        assert checkpoint.append(run, old, learned.params, tables[-1]) == step
        before, after = (run.path / "checkpoints" / str(number) / rows.TABLE for number in (old, step))
        same = [os.path.samefile(before / name, after / name) for name in contents(before)]
        assert len(same) > 1 and all(same) == links and any(same) == links
    assert checkpoint.saved_steps(run.path) == [40, 30]
    assert checkpoint.whole_step(run) == checkpoint.whole_step(run, songs=[0, len(run.entries) - 1]) == (40, [])
    assert_equal(checkpoint.restore_model(run, 40), (learned.params, np.concatenate(tables)))
    for song, (start, end) in enumerate(itertools.pairwise(run.row_starts)):
        assert_equal(checkpoint.restore_rows(run, 40, song), np.concatenate(tables)[start:end])
    assert checkpoint.restore_spread(run, 40).shape == (4,)
    again = checkpoint.restore(run, 40)
    assert_equal((again.params, again.latents[: run.rows]), (learned.params, np.concatenate(tables)))
    assert int(again.step) == 40

    last = len(run.entries) - 1
    flip(next(run.path.glob(f"checkpoints/40/song-{last}/rows/c/*/*")))
    assert checkpoint.whole_step(run, songs=[0, last - 1]) == (40, [])
    with pytest.raises(RunError, match="damaged"):
        checkpoint.whole_step(run, songs=[last])


def test_an_added_song_that_is_not_yet_in_the_run_costs_no_checkpoint(run):
    """The newest one is damaged, and the process is killed before it changes run.json."""
    flip(next((run.path / "checkpoints/10").rglob("_METADATA")))
    new = grown(run, 20)
    checkpoint.append(new, 9, state_of(run, 20).params, np.zeros((new.rows - run.rows, 4), np.float32))
    assert checkpoint.whole_step(new) == (20, [])
    assert checkpoint.whole_step(run) == (9, [10])


def grown(run: Run, total: int) -> Run:
    """The run with its first song once more, as if it were another."""
    entry = dataclasses.replace(run.entries[0], sha256=f"{total:064x}")
    return dataclasses.replace(run, total=total, entries=(*run.entries, entry))


def failing(*_: object) -> None:
    raise OSError(errno.EPERM, "no links here")


def test_the_newest_stay(run):
    assert checkpoint.save(run, state_of(run, 100)) == 100
    assert checkpoint.saved_steps(run.path) == [100, 10]
    assert {path.name for path in (run.path / "checkpoints").iterdir()} == {"10", "10.json", "100", "100.json"}
    assert_equal(checkpoint.restore(run, 100), state_of(run, 100))


def test_a_whole_checkpoint_is_not_written_again(run):
    before = contents(run.path)
    assert checkpoint.save(run, state_of(run, 10)._replace(latents=jnp.zeros((run.rows, 4)))) == 10
    assert contents(run.path) == before


def test_without_hashes_a_checkpoint_does_not_count(run):
    folder = run.path / "checkpoints"
    shutil.copytree(folder / "10", folder / "20")  # as left by a process that was killed
    (folder / "20" / "half").write_bytes(b"rest of something")
    (folder / "notes.json").write_text("{}")
    assert checkpoint.saved_steps(run.path) == [10, 9]
    assert checkpoint.whole_step(run) == (10, [])
    checkpoint.save(run, state_of(run, 20))
    assert checkpoint.whole_step(run) == (20, [])
    assert_equal(checkpoint.restore(run, 20), state_of(run, 20))


def test_leftovers_of_killed_processes_go_with_the_next_save(run):
    folder = run.path / "checkpoints"
    for name in ("20.orbax-checkpoint-tmp", "30.orbax-checkpoint-tmp-1", "20", "7"):
        shutil.copytree(folder / "10", folder / name)
    (folder / ".20.json.7-0a.partial").write_text("{")
    (folder / "mine").mkdir()
    checkpoint.save(run, state_of(run, 40))
    assert {path.name for path in folder.iterdir()} == {"10", "10.json", "40", "40.json", "mine"}
    assert_equal(checkpoint.restore(run, 10), state_of(run, 10))


def test_what_is_saved_is_on_the_disk(run, monkeypatch):
    """Every file and folder of a checkpoint is synced before its hashes, and these before `save` returns."""
    synced: list[Path] = []
    fsync = os.fsync

    def watch(number: int) -> None:
        fsync(number)
        synced.append(Path(os.readlink(f"/proc/self/fd/{number}")))

    monkeypatch.setattr(os, "fsync", watch)
    checkpoint.save(run, state_of(run, 40))
    folder = run.path / "checkpoints"
    hashes = next(place for place, path in enumerate(synced) if path.name.startswith(".40.json."))
    assert {folder / "40", *(folder / "40").rglob("*"), folder} <= set(synced[:hashes])
    assert folder in synced[hashes:]


def test_a_save_that_fails_leaves_the_older_ones(run, monkeypatch):
    before = contents(run.path)

    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "sync", fail)
        told = r"step 20 could not be saved \(No space left on device\); steps saved before are whole"
        with pytest.raises(SaveError, match=told):
            checkpoint.save(run, state_of(run, 20))
    assert contents(run.path) == before
    assert checkpoint.whole_step(run) == (10, [])
    checkpoint.save(run, state_of(run, 20))
    assert checkpoint.whole_step(run) == (20, [])


WRITE = "def write(): raise OSError(27, 'File too large')"


@pytest.mark.parametrize(("library", "shown"), [("orbax", 0), ("uvicorn", 1)])
def test_threads_of_a_save_that_failed_are_not_heard_later_and_others_are(caplog, library, shown):
    """A file that one of Orbax's threads could not write, when nobody waits for it any more."""
    with pytest.raises(OSError, match="full"), checkpoint._quiet_orbax():
        raise OSError("full")
    names: dict = {}
    exec(compile(WRITE, f"/site-packages/{library}/paths.py", "exec"), names)

    async def forgotten() -> None:
        with pytest.raises(OSError, match="too large") as caught:
            names["write"]()
        asyncio.get_running_loop().create_future().set_exception(caught.value)

    asyncio.run(forgotten())
    gc.collect()
    assert caplog.text.count("Future exception was never retrieved") == shown


def test_no_checkpoint(run):
    shutil.rmtree(run.path / "checkpoints")
    assert checkpoint.saved_steps(run.path) == []
    assert checkpoint.whole_step(run) == (None, [])


# Damage


@pytest.mark.parametrize("damage", DAMAGES, ids=["flipped", "cut", "zeroed", "deleted"])
def test_any_damage_to_the_newest_is_noticed(run, damage):
    folder = run.path / "checkpoints" / "10"
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 5
    for path in files:
        data = path.read_bytes()
        damage(path)
        assert checkpoint.whole_step(run) == (9, [10]), path
        path.write_bytes(data)
    assert checkpoint.whole_step(run) == (10, [])
    assert_equal(checkpoint.restore(run, 9), state_of(run, 9))


def test_a_file_too_many_and_a_folder_too_few_are_noticed(run):
    (run.path / "checkpoints" / "10" / "more").write_bytes(b"")
    assert checkpoint.whole_step(run) == (9, [10])
    shutil.rmtree(run.path / "checkpoints" / "10")
    assert checkpoint.whole_step(run) == (9, [10])


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "\ud800"], ids=repr)
def test_damaged_hashes_are_noticed(run, text):
    (run.path / "checkpoints" / "10.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert checkpoint.whole_step(run) == (9, [10])


def test_any_flipped_bit_of_the_hashes_is_noticed(run):
    path = run.path / "checkpoints" / "10.json"
    data = path.read_bytes()
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]
        if changed.split() != data.split():  # else it is white space that became another
            with pytest.raises(ValueError, match=r"\w"):
                integrity.unseal(json.loads(changed))
    path.write_bytes(changed)
    assert checkpoint.whole_step(run) == (9, [10])


@pytest.mark.parametrize(
    "change",
    [{"rows": "3"}, {"rows": None}, {"files": None}, {"files": []}, {"files": {"a": 1}}, {"files": {"": ""}}],
    ids=str,
)
def test_hashes_of_other_types_are_noticed(run, change):
    """With a checksum that is right."""
    path = run.path / "checkpoints" / "10.json"
    body = integrity.unseal(json.loads(path.read_text()))
    path.write_text(integrity.seal(body | change))
    assert checkpoint.whole_step(run) == checkpoint.whole_step(run, songs=[0]) == (9, [10])
    for name in body:
        path.write_text(integrity.seal({other: value for other, value in body.items() if other != name}))
        assert checkpoint.whole_step(run) == checkpoint.whole_step(run, songs=[0]) == (9, [10])


@pytest.mark.parametrize("name", ["../../mine", "{folder}/mine", "params/../../../mine"])
def test_hashes_of_files_elsewhere_are_refused(run, name):
    """With a checksum that is right, a file that is there, and its hash."""
    folder = run.path / "checkpoints" / "10"
    (run.path / "mine").write_bytes(b"not a run's")
    files = integrity.hash_files(folder)
    files[name.format(folder=run.path)] = integrity.hash_files(run.path)["mine"]
    folder.with_suffix(".json").write_text(integrity.seal({"rows": run.rows, "files": files}))
    with pytest.raises(ValueError, match="names a file outside its folder"):
        integrity.read_manifest(folder)
    assert checkpoint.whole_step(run, songs=[0]) == (9, [10])
    with pytest.raises(SaveError, match="names a file outside its folder"):
        checkpoint.append(grown(run, 20), 10, state_of(run, 20).params, np.zeros((2, 4), np.float32))
    assert checkpoint.saved_steps(run.path) == [10, 9]


def test_all_damaged(run):
    for step in ("9", "10"):
        flip(max((run.path / "checkpoints" / step).rglob("*"), key=lambda path: path.stat().st_size))
    before = contents(run.path)
    with pytest.raises(RunError, match=r"every checkpoint is damaged \(10, 9\); train with --fresh"):
        checkpoint.whole_step(run)
    assert contents(run.path) == before


def test_training_on_from_an_older_checkpoint(run):
    """The damaged one is in nobody's way, and is replaced when training comes by."""
    shutil.rmtree(run.path / "checkpoints" / "9")
    (run.path / "checkpoints" / "9.json").unlink()
    checkpoint.save(run, state_of(run, 30))
    flip(next((run.path / "checkpoints" / "30").rglob("_METADATA")))
    assert checkpoint.whole_step(run) == (10, [30])
    for step in (20, 25):
        checkpoint.save(run, state_of(run, step))
        assert checkpoint.whole_step(run) == (step, [30])
        assert_equal(checkpoint.restore(run, step), state_of(run, step))
    checkpoint.save(run, state_of(run, 30))
    assert checkpoint.whole_step(run) == (30, [])
    assert_equal(checkpoint.restore(run, 30), state_of(run, 30))


def test_an_older_checkpoint_is_announced(run):
    """Whether the newest is damaged or gone, or training has not ended."""

    def announced(run: Run) -> list[str]:
        lines: list[str] = []
        checkpoint.usable_step(run, lines.append)
        return lines

    finished = dataclasses.replace(run, total=10)
    assert announced(finished) == []
    assert announced(run) == [f"{run.path}: using the checkpoint at step 10 of 300"]
    flip(next((run.path / "checkpoints/10").rglob("_METADATA")))
    assert announced(finished) == [f"{run.path}: damaged checkpoint 10; using the checkpoint at step 9 of 10"]
    shutil.rmtree(run.path / "checkpoints/10")
    (run.path / "checkpoints/10.json").unlink()
    assert announced(finished) == [f"{run.path}: using the checkpoint at step 9 of 10"]


def test_fingerprint_tells_checkpoints_apart(run):
    assert run.fingerprint(9) != run.fingerprint(10)
    assert run.fingerprint(10) == read_run(run.path).fingerprint(10)
    assert len(run.fingerprint(10)) == 12
