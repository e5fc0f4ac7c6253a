"""What a shell may complete."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from nemui_jax.runs.run import read_run


def completions(line: str, tmp_path: Path) -> set[str]:
    """What could complete a line, by the protocol of argcomplete."""
    told = tmp_path / "told"
    settings = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(told),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line.encode())),
    }
    subprocess.run([sys.executable, "run.py"], cwd=ROOT, env=os.environ | settings, check=True)
    return {word.strip() for word in told.read_text().split("\n") if word.strip()}


def test_completion_of_commands_and_flags(tmp_path):
    assert {"train", "sample", "plots"} <= completions("run.py ", tmp_path)
    assert completions("run.py sa", tmp_path) == {"sample"}
    assert completions("run.py train --ten", tmp_path) == {"--tensorboard"}
    assert completions("run.py train --preset o", tmp_path) == {"original"}


def test_completion_of_names_of_songs(trained, tmp_path):
    line = f"run.py sample --run {trained.path} "
    names = {entry.name for entry in read_run(trained.path).entries}
    assert len(names) == 3
    assert {name.replace("\\ ", " ") for name in completions(f"{line}--song ", tmp_path)} == names
    assert completions(f"{line}--mix rub", tmp_path) == {"rubato"}
    assert completions(f"{line}--morph repeats,r", tmp_path) == {"repeats,repeats", "repeats,rubato"}
    assert completions(f"run.py sample --run {tmp_path} --song ", tmp_path) == set()


@pytest.mark.parametrize("path", ["run.py", "nemui_jax/cli/main.py"])
def test_shells_know_that_it_completes(path):
    assert b"PYTHON_ARGCOMPLETE_OK" in (ROOT / path).read_bytes()[:1024]
