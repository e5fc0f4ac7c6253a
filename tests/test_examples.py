"""The examples run, and do what they say."""

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TINY, band, chorale, settings_flags

import nemui_jax
from nemui_jax.data import dataset
from nemui_jax.evaluation import note_metrics
from nemui_jax.model import heads
from nemui_jax.music import midi_reader

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def main_of(name: str) -> Callable:
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_short_and_tested(path: Path):
    lines = path.read_text().splitlines()
    assert len(lines) < 40
    assert f"python examples/{path.name}" in path.read_text()
    assert f'main_of("{path.stem}")' in Path(__file__).read_text()


def test_mix(trained, tmp_path, capsys):
    main_of("mix")(str(trained.path), str(tmp_path / "out.mid"))
    assert len(midi_reader.read(tmp_path / "out.mid").notes)
    assert "a chorale" in capsys.readouterr().out


def test_decode(monkeypatch, capsys):
    monkeypatch.setattr(nemui_jax, "Config", lambda: TINY, raising=False)
    main_of("decode")()
    assert "expected onsets" in capsys.readouterr().out


def test_step(songs_folder, monkeypatch):
    monkeypatch.setattr(nemui_jax, "Config", lambda: TINY, raising=False)
    losses = main_of("step")(str(songs_folder))
    assert losses[-1] < losses[0] / 2


def test_head(songs_folder, monkeypatch):
    monkeypatch.setattr(nemui_jax, "Config", lambda: TINY, raising=False)
    monkeypatch.setattr(heads, "HEADS", dict(heads.HEADS))  # the example adds to it
    silent = main_of("head")(str(songs_folder))
    corpus, _ = dataset.load(songs_folder, TINY)
    config = dataset.fit_pitches(TINY, corpus)
    frames = dataset.pack(corpus, config).bits[:, 1]
    assert ((silent > 0.5) == ~frames.any(-1)).mean() > 0.95


def test_decoder(songs_folder, tmp_path):
    piece = main_of("decoder")(str(songs_folder), str(tmp_path / "run"), overrides=settings_flags(TINY)[1::2])
    assert note_metrics.note_scores(chorale().notes, piece.notes).onset.f1 > 0.9


def test_override(songs_folder, tmp_path):
    found = main_of("override")(str(songs_folder), str(tmp_path / "runs"), overrides=settings_flags(TINY)[1::2])
    assert found["base"] < found["small"] < 20
    assert found["base"] < found["plain"] < 20


def test_cells(tmp_path, capsys):
    run = nemui_jax.train([band()], tmp_path / "run", overrides=settings_flags(TINY)[1::2], steps=1)
    latent = main_of("cells")(str(tmp_path / "run"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["Lead", "Bass", "Strings", "Drums", "Band:"]
    assert lines[2].split()[1:13] == ["."] * 12  # the strings rest for two bars
    assert lines[3].split()[1:7] * 4 == lines[3].split()[1:]  # bars of drums are equal
    assert f"96 cells of 8 steps in 4 parts; 16 are silent, {80 - run.run.rows} share another's row" in lines[-1]
    np.testing.assert_array_equal(latent[2, 12], np.asarray(run.table)[int(lines[2].split()[13])])


def test_train(songs_folder, tmp_path, capsys):
    run = main_of("train")(str(songs_folder), str(tmp_path / "run"), enough=0.0, overrides=settings_flags(TINY)[1::2])
    assert 0 < run.step < run.run.total  # it was enough soon
    assert f"step {run.step} of {run.run.total}: loss " in capsys.readouterr().out
    assert len(run.song(0).notes)


def test_gradient(trained):
    assert main_of("gradient")(str(trained.path)) == [48, 60, 64, 67]


def test_morph(trained, tmp_path):
    main_of("morph")(str(trained.path), str(tmp_path / "out.mid"))
    played, source = midi_reader.read(tmp_path / "out.mid"), chorale()
    begins = [set(song.notes["pitch"][song.notes["onset"] < 0.05].tolist()) for song in (played, source)]
    assert begins[0] <= begins[1] and len(begins[0]) > 2  # of the second song there is little yet
    assert played.seconds == pytest.approx(20, abs=1)
