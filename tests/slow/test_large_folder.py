"""A folder of 10,000 small files: read in reasonable time, and again from the cache; and stopped while it is read."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from conftest import SMALLEST, finish, make_song, start

from nemui_jax.config import Config
from nemui_jax.data import dataset
from nemui_jax.music import midi_writer

FILES = 10_000
FIRST_SECONDS, AGAIN_SECONDS = 120.0, 60.0  # on two shared cores; measured 8.3 and 7.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Each file is another song of some seconds."""
    folder = tmp_path_factory.mktemp("large")
    whole = midi_writer.encode(make_song([(beat * 0.25, beat * 0.25 + 0.2, 60 + beat * 5 % 17) for beat in range(40)]))
    place = whole.index(b"\x90") + 2  # of the first note's velocity
    for number in range(FILES):
        (folder / f"{number // 100:03d}").mkdir(exist_ok=True)
        changed = bytes([1 + number % 127]) + whole[place + 1 :]
        text = b"\x00\xff\x01\x04" + f"{number:04d}".encode()
        start = whole.index(b"MTrk") + 8
        length = int.from_bytes(whole[start - 4 : start], "big") + len(text)
        data = whole[: start - 4] + length.to_bytes(4, "big") + text + whole[start:place] + changed
        (folder / f"{number // 100:03d}" / f"{number}.mid").write_bytes(data)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("NEMUI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_ten_thousand_files(folder, cache, capsys):
    took = []
    for _ in range(2):
        began = time.monotonic()
        corpus, reports = dataset.load(folder, Config())
        took.append(time.monotonic() - began)
        assert len(corpus.entries) == len(reports) == FILES
    with capsys.disabled():
        print(f"\n{FILES:,} files: {took[0]:.1f} s, and {took[1]:.1f} s from the cache")
    assert took[0] < FIRST_SECONDS
    assert took[1] < AGAIN_SECONDS


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ProcessLookupError):
            continue
        if parent == pid:
            found.append(int(path.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["INT", "TERM", "KILL"])
def test_no_process_is_left_when_reading_is_stopped(folder, tmp_path, cache, number):
    """Several processes read. A terminal sends SIGINT to all of them; others send to one."""
    process = start("train", "--dir", folder, "--run", tmp_path / "run", settings=SMALLEST, start_new_session=True)
    while len(list(cache.glob("songs/*"))) < 100 and process.poll() is None:
        time.sleep(0.05)
    workers = children(process.pid)
    assert len(workers) >= min(2, len(os.sched_getaffinity(0)))
    began = time.monotonic()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    answer = finish(process)
    if number != signal.SIGKILL:
        assert time.monotonic() - began < 10
        assert (answer.code, answer.err) == (128 + number, "nemui: stopped\n")
        assert not (tmp_path / "run").exists()
    for _ in range(100):
        if not any(alive(worker) for worker in workers):
            break
        time.sleep(0.1)
    assert not any(alive(worker) for worker in workers)
    shutil.rmtree(cache)
