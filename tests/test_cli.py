"""The commands as a person meets them: what they print, write and answer."""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import mido
import numpy as np
import pytest
from conftest import ROOT, SMALLEST, Answer, call, chorale, finish, make_song, start, write_songs
from midi_bytes import midi as file_of
from midi_bytes import notes as note_bytes
from midi_bytes import track

from nemui_jax import shell
from nemui_jax.evaluation import note_metrics
from nemui_jax.music import midi_reader, midi_writer
from nemui_jax.music.song import Song
from nemui_jax.runs import checkpoint
from nemui_jax.runs.run import lock_run, read_log, read_run, read_scores
from nemui_jax.training.step import init_state, train_loop

pytestmark = pytest.mark.usefixtures("small_batches")


def refused(answer: Answer, *parts: str) -> None:
    """Code 2, and one line on stderr that says what is wrong."""
    assert answer.code == 2, answer
    assert answer.err.count("\n") == 1, answer.err
    assert answer.err.startswith("nemui: ")
    assert "Traceback" not in answer.err
    for part in parts:
        assert part in answer.err


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_numpy_is_told_to_use_one_thread_before_it_is_imported():
    program = """
import os, sys
from nemui_jax.cli.main import main
assert "numpy" not in sys.modules
assert main(["songs", "--run", "nowhere"]) == 2
assert "numpy" in sys.modules
print(os.environ["OPENBLAS_NUM_THREADS"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, env=environment, text=True) == "1\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_songs(tmp_path / "songs")


@pytest.fixture(scope="module")
def finished(songs_folder, tmp_path_factory) -> Path:
    """A finished run of 200 steps, with every checkpoint saved; copied, never changed."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    flags = ("--steps", 200, "--save-seconds", 0)
    answer = call("train", "--dir", songs_folder, "--run", path, *flags, settings=SMALLEST)
    assert answer.code == 0, answer
    return path


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


# Usage


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "COMMAND"),
        (["frobnicate"], "frobnicate"),
        (["train"], "--dir"),
        (["train", "--dir"], "--dir"),
        (["train", "--dir", "x", "--steps", "0"], "--steps: 0 is out of range"),
        (["train", "--dir", "x", "--steps", "many"], "--steps: 'many' is not a whole number"),
        (["train", "--dir", "x", "--minutes", "nan"], "--minutes: nan is out of range"),
        (["train", "--dir", "x", "--minutes", "-1"], "--minutes: -1 is out of range"),
        (["train", "--dir", "x", "--minutes", "1e12"], "--minutes: 1e12 is out of range"),
        (["train", "--dir", "x", "--steps", "5000000000"], "--steps: 5000000000 is out of range"),
        (["train", "--dir", "x", "--seed", "one"], "--seed: 'one' is not a whole number"),
        (["train", "--dir", "x", "--seed", "-5"], "--seed: -5 is out of range"),
        (["train", "--dir", "x", "--seed", str(2**63)], "--seed: 9223372036854775808 is out of range"),
        (["train", "--dir", ""], "--dir: a path is missing"),
        (["train", "--dir", "x", "--run", ""], "--run: a path is missing"),
        (["sample", "--random", "--count", str(10**12)], "--count: 1000000000000 is out of range"),
        (["sample", "--song", "0", "--temperature", "1e11"], "--temperature: 1e11 is out of range"),
        (["sample", "--song", "0", "--out", ""], "--out: a path is missing"),
        (["add", "--file"], "--file"),
        (["train", "--dir", "x", "--preset", "new"], "--preset"),
        (["songs", "--port", "1"], "--port"),
        (["sample"], "--song"),
        (["sample", "--song", "0", "--mix", "0:1"], "not allowed with"),
        (["sample", "--song", "0", "--program", "128"], "'128' is not a program from 0 to 127"),
        (["sample", "--song", "0", "--temperature", "-1"], "--temperature"),
        (["sample", "--song", "0", "--seconds", "0"], "--seconds: 0 is out of range"),
    ],
)
def test_wrong_usage(arguments, part):
    refused(call(*arguments), part, "--help")


def modules_of(*arguments: object) -> tuple[Answer, set[str]]:
    """What run.py answers in a process of its own, and the modules that it imported."""
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "run.py", *map(str, arguments)], cwd=ROOT, text=True, capture_output=True
    )
    lines = [line for line in process.stderr.splitlines(keepends=True) if not line.startswith("import time:")]
    imported = set(re.findall(r"^import time:.*\| +([\w.]+)$", process.stderr, re.M))
    return Answer(process.returncode, process.stdout, "".join(lines)), imported


@pytest.mark.parametrize("command", [[], ["sample"]])
def test_help_is_quick(command):
    answer, imported = modules_of(*command, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert "usage: run.py" in answer.out
    assert "nemui_jax.cli.main" in imported  # else nothing was looked at
    assert not {"jax", "flax", "numpy", "nemui_jax.cli.console"} & imported


def test_wrong_usage_is_quick():
    answer, imported = modules_of("sample", "--song")
    refused(answer, "--song")
    assert not {"jax", "numpy"} & imported


def test_wrong_input_is_quick(tmp_path, trained):
    for arguments, part in (
        (["songs", "--run", tmp_path / "none"], "no run here"),
        (["train", "--dir", tmp_path, "--run", tmp_path / "run"], "no song in 0 files"),
        (["sample", "--run", trained.path, "--song", "9"], "no song 9"),
    ):
        answer, imported = modules_of(*arguments)
        refused(answer, part)
        assert "nemui_jax.cli.console" in imported
        assert not {"jax", "flax", "orbax"} & imported


@pytest.mark.parametrize("arguments", [["songs", "a\nb\x1b[2J"], ["songs", "--run", "a\nb\x1b[2J"]])
def test_odd_arguments_are_printed_escaped(arguments):
    answer = call(*arguments)
    refused(answer)
    assert answer.err.rstrip("\n").isprintable()


@pytest.mark.parametrize("command", [["songs"], ["sample", "--song", "0"]])
def test_no_run(command, tmp_path):
    refused(
        call(*command, "--run", tmp_path / "none"),
        "no run here; make one with: ",
        f" train --dir FOLDER --run {tmp_path}",
    )
    assert list(tmp_path.iterdir()) == []


# Training


def test_what_training_says(trained):
    assert trained.answer.err == ""
    lines = trained.answer.out.splitlines()
    free, files = lines[:2], lines[2:4]
    steady = "no beats were found in it, so its grid is in seconds"
    for line, name, clock in zip(free, ["b/repeats.mid", "rubato.mid"], [steady, steady], strict=True):
        assert line.startswith("used ")
        assert line.endswith(f"/{name}: {clock}")
    assert files[0].startswith("3 of 3 files used: ")
    assert files[1] == "beats: 1 of the file's tempo map, 2 steady"
    assert re.fullmatch(r"step \d+/\d+  [\d,]+ steps of music/s  note F1 (-|[01]\.\d+)  .* left", lines[4])
    assert re.search(r"step (\d+)/\1  [\d,]+ steps of music/s  note F1 1\.000  ", trained.answer.out)
    assert re.search(r"2 +rubato +1\.0000 +1\.0000 +1\.0000 +[01]\.\d{4} +\d\.\d ms", trained.answer.out)
    assert f"  {shell.command()} sample --song 0 --run {trained.path}" in lines
    assert f"  {shell.command()} songs --run {trained.path}" in lines


def test_log_of_a_training(trained):
    rows = [json.loads(line) for line in (trained.path / "metrics.jsonl").read_text().splitlines()]
    total = read_run(trained.path).total
    assert [row["step"] for row in rows] == list(range(50, total + 1, 50))
    assert all(set(row) - {"note_f1"} == {"step", "loss", "seconds"} for row in rows)
    assert rows[-1]["loss"] < rows[0]["loss"] / 10
    assert rows[-1]["note_f1"] == 1
    assert all(before["seconds"] < after["seconds"] for before, after in itertools.pairwise(rows))


def test_songs(trained):
    answer = call("songs", "--run", trained.path)
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert [line.split()[0] for line in lines] == ["song", "0", "1", "2"]
    assert "a chorale" in lines[1]


def test_songs_as_json(trained, songs_folder):
    answer = call("songs", "--run", trained.path, "--json")
    assert answer.code == 0
    rows = json.loads(answer.out)
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert [row["name"] for row in rows] == ["a chorale", "repeats", "rubato"]
    for row in rows:
        assert set(row) == {
            "index",
            "name",
            "path",
            "seconds",
            "notes",
            "key",
            "parts",
            "clock",
            "tempo",
            "note_f1",
            "possible_note_f1",
        }
        source = midi_reader.read(row["path"])
        assert Path(row["path"]).is_relative_to(songs_folder)
        assert (row["seconds"], row["notes"]) == (pytest.approx(source.seconds), len(source.notes))
        assert [part["notes"] for part in row["parts"]] == [len(part.notes) for part in source.parts]
        assert all(set(part) == {"name", "instrument", "program", "drums", "channel", "notes"} for part in row["parts"])
    assert rows[0]["key"] == "C"
    assert (rows[0]["clock"], rows[0]["tempo"]) == ("file", pytest.approx(100, rel=0.02))
    assert rows[0]["possible_note_f1"] == 1
    organ = {"name": "", "instrument": "Church Organ", "program": 19, "drums": False, "channel": 0, "notes": 40}
    assert rows[0]["parts"] == [organ]
    assert [part["channel"] for part in rows[2]["parts"]] == [0, 1]


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "drums",
        "broken",
        "none",
        "file",
    ],
)
def test_nothing_usable(kind, tmp_path):
    songs = tmp_path / "songs"
    if kind == "file":
        songs.write_bytes(b"")
    elif kind != "none":
        songs.mkdir()
    if kind == "drums":
        (songs / "drums.mid").write_bytes(file_of(track(note_bytes(36, channel=9))))
    elif kind == "broken":
        (songs / "broken.mid").write_bytes(b"MThd")
    before = contents(tmp_path)
    answer = call("train", "--dir", songs, "--run", tmp_path / "deep" / "run")
    messages = {"none": "no such folder", "file": "not a folder", "empty": "no song in 0 files"}
    refused(answer, f"--dir {songs}: ", messages.get(kind, "no song in 1 files; put .mid files there"))
    assert contents(tmp_path) == before
    assert not (tmp_path / "deep").exists()
    if kind == "drums":
        assert f"not used  {songs / 'drums.mid'}: has only drums" in answer.out


@pytest.mark.trains
def test_files_not_used_are_named(folder, tmp_path):
    (folder / "bad\n.mid").write_bytes(b"")
    (folder / "both.mid").write_bytes(file_of(track(note_bytes(36, channel=9), note_bytes(60, 64))))
    answer = call("train", "--dir", folder, "--run", tmp_path / "run", "--steps", 1, settings=SMALLEST)
    assert answer.code == 0
    assert rf"not used  {folder}/bad\n.mid: is empty" in answer.out
    assert "drum" not in answer.out  # they are learned
    assert "4 of 5 files used" in answer.out


@pytest.mark.trains
def test_a_performance_that_ignores_its_tempo_is_named(tmp_path):
    rng = np.random.default_rng(1)
    rows = [(float(onset), float(onset) + 0.2, 60 + index % 12) for index, onset in enumerate(rng.uniform(0, 20, 60))]
    midi_writer.write(make_song(rows), tmp_path / "free.mid")
    arguments = ("train", "--dir", tmp_path, "--run", tmp_path / "run", "--grid", "beats", "--steps", 1)
    answer = call(*arguments, settings=SMALLEST)
    assert f"used      {tmp_path}/free.mid: its notes do not follow its tempo" in answer.out


def test_a_run_that_is_a_file(folder, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    answer = call("train", "--dir", folder, "--run", tmp_path / "file")
    refused(answer, f"{tmp_path}/file: a file stands there; name another --run")


@pytest.mark.trains
def test_minutes_become_steps(folder, tmp_path, monkeypatch):
    """As many as the time that is left holds."""
    asked = []
    monkeypatch.setattr("nemui_jax.training.loop.steps_in_time", lambda seconds, *_, **__: asked.append(seconds) or 100)
    answer = call("train", "--dir", folder, "--run", tmp_path / "run", "--minutes", "0.5", settings=SMALLEST)
    assert answer.code == 0, answer
    assert 0 < asked[0] < 30  # what reading the songs took is taken off
    assert read_run(tmp_path / "run").total == 100
    assert checkpoint.saved_steps(tmp_path / "run") == [100]


@pytest.mark.trains
def test_original_preset(folder, tmp_path):
    smaller = ("--set", "model.hidden_size=16", "--set", "train.window_blocks=50")
    flags = ("--run", tmp_path / "run", "--steps", 50, "--preset", "original")
    answer = call("train", "--dir", folder, *flags, *smaller)
    assert answer.code == 0, answer
    run = read_run(tmp_path / "run")
    assert run.rows == 3  # one a song
    step, _ = checkpoint.whole_step(run)
    _, table = checkpoint.restore_model(run, step)
    before = init_state(jax.random.key(0), 3, run.config).latents[:3]
    assert (np.asarray(table) != np.asarray(before)).any(axis=1).all()  # and it is learned
    refused(call("train", "--dir", folder, "--run", tmp_path / "run"), "preset: original, now default")
    answer = call("sample", "--run", tmp_path / "run", "--mix", "0:0.5,1:0.5", "--out", tmp_path / "mix.mid")
    assert answer.code == 0, answer
    assert f"{tmp_path}/mix.mid: mix of a chorale 0.50, repeats 0.50; " in answer.out


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.hiden_size=64", "'model.hiden_size': no such setting; did you mean model.hidden_size"),
        ("model.hidden_size", "'model.hidden_size': a value is missing; write model.hidden_size=VALUE"),
        ("model.hidden_size=wide", "model.hidden_size=wide: must be a whole number"),
        ("model.hidden_size=0", "model.hidden_size=0: must be above 0"),
        ("model.heads=onset,chord", "model.heads: no head 'chord'; there are onset, frame"),
        ("train.loss=l2", "train.loss=l2: there are likelihood, squared"),
        ("roll.low=127", "roll.low=127, roll.high=108: must be in order"),
    ],
)
def test_a_wrong_setting_is_refused(folder, tmp_path, setting, message):
    refused(call("train", "--dir", folder, "--run", tmp_path / "run", "--set", setting), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.trains
def test_settings_win_over_what_is_fitted_to_the_songs(folder, tmp_path):
    flags = ("--run", tmp_path / "run", "--steps", 1, "--set", "roll.high=120")
    assert call("train", "--dir", folder, *flags, settings=SMALLEST).code == 0
    run = read_run(tmp_path / "run")
    assert run.config.roll.high == 120
    assert run.config.model == SMALLEST.model
    again = call("train", "--dir", folder, "--run", tmp_path / "new", "--set", "roll.high=60", settings=SMALLEST)
    refused(again, "the songs need pitches")


# Going on


def end_of(path: Path) -> tuple:
    """What a training ends with: its state, and the log without the clock."""
    run = read_run(path)
    step, _ = checkpoint.whole_step(run)
    log = [{name: value for name, value in row.items() if name != "seconds"} for row in read_log(run)]
    return step, checkpoint.restore(run, step), log, read_scores(read_run(path))


def assert_same_end(path: Path, other: Path) -> None:
    step, state, log, recalls = end_of(path)
    other_step, other_state, other_log, other_recalls = end_of(other)
    assert step == other_step
    assert log == other_log
    assert recalls == other_recalls
    assert jax.tree.structure(state) == jax.tree.structure(other_state)
    for leaf, again in zip(jax.tree.leaves(state), jax.tree.leaves(other_state), strict=True):
        np.testing.assert_array_equal(leaf, again)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_goes_on_as_if_it_had_not(songs_folder, finished, tmp_path, number, monkeypatch):
    loop = train_loop

    def stopping(*arguments, **options):
        for state, losses in loop(*arguments, **options):
            if state.step == 100:
                signal.raise_signal(number)
            yield state, losses

    arguments = ("train", "--dir", songs_folder, "--run", tmp_path / "run", "--steps", 200)
    with monkeypatch.context() as patch:
        patch.setattr("nemui_jax.training.loop.train_loop", stopping)
        answer = call(*arguments, settings=SMALLEST)
    assert answer.code == 128 + number
    assert answer.err == ""
    assert answer.out.endswith("stopped after step 100, which is saved; the same command continues from there\n")
    assert checkpoint.saved_steps(tmp_path / "run") == [100]

    again = call(*arguments, settings=SMALLEST)
    assert again.code == 0
    assert "continues after step 100 of 200" in again.out
    assert_same_end(tmp_path / "run", finished)


def test_a_damaged_checkpoint_costs_only_the_way_from_the_older_one(songs_folder, finished, run):
    assert checkpoint.saved_steps(run) == [200, 150]
    arrays = max((run / "checkpoints" / "200").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(arrays.read_bytes())
    data[len(data) // 2] ^= 1
    arrays.write_bytes(bytes(data))
    sampled = call("sample", "--run", run, "--song", 0, "--out", run.parent / "a.mid", settings=SMALLEST)
    assert sampled.code == 0
    assert "damaged checkpoint 200; using the checkpoint at step 150 of 200" in sampled.out
    answer = call("train", "--dir", songs_folder, "--run", run, "--steps", 200, settings=SMALLEST)
    assert answer.code == 0, answer
    assert "checkpoint 200 is damaged; going back to 150" in answer.out
    assert "continues after step 150 of 200" in answer.out
    assert_same_end(run, finished)


def test_all_checkpoints_damaged(songs_folder, run):
    for path in (run / "checkpoints").glob("*/*"):
        if path.is_file():
            path.write_bytes(b"")
    before = contents(run)
    refused(
        call("train", "--dir", songs_folder, "--run", run, settings=SMALLEST), "every checkpoint is damaged", "--fresh"
    )
    refused(call("sample", "--run", run, "--song", 0, settings=SMALLEST), "every checkpoint is damaged")
    assert contents(run) == before


def test_a_finished_training_is_left_as_it_is(songs_folder, run):
    before = contents(run)
    answer = call("train", "--dir", songs_folder, "--run", run, settings=SMALLEST)
    assert answer.code == 0
    assert "training is finished: all 200 steps are done" in answer.out
    assert "songs played back, against their files" in answer.out
    assert contents(run) == before


def test_other_data_or_settings_are_refused(folder, songs_folder, run):
    before = contents(run)
    wider = dataclasses.replace(SMALLEST, model=dataclasses.replace(SMALLEST.model, hidden_size=9))
    refused(call("train", "--dir", songs_folder, "--run", run, settings=wider), "model.hidden_size: 8, now 9")
    arguments = ("train", "--dir", songs_folder, "--run", run)
    refused(
        call(*arguments, "--seed", 1, settings=SMALLEST),
        "seed: 0, now 1",
        "start over with --fresh or use another --run",
    )
    refused(call(*arguments, "--steps", 300, settings=SMALLEST), "steps: 200, now 300")
    refused(call(*arguments, "--preset", "original", settings=SMALLEST), "preset: default, now original")
    assert contents(run) == before


def test_new_songs_are_added_and_those_that_are_gone_stay(folder, run):
    midi_writer.write(
        make_song([(0.2 * beat, 0.2 * beat + 0.1, 60 + beat % 5) for beat in range(20)]), folder / "new.mid"
    )
    (folder / "rubato.mid").unlink()
    arguments = ("train", "--dir", folder, "--run", run, "--steps", 200)
    answer = call(*arguments, settings=SMALLEST)
    assert answer.code == 0, answer
    assert "kept in the run, though no longer among the songs given: 1 (rubato)" in answer.out
    assert "new, and to be added: 1 (new)" in answer.out
    assert "song 3 new: added" in answer.out
    assert [entry.name for entry in read_run(run).entries] == ["a chorale", "repeats", "rubato", "new"]
    before = contents(run)
    again = call(*arguments, settings=SMALLEST)  # now there is nothing to add
    assert (again.code, contents(run)) == (0, before)
    assert "to be added" not in again.out


def test_minutes_of_a_run_that_exists_are_not_used_and_that_is_said(songs_folder, run):
    answer = call("train", "--dir", songs_folder, "--run", run, "--minutes", 5, settings=SMALLEST)
    assert answer.code == 0
    assert "minutes: the length of this run was set when it began, to 200 steps" in answer.out


def test_the_same_songs_elsewhere_are_the_same(folder, run):
    before = contents(run)
    answer = call("train", "--dir", folder, "--run", run, settings=SMALLEST)
    assert (answer.code, answer.err, contents(run)) == (0, "", before)
    assert "training is finished: all 200 steps are done" in answer.out


def test_fresh_keeps_what_there_was(songs_folder, run):
    before = contents(run)
    answer = call("train", "--dir", songs_folder, "--run", run, "--fresh", "--steps", 50, settings=SMALLEST)
    assert answer.code == 0
    aside = run.with_name("run.old-1")
    assert f"what it held is now in {aside}" in answer.out
    assert contents(aside) == before
    assert checkpoint.saved_steps(run) == [50]


def test_a_run_in_use_is_refused(songs_folder, run):
    before = contents(run)
    with lock_run(run):
        answer = call("train", "--dir", songs_folder, "--run", run, "--fresh", settings=SMALLEST)
    refused(answer, f"process {os.getpid()} is using this run")
    assert contents(run) == before


@pytest.mark.trains
def test_a_process_is_stopped_and_another_one_refused(songs_folder, tmp_path):
    """As it is: two processes, and a real signal."""
    path = tmp_path / "run"
    process = start("train", "--dir", songs_folder, "--run", path, "--steps", 10_000, settings=SMALLEST)
    try:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("step "):
            assert process.poll() is None
        refused(call("train", "--dir", songs_folder, "--run", path), f"process {process.pid} is using this run")
        process.terminate()
        answer = finish(process)
    finally:
        process.kill()
    assert answer.code == 143
    assert answer.err == ""
    step = int(
        re.fullmatch(r"stopped after step ([\d,]+), which is saved; .*", answer.out.splitlines()[-1])[1].replace(
            ",", ""
        )
    )
    run = read_run(path)
    assert checkpoint.whole_step(run) == (step, [])
    assert read_log(run)[-1]["step"] == step
    assert int(checkpoint.restore(run, step).step) == step


@pytest.mark.trains
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_diverging_training_stops(songs_folder, tmp_path):
    wild = dataclasses.replace(SMALLEST, train=dataclasses.replace(SMALLEST.train, weight_rate=1e30, row_rate=1e30))
    answer = call("train", "--dir", songs_folder, "--run", tmp_path / "run", "--steps", 100, settings=wild)
    assert answer.code == 1
    assert answer.err.startswith("nemui: training diverged by step ")
    for step in checkpoint.saved_steps(tmp_path / "run"):
        state = checkpoint.restore(read_run(tmp_path / "run"), step)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


# Playing songs back


def assert_plays(source: Song, played: Song, own_tempo: bool = True) -> None:
    """Every note: onset within 10 ms, pitch, velocity within 3; and what else the file says, perhaps but its tempo."""
    assert len(played.notes) == len(source.notes)
    order = [np.lexsort((song.notes["onset"], song.notes["pitch"])) for song in (source, played)]
    notes, again = source.notes[order[0]], played.notes[order[1]]
    np.testing.assert_array_equal(again["pitch"], notes["pitch"])
    np.testing.assert_allclose(again["onset"], notes["onset"], rtol=0, atol=0.01)
    np.testing.assert_allclose(again["velocity"].astype(int), notes["velocity"].astype(int), rtol=0, atol=3)
    assert note_metrics.note_scores(source.notes, played.notes).offset.f1 == 1
    assert note_metrics.pedal_agreement(source.pedal, played.pedal, source.seconds) > 0.98
    assert played.program == source.program
    if not own_tempo:
        return
    np.testing.assert_allclose(played.tempo_map.seconds, source.tempo_map.seconds, atol=1e-3)
    np.testing.assert_allclose(played.tempo_map.beat_seconds, source.tempo_map.beat_seconds, rtol=1e-5)
    np.testing.assert_allclose(played.meters["time"], source.meters["time"], atol=1e-3)
    for name in ("numerator", "denominator"):
        np.testing.assert_array_equal(played.meters[name], source.meters[name])


def test_all_songs_play_back(trained, songs_folder, tmp_path):
    answer = call("sample", "--run", trained.path, "--song", "all", "--out", tmp_path / "new" / "out")
    assert (answer.code, answer.err) == (0, "")
    files = {path.name: path for path in (tmp_path / "new" / "out").iterdir()}
    assert sorted(files) == ["000-a_chorale.mid", "001-repeats.mid", "002-rubato.mid"]
    assert [line.split(": ")[0] for line in answer.out.splitlines()] == [str(files[name]) for name in sorted(files)]
    sources = ["a chorale.mid", "b/repeats.mid", "rubato.mid"]
    for name, source in zip(sorted(files), sources, strict=True):
        own_tempo = source != "b/repeats.mid"  # its beats were tracked
        assert_plays(midi_reader.read(songs_folder / source), midi_reader.read(files[name]), own_tempo)
    assert [midi_reader.read(files[name]).name for name in sorted(files)] == ["Chorale", "repeats", "Rubato № 1"]


def test_a_song_played_back_needs_no_source(trained, tmp_path):
    """The run is all that it takes, wherever it lies, and the same recipe gives the same bytes."""
    moved = shutil.copytree(trained.path, tmp_path / "moved")
    for path, out in ((trained.path, "a.mid"), (moved, "b.mid")):
        assert call("sample", "--run", path, "--song", "chorale", "--out", tmp_path / out).code == 0
    assert (tmp_path / "a.mid").read_bytes() == (tmp_path / "b.mid").read_bytes()
    assert_plays(chorale(), midi_reader.read(tmp_path / "a.mid"))


def test_the_file_says_how_it_was_made(trained, tmp_path):
    assert (
        call("sample", "--run", trained.path, "--song", "chorale", "--seed", 7, "--out", tmp_path / "a.mid").code == 0
    )
    head = mido.MidiFile(tmp_path / "a.mid").tracks[0]
    (text,) = (message.text for message in head if message.type == "text")
    kind, _, recipe = text.partition(" ")
    run = read_run(trained.path)
    assert kind == "nemui_jax"
    assert json.loads(recipe) == {"song": "chorale", "seed": 7, "run": run.fingerprint(run.total)}


def test_several_songs_and_where_they_go(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("sample", "--run", trained.path, "--song", "2,0").code == 0
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["000-a_chorale.mid", "002-rubato.mid"]
    assert call("sample", "--run", trained.path, "--song", "1", "--out", tmp_path / "one.MID").code == 0
    assert (tmp_path / "one.MID").is_file()
    assert call("sample", "--run", trained.path, "--song", "1", "--out", tmp_path / "new" / "x.mid").code == 0
    assert (tmp_path / "new" / "x.mid").read_bytes() == (tmp_path / "one.MID").read_bytes()
    before = contents(tmp_path)
    arguments = ("sample", "--run", trained.path, "--song")
    refused(call(*arguments, "0,1", "--out", tmp_path / "two.mid"), "2 outputs need a folder, not one file")
    (tmp_path / "plain").write_bytes(b"")
    refused(call(*arguments, "0", "--out", tmp_path / "plain"), "neither a folder nor a .mid file")
    assert contents(tmp_path) == before | {"plain": b""}


def test_program_key_and_length(trained, tmp_path):
    arguments = ("--program", 5, "--key", "D", "--seconds", 2)
    answer = call("sample", "--run", trained.path, "--song", "chorale", "--out", tmp_path / "a.mid", *arguments)
    assert answer.code == 0
    source, played = chorale(), midi_reader.read(tmp_path / "a.mid")
    begins = source.notes[source.notes["onset"] < 2]
    assert played.notes["pitch"].tolist() == (begins["pitch"] + 2).tolist()  # from C
    assert set(played.notes["program"]) == {5}
    assert played.seconds <= 2 + 1e-3
    assert played.pedal["time"].max() < 2


def test_variations_are_as_many_files_and_can_be_made_again(trained, tmp_path):
    for name in ("first", "again"):
        flags = ("--perturb", "rubato:1", "--count", 3, "--out", tmp_path / name)
        assert call("sample", "--run", trained.path, *flags).code == 0
    first, again = contents(tmp_path / "first"), contents(tmp_path / "again")
    assert sorted(first) == [f"{number:03d}-perturb-rubato.mid" for number in range(3)]
    assert first == again
    assert len(set(first.values())) == 3


def test_new_songs_are_written_with_what_is_nearest(trained, tmp_path):
    flags = ("--random", "--count", 4, "--best", 2, "--seconds", 10, "--out", tmp_path / "new")
    answer = call("sample", "--run", trained.path, *flags)
    assert answer.code == 0, answer
    assert sorted(contents(tmp_path / "new")) == ["000-random.mid", "001-random.mid"]
    for path, line in zip(sorted((tmp_path / "new").iterdir()), answer.out.splitlines()[-2:], strict=True):
        assert re.fullmatch(rf"{path}: .*; nearest song \d .*, likeness 0\.\d\d", line)


@pytest.mark.parametrize("factor", ["harmony", "melody", "rhythm", "dynamics", "tempo", "instruments"])
def test_a_factor_may_come_from_a_song_beside_the_mix(trained, tmp_path, factor):
    flags = ("--mix", "0:0.5,1:0.5", f"--{factor}")
    answer = call("sample", "--run", trained.path, *flags, "rubato", "--out", tmp_path / "a.mid")
    assert answer.code == 0, answer
    head = mido.MidiFile(tmp_path / "a.mid").tracks[0]
    (text,) = (message.text for message in head if message.type == "text")
    assert json.loads(text.partition(" ")[2])[factor] == "rubato"
    refused(call("sample", "--run", trained.path, *flags, "sonata", "--out", tmp_path / "b.mid"), "'sonata'")
    refused(call("sample", "--run", trained.path, *flags, "0:-1,1:2", "--out", tmp_path / "b.mid"), "is below 0")
    assert not (tmp_path / "b.mid").exists()


def test_sound_and_picture_stand_beside_the_song(trained, tmp_path):
    flags = ("--mix", "0:0.5,1:0.5", "--wav", "--png", "--out", tmp_path / "out.mid")
    assert call("sample", "--run", trained.path, *flags).code == 0
    written = contents(tmp_path)
    heads = {name: data[:4] for name, data in written.items()}
    assert heads == {"out.mid": b"MThd", "out.wav": b"RIFF", "out.png": b"\x89PNG"}
    song = midi_reader.read(tmp_path / "out.mid")
    assert len(written["out.wav"]) > 44_100 * 4 * song.seconds  # stereo, 16 bits


def test_a_song_that_is_added_is_listed_and_not_added_twice(run, tmp_path):
    tune = [(0.3 * beat, 0.3 * beat + 0.25, 65 + (5 * beat) % 12) for beat in range(16)]
    midi_writer.write(make_song(tune), tmp_path / "stranger.mid")
    answer = call("add", "--file", tmp_path / "stranger.mid", "--run", run)
    assert answer.code == 0, answer
    assert f"{run}: has 4 songs now" in answer.out
    songs = json.loads(call("songs", "--json", "--run", run).out)
    assert [song["name"] for song in songs] == ["a chorale", "repeats", "rubato", "stranger"]
    again = call("add", "--file", tmp_path / "stranger.mid", "--run", run)
    refused(again, "stranger.mid: in the run already, as song 3 stranger")


def test_evaluate_measures_what_was_written(trained, tmp_path):
    answer = call("evaluate", "--run", trained.path, "--json", tmp_path / "figures.json")
    assert answer.code == 0, answer.err
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [row["name"] for row in figures["playback"]] == ["a chorale", "repeats", "rubato"]
    assert all(row["onset"] == row["ceiling"]["onset"] == 1 for row in figures["playback"])
    assert set(figures["mixes"]) == {"mix 0.25", "mix 0.5", "mix 0.75", "cross-fade 0.5"}
    assert set(figures["mixes"]["mix 0.5"]) == {"bits", "clash", "on_beat", "density", "heard", "woven", "copied"}
    assert figures["path"]["end"] == 1
    assert [row["clock"] for row in figures["beats"]] == ["file", "steady", "steady"]
    assert set(figures["new"]) == {"bits", "clash", "on_beat", "density", "copied", "returning"}


@pytest.mark.parametrize(
    "recipe",
    [["--mix", "0:0.5,1:0.5"], ["--morph", "0,2,1"], ["--perturb", "0:0.5"], ["--random"]],
    ids=lambda recipe: recipe[0],
)
def test_an_output_lasts_as_long_as_it_is_asked_to(trained, tmp_path, recipe):
    """However short its songs are; a song that is played back ends where it ends."""
    for seconds in (4, 25):
        out = tmp_path / f"{seconds}.mid"
        answer = call("sample", "--run", trained.path, *recipe, "--seconds", seconds, "--out", out)
        assert answer.code == 0, answer
        assert midi_reader.read(out).seconds == pytest.approx(seconds, abs=1.5)
    assert call("sample", "--run", trained.path, "--song", "0", "--seconds", 25, "--out", tmp_path / "a.mid").code == 0
    assert midi_reader.read(tmp_path / "a.mid").seconds == pytest.approx(chorale().seconds, abs=0.05)


@pytest.mark.parametrize(
    ("recipe", "part"),
    [
        (["--song", "9"], "no song 9; the run has songs 0 to 2"),
        (["--song", ""], "a song is missing"),
        (["--song", "sonata"], "no song's name has 'sonata'"),
        (["--song", "r"], "3 songs have 'r' in their names: 0 a chorale, 1 repeats, 2 rubato"),
        (["--song", "0,"], "a song is missing"),
        (["--song", "none.mid"], "none.mid: no such file"),
        (["--song", "0", "--key", "H"], "no key 'H'; give one such as C, Eb or F#m"),
        (["--perturb", "0:1e300"], "noise of 1e+300"),
        (["--song", "0", "--out", "x.wav"], "--out x.wav: name a .mid file, and add --wav"),
        (["--song", "0", "--out", "x.png"], "--out x.png: name a .mid file, and add --png"),
        (["--mix", "999:1"], "no song 999"),
        (["--mix", "0:nan"], "finite number"),
        (["--mix", "0:0"], "add up to 0"),
        (["--mix", "0:1.5,1:-0.5"], "the weight -0.5 in '0:1.5,1:-0.5' is below 0; give 0 or more"),
        (["--mix", ""], "a song is missing"),
        (["--mix", "0:1,0:1"], "named twice"),
        (["--morph", "0"], "name two songs at least"),
        (["--morph", "0,9"], "no song 9"),
        (["--perturb", "0:-1"], "must be 0 to 1"),
        (["--song", "0", "--count", "2"], "--count goes with"),
        (["--mix", "0:1", "--best", "2"], "--best with --random"),
        (["--random", "--best", "3"], "--best 3 of --count 1"),
    ],
)
def test_wrong_recipes_write_nothing(trained, tmp_path, recipe, part, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(call("sample", "--run", trained.path, *recipe), part)
    assert list(tmp_path.iterdir()) == []


def test_a_song_in_a_file_that_the_run_has(trained, songs_folder, tmp_path):
    """Found by its content; it need not be learned again."""
    other = shutil.copy(songs_folder / "rubato.mid", tmp_path / "other name.mid")
    answer = call("sample", "--run", trained.path, "--song", other, "--out", tmp_path / "a.mid")
    assert (answer.code, answer.err) == (0, "")
    assert "fitting" not in answer.out
    assert_plays(midi_reader.read(other), midi_reader.read(tmp_path / "a.mid"))


@pytest.mark.parametrize("recipe", [["--song", "{}"], ["--mix", "0:1,{}:1"]])
def test_a_file_that_is_no_song(trained, tmp_path, recipe):
    (tmp_path / "bad.mid").write_bytes(b"MThd")
    recipe = [part.format(tmp_path / "bad.mid") for part in recipe]
    refused(call("sample", "--run", trained.path, *recipe, "--out", tmp_path / "out"), "bad.mid", "cut short")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.mid"]


def test_a_run_that_has_learned_nothing(run, tmp_path):
    shutil.rmtree(run / "checkpoints")
    refused(
        call("sample", "--run", run, "--song", 0, "--out", tmp_path / "a.mid"), "nothing learned yet; train it first"
    )
    assert not (tmp_path / "a.mid").exists()


def test_what_cannot_be_drawn_or_heard_is_told_before_anything_is_written(trained, tmp_path):
    font = ("--soundfont", tmp_path / "none.sf2")
    for flags, part in ((("--wav", *font), "none.sf2: cannot be read"), (font, "--soundfont goes with --wav")):
        refused(call("sample", "--run", trained.path, "--song", 0, *flags, "--out", tmp_path / "out.mid"), part)
        assert list(tmp_path.iterdir()) == []


# Streams and signals


@pytest.mark.parametrize(
    ("redirection", "code"),
    [(">&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 0), ("| true; exit ${PIPESTATUS[0]}", None), (">/dev/full", 1)],
)
def test_streams_that_are_closed_or_full(trained, redirection, code):
    command = f"{shlex.join([sys.executable, 'run.py', 'songs', '--run', str(trained.path)])} {redirection}"
    answer = subprocess.run(["bash", "-c", command], cwd=ROOT, text=True, capture_output=True)
    assert code is None or answer.returncode == code  # whether a pipe's reader has left in time is not certain
    assert answer.stderr.count("\n") == (code == 1)
    assert "Traceback" not in answer.stderr and "Exception ignored" not in answer.stderr


def test_a_file_is_whole_though_stdout_is_closed(trained, tmp_path):
    """What is printed must not land in a file that got the number of stdout."""
    words = [sys.executable, "run.py", "sample", "--run", trained.path, "--song", "0", "--out", tmp_path / "a.mid"]
    assert subprocess.run(["bash", "-c", f"{shlex.join(map(str, words))} >&-"], cwd=ROOT).returncode == 0
    assert_plays(chorale(), midi_reader.read(tmp_path / "a.mid"))


@pytest.mark.parametrize("module", ["nemui_jax", "nemui_jax.cli"])
def test_modules_are_commands(module, trained):
    program = [sys.executable, "-m", module]
    answer = subprocess.run([*program, "songs", "--run", trained.path], cwd=ROOT, text=True, capture_output=True)
    assert (answer.returncode, answer.stdout) == (0, call("songs", "--run", trained.path).out)
    wrong = subprocess.run([*program, "songs", "--run", "none"], cwd=ROOT, text=True, capture_output=True)
    assert f"make one with: {shlex.join(program)} train" in wrong.stderr  # begun as this was


@pytest.mark.parametrize("seconds", [0.3, 0.6, 0.9, 1.4])
def test_ctrl_c_while_jax_is_imported(seconds, trained, tmp_path):
    process = start("sample", "--run", trained.path, "--mix", "0:0.5,1:0.5", "--out", tmp_path / "a.mid")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.send_signal(signal.SIGINT)
    answer = finish(process)
    assert (answer.code, answer.err) in ((130, "nemui: stopped\n"), (0, ""))
    assert (tmp_path / "a.mid").exists() >= (answer.code == 0)
    assert {path.name for path in tmp_path.iterdir()} <= {"a.mid"}


def test_an_error_that_a_library_makes_of_ctrl_c_is_not_reported(monkeypatch):
    def interrupted(_):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ValueError("something failed") from error

    monkeypatch.setattr("nemui_jax.cli.songs.songs", interrupted)
    answer = call("songs")
    assert (answer.code, answer.err) == (130, "nemui: stopped\n")


def test_an_exception_is_not_raised_within_an_import(tmp_path):
    """C++ code that is initialised there would abort the process."""
    (tmp_path / "slow_module.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhole = True\n")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from nemui_jax.cli import signals
with signals.handled() as received:
    try:
        import slow_module
        assert slow_module.whole
        while True: pass
    except signals.Stopped:
        print("whole", len(received) > 1)
"""
    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True) == "whole True\n"


def test_what_the_grid_allows_is_said_where_notes_share_cells(tmp_path):
    (tmp_path / "songs").mkdir()
    lates = (0.0, 0.01, 0.02)
    thrice = [(beat * 0.5 + late, beat * 0.5 + 0.4, 60 + beat % 5) for beat in range(16) for late in lates]
    midi_writer.write(make_song(thrice, tempos=[(0.0, 0.5)]), tmp_path / "songs/doubled.mid")
    train = call("train", "--dir", tmp_path / "songs", "--run", tmp_path / "run", "--steps", 50, settings=SMALLEST)
    assert "possible" in train.out
    table = call("songs", "--run", tmp_path / "run").out.splitlines()
    assert table[0].split()[-1] == "possible"
    assert table[1].split()[-1] == "0.8000"  # 32 of 48 notes: recall 2/3, precision 1


def test_a_finished_run_is_not_refused_for_lack_of_disk(trained, songs_folder, tmp_path, monkeypatch):
    path = shutil.copytree(trained.path, tmp_path / "run")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    refused(call("train", "--dir", songs_folder, "--run", tmp_path / "new"), "MiB are free")
    answer = call("train", "--dir", songs_folder, "--run", path)
    assert (answer.code, answer.err) == (0, "")
    assert "training is finished" in answer.out
