"""What a training leaves to be looked at, read back from its files; and what commands print for machines."""

import contextlib
import dataclasses
import fcntl
import gzip
import io
import json
import math
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import ROOT, SMALLEST, call, chorale, make_song
from tensorboardX.crc32c import crc32c
from tensorboardX.proto import event_pb2

from nemui_jax.cli import monitor
from nemui_jax.music import midi_reader
from nemui_jax.runs.run import read_log, read_run, read_scores, write_manifest


def masked(data: bytes) -> int:
    """The checksum of a TFRecord, by its definition."""
    value = crc32c(data)
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(folder: Path) -> list[event_pb2.Event]:
    """All events of a folder, in order of its files: TFRecords of length, checksum, bytes, checksum."""
    events = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            assert struct.unpack("<I", data[8:12]) == (masked(data[:8]),)
            body, data = data[12 : 12 + length], data[12 + length :]
            assert struct.unpack("<I", data[:4]) == (masked(body),)
            data = data[4:]
            events.append(event_pb2.Event.FromString(body))
    return events


def scalars(events: list[event_pb2.Event]) -> dict[str, dict[int, float]]:
    """Each scalar by step."""
    found: dict[str, dict[int, float]] = {}
    for event in events:
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def pictures(events: list[event_pb2.Event]) -> dict[int, np.ndarray]:
    found = {}
    for event in events:
        for value in event.summary.value:
            if value.HasField("image"):
                found[event.step] = np.asarray(PIL.Image.open(io.BytesIO(value.image.encoded_image_string)))
    return found


# TensorBoard


@pytest.fixture(scope="module")
def watched(songs_folder, tmp_path_factory) -> Path:
    """A run of 200 steps, watched in the default place."""
    path = tmp_path_factory.mktemp("runs") / "watched"
    answer = call("train", "--dir", songs_folder, "--run", path, "--steps", 200, "--tensorboard", settings=SMALLEST)
    assert answer.code == 0, answer
    assert f"tensorboard --logdir {path / 'tensorboard'}" in answer.out
    return path


def test_figures_are_those_of_the_log(watched):
    log, found = read_log(read_run(watched)), scalars(read_events(watched / "tensorboard"))
    for name in ("loss", "recall"):
        assert found[name] == pytest.approx({row["step"]: row[name] for row in log if name in row})
    assert set(found["music_steps_per_second"]) == {50, 100, 150, 200}
    assert all(value > 0 for value in found["music_steps_per_second"].values())


def test_learning_rates_rise_and_fall(watched):
    found, settings = scalars(read_events(watched / "tensorboard")), read_run(watched).config.train
    for name, peak in (("weights", settings.weight_rate), ("rows", settings.row_rate)):
        values = [found[f"learning_rate/{name}"][step] for step in (50, 100, 150, 200)]
        shares = [0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * (step - 1) / 200)) for step in (50, 100, 150, 200)]
        assert values == pytest.approx([share * peak for share in shares])


def test_pictures_of_the_first_song(watched):
    run = read_run(watched)
    found = pictures(read_events(watched / "tensorboard"))
    assert list(found) == [row["step"] for row in read_log(run) if "recall" in row]
    source = run.song(0)
    pitches = int(source.notes["pitch"].max()) - int(source.notes["pitch"].min()) + 1
    for picture in found.values():
        assert picture.shape[0] >= pitches * monitor.PITCH_PIXELS
        assert picture.shape[1] == pytest.approx(source.seconds / monitor.PIXEL_SECONDS, abs=2)


def test_events_after_the_step_gone_on_from_are_purged(watched, tmp_path):
    run = read_run(watched)
    with monitor.monitoring(run, 150, tmp_path, None) as seen:
        seen.show({"step": 200, "loss": 0.5}, None)
    first, *rest = (event for event in read_events(tmp_path) if not event.file_version)
    assert (first.step, first.session_log.status) == (151, event_pb2.SessionLog.START)
    assert scalars(rest)["loss"] == {200: 0.5}


def test_watching_changes_nothing_learned(songs_folder, watched, tmp_path):
    call("train", "--dir", songs_folder, "--run", tmp_path / "run", "--steps", 200, settings=SMALLEST)
    other, known = (read_log(read_run(path)) for path in (tmp_path / "run", watched))
    assert [row["loss"] for row in other] == [row["loss"] for row in known]
    assert sorted(item.name for item in (tmp_path / "run").iterdir()) == sorted(
        item.name for item in watched.iterdir() if item.name != "tensorboard"
    )


@pytest.mark.parametrize("missing", ["tensorboardX", "PIL"])
def test_without_the_extra_nothing_begins(songs_folder, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    answer = call("train", "--dir", songs_folder, "--run", tmp_path / "run", "--tensorboard")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "pip install 'nemui-jax[tensorboard]'" in answer.err
    assert not (tmp_path / "run").exists()


# Pictures


def at(picture: np.ndarray, seconds: float, pitch: int, top: int) -> tuple[int, ...]:
    """The colour of a pitch at a time, in a picture whose highest pitch is `top`."""
    return tuple(picture[(top - pitch) * monitor.PITCH_PIXELS, round(seconds / monitor.PIXEL_SECONDS)].tolist())


def test_an_image_marks_what_is_missed_and_extra():
    song = make_song([(0.0, 0.5, 60, 127), (1.0, 1.5, 62, 127), (1.0, 1.5, 64, 1)])
    other = make_song([(0.0, 0.5, 60, 127), (1.0, 1.5, 64, 1), (2.0, 2.5, 61, 127)])
    picture = monitor.image(song, other, 60.0)
    assert picture.shape == (5 * monitor.PITCH_PIXELS, 50, 3)
    assert at(picture, 0.0, 60, 64) == (200, 200, 200)
    assert at(picture, 1.0, 62, 64) == monitor._MISSED
    assert at(picture, 2.0, 61, 64) == monitor._EXTRA
    assert at(picture, 0.0, 64, 64) == monitor._PANEL
    assert sum(at(picture, 1.0, 64, 64)) < 0.7 * 600  # softer
    assert 0 < sum(at(picture, 0.3, 60, 64)) < 0.7 * 600  # after its onset


def test_an_image_of_the_start():
    song = make_song([(0.0, 9.0, 60), (1.0, 1.5, 62), (8.0, 8.5, 72)])
    assert monitor.image(song, song, 2.0).shape == (3 * monitor.PITCH_PIXELS, 40, 3)
    assert monitor.image(song, song, 60.0).shape == (13 * monitor.PITCH_PIXELS, 180, 3)


def test_an_image_of_nothing_and_of_one_side():
    nothing = make_song([])
    assert monitor.image(nothing, nothing, 60.0).shape == (1, 1, 3)
    colours = monitor.image(chorale(), nothing, 60.0).reshape(-1, 3)
    notes = colours[(colours != monitor._PANEL).any(axis=1)] / monitor._MISSED
    assert len(notes) > 100
    np.testing.assert_allclose(notes, np.repeat(notes[:, :1], 3, axis=1), atol=0.02)  # one hue


# Profiles


def test_a_profile_of_steps(songs_folder, tmp_path):
    answer = call(
        "train", "--dir", songs_folder, "--run", tmp_path / "run", "--steps", 150, "--profile", settings=SMALLEST
    )
    assert answer.code == 0, answer
    (trace,) = (tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz")
    assert f"open {trace} on https://ui.perfetto.dev" in answer.out
    names = {event.get("name", "") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    assert any("steps" in name for name in names)  # train.steps, as jitted


def test_a_profile_of_too_few_steps(songs_folder, tmp_path):
    flags = ("--dir", songs_folder, "--run", tmp_path / "run", "--steps", 50, "--profile", tmp_path / "profile")
    answer = call("train", *flags, "--tensorboard", tmp_path / "board", settings=SMALLEST)
    assert answer.code == 0, answer
    assert "too few steps for a profile" in answer.out
    assert scalars(read_events(tmp_path / "board"))["loss"].keys() == {50}  # both where they are told to be
    assert not {"profile", "tensorboard"} & {item.name for item in (tmp_path / "run").iterdir()}


def test_chunks_are_passed_on(watched):
    seen = monitor.Monitor(read_run(watched))
    assert list(seen.chunks(iter("abc"))) == ["a", "b", "c"]
    assert list(seen.chunks(iter(""))) == []


# What commands print


def test_quiet_training_tells_where_the_run_is(songs_folder, tmp_path):
    flags = ("train", "--dir", songs_folder, "--run", tmp_path / "run", "--steps", 50)
    answer = call(*flags, "--quiet", settings=SMALLEST)
    assert answer == (0, f"{tmp_path / 'run'}\n", "")
    assert call(*flags, "--seed", 1, "--quiet", settings=SMALLEST).err.startswith("nemui: ")


def test_training_as_json(songs_folder, tmp_path):
    flags = ("train", "--dir", songs_folder, "--run", tmp_path / "run", "--steps", 100, "--json")
    answer = call(*flags, settings=SMALLEST)
    told = json.loads(answer.out)
    assert "files used" in answer.err
    run = read_run(tmp_path / "run")
    log, recalls = read_log(run), read_scores(run)
    assert (told["step"], told["total"], told["done"], told["songs"]) == (100, 100, True, 3)
    assert told["loss"] == log[-1]["loss"]
    for name in ("onset", "offset", "velocity", "pedal"):
        assert told["recall"][name] == pytest.approx(np.mean([song[name] for song in recalls]))
    again = call(*flags, "--quiet", settings=SMALLEST)  # there is nothing left to learn
    assert again.err == ""
    assert json.loads(again.out)["recall"] == told["recall"]


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_errors_of_hushed_commands(tmp_path, flags):
    answer = call("train", "--dir", tmp_path / "none", "--quiet", *flags)
    assert (answer.code, answer.out) == (2, "")
    assert "no such folder" in answer.err


def test_samples_as_json(trained, tmp_path):
    flags = ("--run", trained.path, "--out", tmp_path / "out", "--json")
    answer = call("sample", "--perturb", "0:0.1", "--count", 2, "--seed", 5, "--png", *flags)
    told = json.loads(answer.out)
    assert [(piece["kind"], piece["seed"]) for piece in told] == [("mix", 5), ("mix", 6)]
    for piece in told:
        song = midi_reader.read(Path(piece["path"]))
        assert piece["notes"] == len(song.notes)
        assert piece["seconds"] == pytest.approx(song.seconds, abs=0.01)
        assert [Path(path).suffix for path in piece["also"]] == [".png"]
        assert Path(piece["also"][0]).exists()
        assert f"{piece['path']}: " in answer.err


def test_quiet_samples_tell_their_paths(trained, tmp_path):
    answer = call("sample", "--song", "0,1", "--run", trained.path, "--out", tmp_path / "out", "--png", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    paths = [Path(line) for line in answer.out.splitlines()]
    assert [path.suffix for path in paths] == [".mid", ".png"] * 2
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())


def test_songs_as_json_are_on_stdout(trained):
    answer = call("songs", "--run", trained.path, "--json")
    assert answer.err == ""
    assert len(json.loads(answer.out)) == 3


# plots


PICTURES = ["curve.png", "map.png", "recall.png"]


def test_plots_of_a_run(trained, tmp_path):
    answer = call("plots", "--run", trained.path, "--out", tmp_path / "new" / "pictures")
    assert answer.code == 0, answer
    assert answer.out.splitlines() == [str(tmp_path / "new" / "pictures" / name) for name in PICTURES]
    for path in answer.out.splitlines():
        with PIL.Image.open(path) as picture:
            assert picture.size[0] == 1600


def test_plots_of_a_run_without_log_or_recalls(watched, tmp_path):
    copied = shutil.copytree(watched, tmp_path / "copied")
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
    assert "pip install 'nemui-jax[plots]'" in answer.err
    assert answer.err.count("\n") == 1


# Completion


def completions(line: str, tmp_path: Path) -> set[str]:
    """What a shell is told could complete a line, by the protocol of argcomplete."""
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


# Tables


def test_songs_on_a_terminal_of_80_columns(trained, tmp_path):
    path = shutil.copytree(trained.path, tmp_path / "run")
    run = read_run(path)
    names = ["long " * 40, "A [live] recording :smile: [/b]", "x" * 200]
    entries = (dataclasses.replace(entry, name=name) for entry, name in zip(run.entries, names, strict=True))
    write_manifest(dataclasses.replace(run, entries=tuple(entries)))
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
    assert head.split() == ["song", "name", "length", "notes", "key", "recall"]
    assert len(lines) == 3
    assert all(len(line) <= 80 for line in lines)
    assert names[1] in lines[1]
    for line, entry in zip(lines, run.entries, strict=True):
        assert line.split()[-3:-1] == [f"{entry.notes:,}", entry.key]
