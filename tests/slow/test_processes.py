"""Two processes train together."""

import contextlib
import signal
import socket
import subprocess
from pathlib import Path

from conftest import TINY, finish, start

from nemui_jax.config import Config
from nemui_jax.runs import checkpoint
from nemui_jax.runs.run import read_run


def together(folder: Path, run: Path, settings: Config, port: int) -> list[subprocess.Popen[str]]:
    """Two processes that train together."""
    return [
        start(
            *("train", "--dir", folder, "--run", run, "--coordinator", f"127.0.0.1:{port}"),
            *("--num-processes", "2", "--process-id", number, "--save-seconds", "0"),
            settings=settings,
        )
        for number in (0, 1)
    ]


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_train_are_killed_go_on_and_are_sampled(songs_folder, tmp_path):
    run = tmp_path / "run"
    first = together(songs_folder, run, TINY, free_port())
    assert first[0].stdout is not None
    for line in first[0].stdout:
        if line.startswith("checkpoint saved"):
            break
    for process in first:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    saved, _ = checkpoint.whole_step(read_run(run))
    assert saved is not None

    again = [finish(process) for process in together(songs_folder, run, TINY, free_port())]
    assert [answer.code for answer in again] == [0, 0], again[0].err + again[1].err
    assert f"continues after step {saved}" in again[0].out
    assert again[1].out == ""  # the first tells for both
    answer = finish(start("sample", "--run", run, "--song", "0", "--out", tmp_path / "out.mid", settings=TINY))
    assert answer.code == 0, answer.err
    assert (tmp_path / "out.mid").exists()
