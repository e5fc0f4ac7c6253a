"""A training that is killed or told to stop at random moments loses nothing: real processes, real signals."""

import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from conftest import SMALLEST, Answer, finish, make_song, start

from nemui_jax.music import midi_writer
from nemui_jax.runs import checkpoint
from nemui_jax.runs.run import read_log, read_run, read_scores

TOTAL = 1000
KILLS, STOPS, LINES, ADDS, RACES = 50, 20, 20, 10, 5
LEAVE_SECONDS = 10.0
SAVED = "checkpoint saved at step "
SIGTERM_CAUGHT = 1 << signal.SIGTERM - 1


class Clean(NamedTuple):
    """A training that nobody interrupted."""

    path: Path
    seconds: float  # that a process took, with programs compiled before
    bytes: int  # of its run


def begin(songs: Path, run: Path, save_seconds: int = 0) -> subprocess.Popen[str]:
    flags = ("--steps", TOTAL, "--save-seconds", save_seconds)
    return start("train", "--dir", songs, "--run", run, *flags, settings=SMALLEST)


@pytest.fixture(scope="module")
def clean(songs_folder, tmp_path_factory) -> Clean:
    path, seconds = tmp_path_factory.mktemp("clean") / "run", 0.0
    for _ in range(2):  # the first compiles
        shutil.rmtree(path, ignore_errors=True)
        began = time.monotonic()
        answer = finish(begin(songs_folder, path))
        assert answer.code == 0, answer
        seconds = time.monotonic() - began
    return Clean(path, seconds, size(path))


def size(folder: Path) -> int:
    """Bytes on disk below a folder, of whatever is left of it while others write there."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def leftovers(run: Path) -> list[str]:
    """What a run holds besides what it is made of."""
    names = [str(path.relative_to(run)) for path in run.rglob("*")]
    step = r"checkpoints/\d+(/.*|\.json)?"
    whole = rf"songs(/[0-9a-f]{{64}}\.song)?|(run|scores)\.json|metrics\.jsonl|lock|checkpoints|{step}"
    odd = [name for name in names if not re.fullmatch(whole, name)]
    steps = {path.name for path in run.glob("checkpoints/*") if path.name.isdecimal()}
    odd += [name for name in steps if not (run / "checkpoints" / f"{name}.json").exists()]
    return odd


def assert_same_end(path: Path, other: Path) -> None:
    """Weights, rows, moments and step bit for bit; the log without its clock; recalls."""
    ends = []
    for run in (read_run(path), read_run(other)):
        step, damaged = checkpoint.whole_step(run)
        assert (step, damaged) == (TOTAL, [])
        log = [{name: value for name, value in row.items() if name != "seconds"} for row in read_log(run)]
        ends.append((checkpoint.restore(run, step), log, read_scores(run)))
    (state, log, recalls), (other_state, other_log, other_recalls) = ends
    assert (log, recalls) == (other_log, other_recalls)
    assert jax.tree.structure(state) == jax.tree.structure(other_state)
    for leaf, again in zip(jax.tree.leaves(state), jax.tree.leaves(other_state), strict=True):
        assert leaf.dtype == again.dtype
        assert np.asarray(leaf).tobytes() == np.asarray(again).tobytes()


@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_at_any_moment(songs_folder, clean, tmp_path, seed):
    """kill -9, up to three times in a training; then it is done once more, and no trace is left."""
    rng, run = random.Random(seed), tmp_path / "run"
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        process = begin(songs_folder, run)
        time.sleep(rng.uniform(0.2, clean.seconds))
        process.kill()
        process.communicate()
        folders = [path for path in run.glob("checkpoints/*") if path.is_dir()]
        unfinished = [path for path in folders if not path.with_name(f"{path.name}.json").exists()]
        assert len(unfinished) <= 1, unfinished
        assert size(run) <= 2 * clean.bytes
    answer = finish(begin(songs_folder, run))
    assert (answer.code, answer.err) == (0, "")
    assert_same_end(run, clean.path)
    assert leftovers(run) == []
    assert size(run) <= 1.1 * clean.bytes


def caught(process: subprocess.Popen[str]) -> bool:
    """Whether a process has come to the first lines of ours, where it begins to heed signals."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return bool(int(re.search(r"^SigCgt:\s*(\w+)", status, re.M)[1], 16) & SIGTERM_CAUGHT)


def running_for(make: Callable[[], subprocess.Popen[str]], seconds: float) -> subprocess.Popen[str]:
    """A process that has run for so long, or for half of it, ... if it is done before."""
    process = make()
    while not caught(process):
        time.sleep(0.005)
    time.sleep(seconds)
    if process.poll() is None:
        return process
    finish(process)
    shutil.rmtree(process.args[process.args.index("--run") + 1])
    return running_for(make, seconds / 2)


def stopped(process: subprocess.Popen[str], number: int) -> tuple[Answer, float]:
    """What a process answers to a signal, and how long it takes to leave."""
    began = time.monotonic()
    process.send_signal(number)
    answer = finish(process)
    return answer, time.monotonic() - began


@pytest.mark.parametrize("seed", range(ADDS))
def test_add_killed_at_any_moment(clean, tmp_path, seed):
    """kill -9 once the new song is kept, which is just before it counts: the run knows it whole, or not at all."""
    path, new = tmp_path / "run", tmp_path / "new.mid"
    shutil.copytree(clean.path, path)
    midi_writer.write(make_song([(0.2 * step, 0.2 * step + 0.15, 60 + step % 7, 80) for step in range(20)]), new)
    old, known = read_run(path), sorted(path.glob("songs/*"))
    table = checkpoint.restore_table(old, TOTAL)
    process = start("add", "--file", new, "--run", path)
    while process.poll() is None and sorted(path.glob("songs/*")) == known:
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 1.5))
    process.kill()
    process.communicate()
    assert size(path) <= 2 * clean.bytes
    run = read_run(path)
    step, damaged = checkpoint.whole_step(run)
    assert (step, damaged) == (run.total, [])
    np.testing.assert_array_equal(checkpoint.restore_table(run, run.total)[: old.rows], table)
    answer = finish(start("add", "--file", new, "--run", path))
    assert answer.code == (0 if len(run.entries) == len(old.entries) else 2), answer
    assert len(read_run(path).entries) == len(old.entries) + 1
    assert leftovers(path) == []


@pytest.mark.parametrize("seed", range(RACES))
def test_two_adds_at_once_lose_no_song(clean, tmp_path, seed):
    """Each either adds its song, or says which process is at it."""
    path = shutil.copytree(clean.path, tmp_path / "run")
    known, processes = len(read_run(path).entries), []
    for number in range(2):
        new = tmp_path / f"new{number}.mid"
        midi_writer.write(
            make_song([(0.2 * step, 0.2 * step + 0.15, 60 + number + step % 7) for step in range(20)]), new
        )
        processes.append(start("add", "--file", new, "--run", path))
        time.sleep(random.Random(seed).uniform(0, 6) * (number == 0))
    answers = [finish(process) for process in processes]
    names = [entry.name for entry in read_run(path).entries[known:]]
    assert sorted(names) == [f"new{number}" for number, answer in enumerate(answers) if answer.code == 0]
    assert len(names) >= 1
    for answer in answers:
        assert answer.code == 0 or re.search(r"^nemui: .* process \d+ is using this run; .*\n\Z", answer.err), answer


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("seed", range(STOPS))
def test_told_to_stop_at_any_moment(songs_folder, clean, tmp_path, number, seed, monkeypatch):
    """While it imports, reads, compiles, trains or saves; half of them without a cache, so that all of this is long."""
    rng, run = random.Random(100 + seed), tmp_path / "run"
    if seed % 2:
        monkeypatch.setenv("NEMUI_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache" / "programs"))
    process = running_for(
        lambda: begin(songs_folder, run, save_seconds=30), rng.uniform(0, clean.seconds * (1 + seed % 2))
    )
    answer, seconds = stopped(process, number)
    assert seconds < LEAVE_SECONDS
    if answer.code == 0:  # it had begun to end
        assert_same_end(run, clean.path)
        return
    assert answer.code == 128 + number, answer
    step = re.search(r"^stopped after step ([\d,]+), which is saved; .*\n\Z", answer.out, re.M)
    if step:
        assert answer.err == ""
        assert checkpoint.whole_step(read_run(run)) == (int(step[1].replace(",", "")), [])
    else:
        assert answer.err == "nemui: stopped\n" or f"{SAVED}{TOTAL}\n" in answer.out
    if run.exists():
        again = finish(begin(songs_folder, run))
        assert (again.code, again.err) == (0, "")
        assert_same_end(run, clean.path)


@pytest.mark.parametrize("seed", range(LINES))
def test_what_is_told_to_be_saved_is(songs_folder, tmp_path, seed):
    """Killed as soon as the line can be read."""
    rng, run = random.Random(200 + seed), tmp_path / "run"
    process, wanted = begin(songs_folder, run), rng.randrange(1, TOTAL // 50)
    assert process.stdout is not None
    said: list[int] = []
    for line in iter(process.stdout.readline, ""):
        if line.startswith(SAVED):
            said.append(int(line.removeprefix(SAVED)))
            if len(said) == wanted:
                break
    process.kill()
    process.communicate()
    assert len(said) == wanted
    found = read_run(run)
    step, damaged = checkpoint.whole_step(found)
    assert damaged == []
    assert step in (said[-1], said[-1] + 50)  # the next one may be whole by now
    assert int(checkpoint.restore(found, said[-1]).step) == said[-1]
    logged = [row["step"] for row in read_log(found)]
    assert logged[: said[-1] // 50] == list(range(50, said[-1] + 1, 50))
