"""Training from Python: events, stopping, songs in memory."""

import dataclasses
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import SMALLEST, call, chorale, make_song, repeats, rubato, settings_flags

import nemui_jax as nemui
from nemui_jax.data import dataset
from nemui_jax.errors import UsageError
from nemui_jax.runs import checkpoint
from nemui_jax.runs.run import read_log, read_run

SETTINGS = settings_flags(SMALLEST)[1::2]


def train(songs, path: Path, **options) -> nemui.LoadedRun:
    return nemui.train(songs, path, **({"overrides": SETTINGS, "steps": 200} | options))


def test_events_are_what_the_log_says(songs_folder, tmp_path):
    events: list[nemui.Event] = []
    run = train(songs_folder, tmp_path / "run", callbacks=[events.append])
    assert [(event.step, event.total, len(event.losses)) for event in events] == [
        (n, 200, 50) for n in range(50, 201, 50)
    ]
    log = read_log(run.run)
    assert [row["loss"] for row in log] == [event.loss for event in events]
    assert [row["note_f1"] for row in log] == [event.note_f1 for event in events]
    assert [event.saved for event in events] == [None, None, None, 200]
    assert [bool(scores) for scores in events[-1].scores or ()] == [True] * 3  # at the end all songs are measured
    assert all(before.seconds < after.seconds for before, after in itertools.pairwise(events))
    assert [song.note_f1 for song in run.songs] == [scores["onset"] for scores in events[-1].scores or ()]


def test_a_callback_can_read_the_state(songs_folder, tmp_path):
    norms = []
    train(songs_folder, tmp_path / "run", callbacks=[lambda event: norms.append(float(abs(event.state.latents).sum()))])
    assert len(set(norms)) == 4


def test_should_stop_saves_and_the_same_call_continues_as_if_it_had_not(songs_folder, tmp_path):
    whole = train(songs_folder, tmp_path / "whole")
    steps: list[int] = []
    stopped = train(
        songs_folder,
        tmp_path / "run",
        callbacks=[lambda event: steps.append(event.step)],
        should_stop=lambda: len(steps) == 1,  # asked before the callbacks of the second chunk
    )
    assert steps == [50, 100]
    assert checkpoint.saved_steps(stopped.run.path) == [100]
    lines: list[str] = []
    train(songs_folder, tmp_path / "run", report=lines.append)
    assert lines == ["continues after step 100 of 200"]
    states = [checkpoint.restore(read_run(run.run.path), 200) for run in (whole, stopped)]
    for leaf, other in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(leaf, other)


def test_songs_in_memory(tmp_path):
    songs = [chorale(), repeats(), rubato()]
    run = train(songs, tmp_path / "run")
    assert [song.name for song in run.songs] == ["Chorale", "song 1", "Rubato № 1"]
    for index, song in enumerate(songs):
        np.testing.assert_array_equal(run.run.song(index).notes, song.notes)
    assert train(songs, tmp_path / "run").run == run.run
    with pytest.raises(UsageError, match=r"song 0 .* has no notes"):
        train([make_song([])], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_python_and_the_command_line_continue_each_other(songs_folder, tmp_path):
    flags = ("--dir", songs_folder, "--run", tmp_path / "run", "--steps", 200)
    answer = call("train", *flags, settings=SMALLEST)
    assert answer.code == 0, answer
    lines: list[str] = []
    train(songs_folder, tmp_path / "run", report=lines.append)
    assert lines == ["training is finished: all 200 steps are done"]
    with pytest.raises(UsageError, match=r"other settings \(model.latent_size: 4, now 5\)"):
        train(songs_folder, tmp_path / "run", overrides=[*SETTINGS, "model.latent_size=5"])


def test_a_configuration_of_ones_own_is_taken_as_it_is(songs_folder, tmp_path):
    corpus, _ = dataset.load(songs_folder, SMALLEST.roll)
    run = train(songs_folder, tmp_path / "run", config=SMALLEST, overrides=(), steps=1)
    assert run.config == dataset.fit_pitches(SMALLEST, corpus)
    wider = dataclasses.replace(SMALLEST, roll=dataclasses.replace(SMALLEST.roll, common_key=False, low=0, high=127))
    assert train(songs_folder, tmp_path / "wide", config=wider, overrides=(), steps=1).config == wider


def test_an_error_of_a_callback_leaves_what_was_saved(songs_folder, tmp_path):
    def fail(event: nemui.Event) -> None:
        if event.step == 150:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        train(songs_folder, tmp_path / "run", callbacks=[fail], save_seconds=0)
    assert checkpoint.whole_step(read_run(tmp_path / "run")) == (150, [])


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"seed": 2**63}, {"steps": 0}, {"steps": 5 * 10**9}, {"minutes": 1e12}]
)
def test_absurd_numbers_are_refused(songs_folder, tmp_path, wrong):
    with pytest.raises(UsageError, match="is out of range"):
        train(songs_folder, tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()
