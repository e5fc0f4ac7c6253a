"""What a training leaves to be looked at, read back from its files."""

import gzip
import io
import json
import re
import struct
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import SMALLEST, call, chorale, make_song
from tensorboardX.crc32c import crc32c
from tensorboardX.proto import event_pb2

from nemui_jax.cli import monitor
from nemui_jax.music.song import DRUM_CHANNEL, NOTE, Part, Song
from nemui_jax.outputs import palette
from nemui_jax.runs import trainer
from nemui_jax.runs.run import Run, read_log, read_run


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


def event_at(step: int, run: Run) -> trainer.Event:
    """What a chunk of 50 steps might report."""
    return trainer.Event(run, step, np.full(50, 0.5, np.float32), 2.0, 9.0, state=None)


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
    for name in ("loss", "note_f1"):
        assert found[name] == pytest.approx({row["step"]: row[name] for row in log if name in row})
    assert set(found["music_steps_per_second"]) == {50, 100, 150, 200}


def test_the_rate_is_that_of_the_chunk(watched):
    event = event_at(200, read_run(watched))
    windows, block = SMALLEST.train.batch_windows, SMALLEST.model.block_steps
    assert monitor.scalars(event)["music_steps_per_second"] == 50 * windows * block / 2.0


def test_learning_rates_rise_and_fall(watched):
    found, settings = scalars(read_events(watched / "tensorboard")), read_run(watched).config.train
    for name, peak in (("weights", settings.weight_rate), ("rows", settings.row_rate)):
        values = [found[f"learning_rate/{name}"][step] for step in (50, 100, 150, 200)]
        after_warmup = [((step - 1) / 200 - 0.05) / 0.95 for step in (50, 100, 150, 200)]
        shares = [1 - 0.99 * share for share in after_warmup]
        assert values == pytest.approx([share * peak for share in shares], rel=1e-3)


def test_pictures_of_the_first_song(watched):
    run = read_run(watched)
    found = pictures(read_events(watched / "tensorboard"))
    assert list(found) == [row["step"] for row in read_log(run) if "note_f1" in row]
    source = run.song(0)
    pitches = int(source.notes["pitch"].max()) - int(source.notes["pitch"].min()) + 1
    for picture in found.values():
        assert picture.shape[0] >= pitches * monitor.PITCH_PIXELS
        assert picture.shape[1] == pytest.approx(source.seconds / monitor.PIXEL_SECONDS, abs=2)


def test_events_after_the_step_gone_on_from_are_purged(watched, tmp_path):
    with monitor.tensorboard(tmp_path) as callback:
        callback(event_at(200, read_run(watched)))
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
    assert re.search(r"-m pip install -e '?\S*\[tensorboard\]", answer.err)
    assert not (tmp_path / "run").exists()


# Pictures


def at(picture: np.ndarray, seconds: float, pitch: int, top: int) -> tuple[int, ...]:
    """The colour of a pitch at a time, in a picture whose highest pitch is `top`."""
    return tuple(picture[(top - pitch) * monitor.PITCH_PIXELS, round(seconds / monitor.PIXEL_SECONDS)].tolist())


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def test_an_image_marks_what_is_missed_and_extra():
    song = make_song([(0.0, 0.5, 60, 127), (1.0, 1.5, 62, 127), (1.0, 1.5, 64, 1)])
    other = make_song([(0.0, 0.5, 60, 127), (1.0, 1.5, 64, 1), (2.0, 2.5, 61, 127)])
    picture = monitor.image(song, other, 60.0)
    assert picture.shape == (5 * monitor.PITCH_PIXELS, 50, 3)
    assert at(picture, 0.0, 60, 64) == (200, 200, 200)
    assert at(picture, 1.0, 62, 64) == rgb(palette.SECOND)
    assert at(picture, 2.0, 61, 64) == rgb(palette.FIRST)
    assert at(picture, 0.0, 64, 64) == rgb(palette.PANEL)
    assert sum(at(picture, 1.0, 64, 64)) < 0.7 * 600  # softer
    assert 0 < sum(at(picture, 0.3, 60, 64)) < 0.7 * 600  # after its onset


def band(*parts: tuple[int, int, list[tuple]]) -> Song:
    """A song from parts (program, channel, [(onset, end, pitch), ...])."""
    return Song(
        tuple(
            Part(np.array([(*note, 127) for note in notes], NOTE), program, channel)
            for program, channel, notes in parts
        )
    )


def test_an_image_has_the_colours_of_instruments_and_rows_for_drums():
    bass, strings = (33, 0, [(0.0, 0.5, 40)]), (48, 1, [(1.0, 1.5, 43), (2.0, 2.5, 43)])
    drums = (0, DRUM_CHANNEL, [(0.0, 0.1, 36), (1.0, 1.1, 42), (2.0, 2.1, 42)])
    song = band(bass, strings, drums)
    same = monitor.image(song, song, 60.0)
    assert same.shape == ((4 + 1 + 2) * monitor.PITCH_PIXELS, 50, 3)  # pitches 40 to 43, a gap, two drums
    assert at(same, 0.0, 40, 43) == rgb(palette.INSTRUMENTS[1])
    assert at(same, 1.0, 43, 43) == rgb(palette.INSTRUMENTS[0])  # that with most notes
    assert at(same, 0.0, 37, 43) == at(same, 1.0, 38, 43) == rgb(palette.DRUMS)
    other = band((32, 0, [(0.0, 0.5, 40)]), strings, (0, DRUM_CHANNEL, [(0.0, 0.1, 36), (1.0, 1.1, 42)]))
    picture = monitor.image(song, other, 60.0)
    assert at(picture, 0.0, 40, 43) == rgb(palette.SECOND)  # on another instrument
    assert at(picture, 2.0, 38, 43) == rgb(palette.SECOND)
    assert at(picture, 1.0, 38, 43) == rgb(palette.DRUMS)


def test_an_image_of_the_start():
    song = make_song([(0.0, 9.0, 60), (1.0, 1.5, 62), (8.0, 8.5, 72)])
    assert monitor.image(song, song, 2.0).shape == (3 * monitor.PITCH_PIXELS, 40, 3)
    assert monitor.image(song, song, 60.0).shape == (13 * monitor.PITCH_PIXELS, 180, 3)


def test_an_image_of_nothing_and_of_one_side():
    nothing = make_song([])
    assert monitor.image(nothing, nothing, 60.0).shape == (1, 1, 3)
    colours = monitor.image(chorale(), nothing, 60.0).reshape(-1, 3)
    notes = colours[(colours != rgb(palette.PANEL)).any(axis=1)] / rgb(palette.SECOND)
    assert len(notes) > 100
    np.testing.assert_allclose(notes, np.repeat(notes[:, :1], 3, axis=1), atol=0.02)  # one hue


# Profiles


@pytest.mark.trains
def test_a_profile_of_steps(songs_folder, tmp_path):
    answer = call(
        "train", "--dir", songs_folder, "--run", tmp_path / "run", "--steps", 150, "--profile", settings=SMALLEST
    )
    assert answer.code == 0, answer
    (trace,) = (tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz")
    assert f"open {trace} on https://ui.perfetto.dev" in answer.out
    names = {event.get("name", "") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    assert any("steps" in name for name in names)  # train.steps, as jitted


@pytest.mark.trains
def test_a_profile_of_too_few_steps(songs_folder, tmp_path):
    flags = ("--dir", songs_folder, "--run", tmp_path / "run", "--steps", 50, "--profile", tmp_path / "profile")
    answer = call("train", *flags, "--tensorboard", tmp_path / "board", settings=SMALLEST)
    assert answer.code == 0, answer
    assert "too few updates for a profile" in answer.out
    assert scalars(read_events(tmp_path / "board"))["loss"].keys() == {50}  # both where they are told to be
    assert not {"profile", "tensorboard"} & {item.name for item in (tmp_path / "run").iterdir()}
