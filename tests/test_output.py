"""What commands print: for people, for machines, with --quiet; and the pictures of `plots`."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import ROOT, SMALLEST, call

from nemui_jax.music import midi_reader
from nemui_jax.runs.run import read_log, read_run, read_scores, write_manifest


@pytest.mark.trains
def test_a_quiet_training_prints_where_the_run_is(songs_folder, tmp_path):
    flags = ("train", "--dir", songs_folder, "--run", tmp_path / "run", "--steps", 50)
    answer = call(*flags, "--quiet", settings=SMALLEST)
    assert answer == (0, f"{tmp_path / 'run'}\n", "")
    assert call(*flags, "--seed", 1, "--quiet", settings=SMALLEST).err.startswith("nemui: ")


@pytest.mark.trains
def test_training_as_json(songs_folder, tmp_path):
    flags = ("train", "--dir", songs_folder, "--run", tmp_path / "run", "--steps", 100, "--json")
    answer = call(*flags, settings=SMALLEST)
    result = json.loads(answer.out)
    assert "files used" in answer.err
    log, recalls = read_log(read_run(tmp_path / "run")), read_scores(read_run(tmp_path / "run"))
    assert (result["step"], result["total"], result["done"], result["songs"]) == (100, 100, True, 3)
    assert result["loss"] == log[-1]["loss"]
    for name in ("onset", "offset", "velocity", "pedal"):
        assert result["note_f1"][name] == pytest.approx(np.mean([song[name] for song in recalls]))
    again = call(*flags, "--quiet", settings=SMALLEST)  # there is nothing left to learn
    assert again.err == ""
    assert json.loads(again.out)["note_f1"] == result["note_f1"]


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_errors_of_quiet_commands(tmp_path, flags):
    answer = call("train", "--dir", tmp_path / "none", "--quiet", *flags)
    assert (answer.code, answer.out) == (2, "")
    assert "no such folder" in answer.err


def test_samples_as_json(trained, tmp_path):
    flags = ("--run", trained.path, "--out", tmp_path / "out", "--json")
    answer = call("sample", "--perturb", "0:0.1", "--count", 2, "--seed", 5, "--png", *flags)
    result = json.loads(answer.out)
    assert [(piece["kind"], piece["seed"]) for piece in result] == [("mix", 5), ("mix", 6)]
    for piece in result:
        song = midi_reader.read(Path(piece["path"]))
        assert piece["notes"] == len(song.notes)
        assert piece["seconds"] == pytest.approx(song.seconds, abs=0.01)
        assert [Path(path).suffix for path in piece["also"]] == [".png"]
        assert Path(piece["also"][0]).exists()
        assert f"{piece['path']}: " in answer.err


def test_quiet_samples_print_their_paths(trained, tmp_path):
    answer = call("sample", "--song", "0,1", "--run", trained.path, "--out", tmp_path / "out", "--png", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    paths = [Path(line) for line in answer.out.splitlines()]
    assert [path.suffix for path in paths] == [".mid", ".png"] * 2
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())


def test_songs_as_json_are_on_stdout(trained):
    answer = call("songs", "--run", trained.path, "--json")
    assert answer.err == ""
    assert len(json.loads(answer.out)) == 3


def test_songs_on_a_terminal_of_80_columns(trained, tmp_path):
    path = shutil.copytree(trained.path, tmp_path / "run")
    run, names = read_run(path), ["long " * 40, "A [live] recording :smile: [/b]", "x" * 200]
    named = (dataclasses.replace(entry, name=name) for entry, name in zip(run.entries, names, strict=True))
    write_manifest(dataclasses.replace(run, entries=tuple(named)))
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    program = [sys.executable, "run.py", "songs", "--run", path]
    code = subprocess.run(program, cwd=ROOT, env=environment | {"TERM": "dumb"}, stdout=writer).returncode
    os.close(writer)
    with open(reader, errors="replace") as terminal, contextlib.suppress(OSError):
        terminal_text = ""
        while line := terminal.readline():
            terminal_text += line
    assert code == 0
    head, *lines = terminal_text.splitlines()
    assert head.split() == ["song", "name", "length", "notes", "key", "tempo", "note", "F1"]
    assert len(lines) == 3
    assert all(len(line) <= 80 for line in lines)
    assert names[1][:24] in lines[1]
    for line, entry in zip(lines, run.entries, strict=True):
        assert f"  {entry.notes:,}  {entry.key}" in line


# plots


PICTURES = ["curve.png", "map.png", "recall.png"]


def test_plots_of_a_run(trained, tmp_path):
    answer = call("plots", "--run", trained.path, "--out", tmp_path / "new" / "pictures")
    assert answer.code == 0, answer
    assert answer.out.splitlines() == [str(tmp_path / "new" / "pictures" / name) for name in PICTURES]
    for path in answer.out.splitlines():
        with PIL.Image.open(path) as picture:
            assert picture.size[0] == 1600


def test_plots_of_a_run_without_log_or_scores(trained, tmp_path):
    copied = shutil.copytree(trained.path, tmp_path / "copied")
    for name in ("metrics.jsonl", "scores.json"):
        (copied / name).unlink()
    answer = call("plots", "--run", copied, "--quiet")
    assert answer == (0, "".join(f"{copied / 'plots' / name}\n" for name in PICTURES[1:]), "")


def test_plots_without_the_extra(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [name for name in sys.modules if name == "nemui_jax.outputs.plots" or name.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("nemui_jax.outputs.plots", raising=False)
    answer = call("plots", "--run", trained.path, "--out", tmp_path / "pictures")
    assert answer.code == 2
    assert re.search(r"-m pip install -e '?\S*\[plots\]", answer.err)
    assert answer.err.count("\n") == 1


def test_a_python_without_the_packages_is_told_in_one_line(tmp_path):
    program = [sys.executable, "-S", str(ROOT / "run.py"), "songs"]  # -S: no installed packages
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, env={})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert re.match(r"nemui: \w+ is not installed for .+; (start it as: |install )", done.stderr)
