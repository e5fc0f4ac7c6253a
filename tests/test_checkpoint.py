"""Runs and checkpoints: what was saved comes back, what is damaged is noticed, and one process writes."""

import dataclasses
import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, SMALLEST

from nemui_jax.data import cache, dataset, layout
from nemui_jax.errors import RunError, SaveError
from nemui_jax.files import write_text
from nemui_jax.runs import checkpoint
from nemui_jax.runs.run import (
    FORMAT,
    Run,
    create_run,
    lock_run,
    read_log,
    read_run,
    run_exists,
    set_aside,
    song_differences,
)
from nemui_jax.training.step import TrainState, init_state


@pytest.fixture(scope="module")
def corpus(songs_folder) -> dataset.Corpus:
    return dataset.load(songs_folder, SMALLEST.roll)[0]


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


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
    chunks = run.path / "checkpoints/20" / checkpoint.TABLE / "c"
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
        run, rows = grown(run, step), np.random.default_rng(step).normal(size=(run.rows, 4)).astype(np.float32)
        tables.append(rows[: run.row_starts[-1] - run.row_starts[-2]])
        learned = state_of(run, step)
        assert checkpoint.append(run, old, learned.params, tables[-1]) == step
        before, after = (run.path / "checkpoints" / str(number) / checkpoint.TABLE for number in (old, step))
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


def test_no_checkpoint(run):
    shutil.rmtree(run.path / "checkpoints")
    assert checkpoint.saved_steps(run.path) == []
    assert checkpoint.whole_step(run) == (None, [])


# Damage


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES: list[Callable[[Path], None]] = [flip, cut, zero, Path.unlink]


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
    """The rows that a checkpoint says it has are in the same file."""
    path = run.path / "checkpoints" / "10.json"
    data = path.read_bytes()
    for place in range(data.index(b'"rows"'), data.index(b'"rows"') + 12):
        for bit in range(8):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            assert checkpoint.whole_step(run) in ((10, []), (9, [10])), path.read_bytes()[:20]


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


def test_fingerprint_tells_checkpoints_apart(run):
    assert run.fingerprint(9) != run.fingerprint(10)
    assert run.fingerprint(10) == read_run(run.path).fingerprint(10)
    assert len(run.fingerprint(10)) == 12


# Runs


def test_a_run_returns(model_run, run, corpus):
    assert (run.config, run.seed, run.total, run.entries) == (model_run.config, 5, 300, corpus.entries)
    again = run.corpus()
    for song, source in zip(again.songs, corpus.songs, strict=True):
        for name in ("notes", "pedal", "tempos", "meters"):
            np.testing.assert_array_equal(getattr(song, name), getattr(source, name))
        assert song.name == source.name
    assert again.fingerprint() == corpus.fingerprint()
    assert run.rows == int(layout.corpus_queries(corpus.lengths, run.config).row.max()) + 1


def test_a_run_can_be_moved(run, tmp_path, monkeypatch):
    run.path.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    moved = read_run(Path("elsewhere"))  # Orbax takes no relative path
    assert checkpoint.whole_step(moved) == (10, [])
    assert_equal(checkpoint.restore(moved, 10), state_of(run, 10))


def test_a_run_half_created_is_none(corpus, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("nemui_jax.runs.run.write_manifest", fail)
    with pytest.raises(OSError, match="disk full"):
        create_run(tmp_path / "run", SMALLEST, 0, 1, corpus)
    assert not run_exists(tmp_path / "run")
    with pytest.raises(RunError, match=r"no run here; make one with: python run\.py train"):
        read_run(tmp_path / "run")


def test_checkpoints_of_nobody_knows_what_are_not_taken_over(run, corpus):
    (run.path / "run.json").unlink()
    before = contents(run.path)
    with pytest.raises(RunError, match=r"holds checkpoints but no run\.json; name another --run"):
        create_run(run.path, run.config, 0, 1, corpus)
    assert contents(run.path) == before


def edit(path: Path, **changes) -> None:
    what = json.loads((path / "run.json").read_text())
    what["config"] |= changes.pop("config", {})
    (path / "run.json").write_text(json.dumps(what | changes))


def test_a_newer_format_is_refused(run):
    edit(run.path, format=FORMAT + 1)
    with pytest.raises(RunError, match=r"format \d is newer than this program's \d; update"):
        read_run(run.path)


def test_an_older_format_is_refused(run):
    edit(run.path, format=FORMAT - 1)
    with pytest.raises(RunError, match=r"older program's; train its folder again, with --fresh"):
        read_run(run.path)


@pytest.mark.parametrize("text", ["", "{", "[]" * 2, "null", "3", '{"format": "new"}', '[{"name": 1}]', "\ud800"])
def test_a_damaged_description_is_refused(run, text):
    (run.path / "run.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        read_run(run.path)


@pytest.mark.parametrize("change", [{"songs": [{"name": "x"}]}, {"songs": None}, {"config": {"model": None}}])
def test_a_description_of_something_else_is_refused(run, change):
    edit(run.path, **change)
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        read_run(run.path)


def test_an_unknown_field_is_refused(run):
    edit(run.path, config={"model": {"layers": 2}})
    with pytest.raises(RunError, match=r"damaged.*layers"):
        read_run(run.path)


@pytest.mark.parametrize("damage", DAMAGES[1:], ids=["cut", "zeroed", "deleted"])
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # see test_dataset
def test_a_damaged_song_is_named(run, damage):
    damage(run.path / "songs" / f"{run.entries[1].sha256}.npz")
    with pytest.raises(RunError, match="its copy of song 1 is damaged"):
        run.song(1)
    assert len(run.song(0).notes) == run.entries[0].notes


def test_metrics_without_what_a_crash_cut_off(run):
    assert read_log(run) == []
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_log(run) == [{"step": 1}, {"step": 2}]


def test_write_text_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file.json"
    write_text(path, "old")

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            write_text(path, "new")
    assert path.read_text() == "old"
    write_text(path, "new")
    assert contents(tmp_path) == {"new/file.json": b"new"}


def test_song_differences(corpus):
    one, two, three = corpus.entries
    assert song_differences([one, two], [one, two]) == ""
    assert song_differences([one], [one, two]) == "1 new (repeats)"
    assert song_differences([one, two, three], [three]) == "2 gone (a chorale, ...)"
    assert song_differences([one], [two]) == "1 gone (a chorale), 1 new (repeats)"
    assert song_differences([one, two], [two, one]) == "in another order"


def test_set_aside_keeps_everything(run):
    before = contents(run.path)
    with lock_run(run.path):
        first = set_aside(run.path)
        assert contents(first) == before
        assert [path.name for path in run.path.iterdir()] == ["lock"]
        (run.path / "run.json").write_text("second")
        second = set_aside(run.path)
    assert (first.name, second.name) == ("run.old-1", "run.old-2")
    assert contents(first) == before
    assert contents(second) == {"run.json": b"second"}


# The lock


def test_one_process_writes(run):
    with lock_run(run.path):
        with (
            pytest.raises(RunError, match=f"process {os.getpid()} is using this run; wait for it or name another"),
            lock_run(run.path),
        ):
            pass
        assert (run.path / "lock").read_text() == str(os.getpid())  # still ours
    with lock_run(run.path):
        pass


def test_another_process_is_named_and_a_dead_one_is_not_in_the_way(run):
    program = "import sys; from pathlib import Path; from nemui_jax.runs import run\n"
    program += "with run.lock_run(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", program, run.path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"process {holder.pid} is using this run"), lock_run(run.path):
            pass
        holder.kill()
        holder.communicate()
    assert (run.path / "lock").read_text() == str(holder.pid)  # stale
    with lock_run(run.path):
        assert (run.path / "lock").read_text() == str(os.getpid())


def test_a_lock_leaves_no_folder_without_a_run(tmp_path, run):
    with lock_run(tmp_path / "none"):
        (tmp_path / "none" / "songs").mkdir()
    assert not (tmp_path / "none").exists()
    before = contents(run.path)
    with lock_run(run.path):
        pass
    assert contents(run.path) | {"lock": b""} == before | {"lock": b""}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("not a run's")
    with lock_run(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine" / "letter.txt").exists()


def test_a_person_s_own_songs_beside_the_lock_stay(tmp_path, corpus):
    """`train --dir music/songs --run music` that fails before there is a run."""
    (tmp_path / "music" / "songs").mkdir(parents=True)
    (tmp_path / "music" / "songs" / "mine.mid").write_bytes(b"a life's work")
    with lock_run(tmp_path / "music"):
        copy = tmp_path / "music" / "songs" / f"{corpus.entries[0].sha256}.npz"
        cache.save_song(copy, corpus.songs[0], corpus.entries[0].sha256)
    assert contents(tmp_path / "music") | {"lock": b""} == {"songs/mine.mid": b"a life's work", "lock": b""}
