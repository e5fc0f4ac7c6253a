"""Disks that are full or read-only, and limits on files: refused early, or one line and nothing lost.

Disks are small tmpfs mounts, which only root can make; where that is refused these tests are skipped.
"""

import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import ROOT, SMALLEST, TINY, Answer, finish, start

from nemui_jax.music import midi_reader, midi_writer
from nemui_jax.runs import checkpoint
from nemui_jax.runs.run import read_run, read_scores

TOTAL = 1000


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"cannot mount: {mount.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(disk: Path, left: int = 0) -> None:
    """Takes all room on a disk, but for so many bytes."""
    with open(disk / "filler", "wb", buffering=0) as file:
        file.write(bytes(max(shutil.disk_usage(disk).free - left, 0)))


def train(songs: Path, run: Path) -> Answer:
    return finish(start("train", "--dir", songs, "--run", run, "--steps", TOTAL, settings=SMALLEST))


def saved_100(songs: Path, run: Path) -> subprocess.Popen[str]:
    """A training that goes on, and has printed that step 100 is saved."""
    flags = ("--steps", TOTAL, "--save-seconds", 0)
    process = start("train", "--dir", songs, "--run", run, *flags, settings=SMALLEST)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("checkpoint saved at step 100"):
        assert process.poll() is None
    return process


def told_in_one_line(answer: Answer, code: int, *parts: str) -> None:
    assert answer.code == code, answer
    assert answer.err.count("\n") == 1, answer.err
    for part in ("nemui: ", *parts):
        assert part in answer.err


def test_too_small_a_disk_is_refused_before_training(songs_folder, disk):
    fill(disk, left=120_000)
    answer = train(songs_folder, disk / "run")
    told_in_one_line(answer, 2, "the run needs 0.2 MiB, and 0.1 MiB are free; make room or name another --run")
    assert [path.name for path in disk.iterdir()] == ["filler"]


def test_a_disk_that_fills_up_costs_what_was_not_saved(songs_folder, disk, tmp_path):
    assert train(songs_folder, tmp_path / "clean").code == 0
    run = disk / "run"
    process = saved_100(songs_folder, run)
    fill(disk)
    answer = finish(process)
    assert answer.code == 1, answer
    assert answer.err.count("\n") == 1, answer.err
    assert "No space left on device" in answer.err
    step, damaged = checkpoint.whole_step(read_run(run))
    assert step is not None and 100 <= step < TOTAL
    assert damaged == []
    assert {path.name.removesuffix(".json") for path in (run / "checkpoints").iterdir()} <= {str(step), str(step - 50)}

    (disk / "filler").unlink()
    again = train(songs_folder, run)
    assert (again.code, again.err) == (0, "")
    assert f"continues after step {step:,} of 1,000" in again.out
    states = [checkpoint.restore(read_run(path), TOTAL) for path in (run, tmp_path / "clean")]
    for leaf, other in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(leaf, other)
    recalls = [read_scores(read_run(path)) for path in (run, tmp_path / "clean")]
    assert recalls[0] == recalls[1]


def limited(process: subprocess.Popen[str], size: int) -> subprocess.Popen[str]:
    """A process that from now on may not write files of more bytes."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    return process


def test_a_limit_on_files_is_refused_before_training(songs_folder, tmp_path):
    process = start("train", "--dir", songs_folder, "--run", tmp_path / "run", settings=SMALLEST)
    answer = finish(limited(process, 4000))
    told_in_one_line(answer, 2, "the run has files of", "and the limit is 4,000; raise it (ulimit -f) or name another")
    assert not (tmp_path / "run").exists()


def test_a_limit_that_is_met_later_costs_what_was_not_saved(songs_folder, tmp_path):
    """The limit comes while the process trains."""
    run = tmp_path / "run"
    process = saved_100(songs_folder, run)
    answer = finish(limited(process, 100))
    told_in_one_line(answer, 1, "File too large")
    step, damaged = checkpoint.whole_step(read_run(run))
    assert step is not None and 100 <= step < TOTAL
    assert damaged == []
    again = train(songs_folder, run)
    assert (again.code, again.err) == (0, "")


FAILING_SAVES = """
import gc, json, resource, sys
from pathlib import Path
import jax, jax.numpy as jnp
from nemui_jax.errors import SaveError
from nemui_jax.runs import checkpoint, run
from nemui_jax.training.step import init_state
found = run.read_run(Path(sys.argv[1]))
state = init_state(jax.random.key(0), found.rows, found.config)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for step in range(found.total + 1, found.total + 11):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
    try:
        checkpoint.save(found, state._replace(step=jnp.int32(step)))
    except SaveError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        print(error)
    gc.collect()
"""


@pytest.mark.parametrize("limit", [100, 5000])
def test_saves_that_fail_leave_nothing_and_say_one_line(trained, tmp_path, limit):
    """Orbax writes in several threads, of which some fail later than others."""
    path = shutil.copytree(trained.path, tmp_path / "run")
    before = {item.name for item in (path / "checkpoints").iterdir()}
    command = [sys.executable, "-c", FAILING_SAVES, str(path), str(limit)]
    answer = finish(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    assert (answer.code, answer.err) == (0, "")
    assert len(answer.out.splitlines()) == answer.out.count("could not be saved (File too large); steps") == 10
    assert {item.name for item in (path / "checkpoints").iterdir()} == before


def sample(run: Path, out: Path) -> Answer:
    return finish(start("sample", "--run", run, "--mix", "0:0.5,1:0.5", "--out", out, settings=TINY))


@pytest.mark.parametrize("out", ["a.mid", "folder"])
def test_sampling_to_a_full_disk_leaves_nothing(trained, disk, out):
    fill(disk)
    told_in_one_line(sample(trained.path, disk / out), 1, "No space left on device")
    assert [path for path in disk.rglob("*") if path.is_file()] == [disk / "filler"]


def test_sampling_under_a_limit_leaves_nothing(trained, tmp_path):
    process = start("sample", "--run", trained.path, "--song", "0", "--out", tmp_path / "a.mid", settings=TINY)
    answer = finish(limited(process, 100))
    told_in_one_line(answer, 1, "File too large")
    assert list(tmp_path.iterdir()) == []


def test_a_full_cache_is_in_nobody_s_way(songs_folder, disk, tmp_path, monkeypatch):
    """Also not later, for what half fitted there."""
    monkeypatch.setenv("NEMUI_CACHE", str(disk))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(disk / "programs"))
    fill(disk, left=20_000)
    for name in ("first", "second"):
        answer = train(songs_folder, tmp_path / name)
        assert (answer.code, answer.err) == (0, "")
    (disk / "filler").unlink()
    assert train(songs_folder, tmp_path / "third").err == ""
    for name in ("second", "third"):
        for path in (tmp_path / "first" / "checkpoints").rglob("c/*"):
            if path.is_file():
                other = tmp_path / name / path.relative_to(tmp_path / "first")
                assert other.read_bytes() == path.read_bytes()


def test_a_read_only_disk(trained, songs_folder, disk, tmp_path):
    """Runs there can be played, not trained."""
    shutil.copytree(trained.path, disk / "run")
    midi_writer.write(midi_reader.read(songs_folder / "rubato.mid"), disk / "out.mid")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for run in ("run", "new", "deep/new"):
        told_in_one_line(train(songs_folder, disk / run), 2, "cannot be written (Read-only file system); name another")
    for out in (disk / "out.mid", disk / "new.mid", disk / "new"):
        told_in_one_line(sample(trained.path, out), 1, "Read-only file system")
    answer = sample(disk / "run", tmp_path / "a.mid")
    assert (answer.code, answer.err) == (0, "")
    assert len(midi_reader.read(tmp_path / "a.mid").notes)


def test_a_file_where_a_folder_should_be(songs_folder, tmp_path):
    """No rights help against that, so root meets it too."""
    (tmp_path / "file").write_bytes(b"mine")
    answer = train(songs_folder, tmp_path / "file" / "run")
    told_in_one_line(answer, 2, "a file stands there; name another --run")
    assert (tmp_path / "file").read_bytes() == b"mine"
