"""Every benchmark runs, at its smallest, in a process of its own, and writes what it found as JSON."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, band
from test_beats import performed

from nemui_jax.config import Config
from nemui_jax.data import dataset
from nemui_jax.music import midi_writer
from nemui_jax.music.beat_features import describe
from nemui_jax.music.beat_inputs import make_inputs
from nemui_jax.music.beat_network import BINS, load_weights, read_groups, without
from nemui_jax.music.beats import NO_PEDAL


def test_all(benchmark, songs_folder):
    sizes = ("--batch", 8, 16, "--hidden", 8, "--square", 64, "--seconds", 8)
    out, found = benchmark("all", "--dir", songs_folder, *sizes)
    assert (found["updates"][0]["batch"], found["updates"][0]["precision"]) == (8, "float32")
    assert len(found["updates"]) + len(found["left_out"]) == 4
    for row in found["updates"]:
        assert row["mfu"] > 0 and row["music_steps_per_second"] * row["update_seconds"] == pytest.approx(
            row["batch"] * 12
        )
    assert found["suits"]["batch"] in (8, 16) and found["suits"]["hidden"] == 8
    assert found["note_f1_0.99"]["training_seconds"] > 0 and found["warm_mix_seconds"] > 0
    assert "GB/s copied" in out and "warm mix" in out


def test_library(benchmark, tmp_path):
    """Every round makes other songs of the same length and parts, whose cells are as often repeated."""
    (tmp_path / "songs").mkdir()
    midi_writer.write(band(), tmp_path / "songs" / "band.mid")
    source, _ = dataset.load(tmp_path / "songs", Config())
    hours = 3.5 * source.entries[0].seconds / 3600
    benchmark("library", "--dir", tmp_path / "songs", "--hours", hours, "--out", tmp_path / "library")
    made, _ = dataset.load(tmp_path / "library", Config())
    assert len(made.entries) == 4
    first, *others = made.songs
    for song, entry in zip(others, made.entries[1:], strict=True):
        assert [len(part.notes) for part in song.parts] == [len(part.notes) for part in first.parts]
        assert entry.seconds == pytest.approx(first.seconds, rel=0.1)
        assert entry.rows < 2 * made.entries[0].rows
    melodies = [tuple(song.parts[0].notes["pitch"].tolist()) for song in made.songs]
    assert len(set(melodies)) == 4


def test_recall(benchmark, trained, songs_folder, tmp_path):
    flat = tmp_path / "songs"
    flat.mkdir()
    for path in songs_folder.rglob("*.mid"):
        (flat / Path(path).name).write_bytes(path.read_bytes())
    out, found = benchmark("recall", "--dir", flat, "--run", trained.path)
    assert "mean" in out and found["mean"]["onset"] > 0.5 and len(found["songs"]) == 3


@pytest.fixture
def performances(tmp_path) -> Path:
    """Three tunes played with rubato, with their beats in a file beside each."""
    folder = tmp_path / "performances"
    folder.mkdir()
    for name in ("lullaby", "minuet-in-g", "prelude-in-c"):
        song, quarters = performed(name)
        midi_writer.write(song, folder / f"{name}.mid")
        lines = [f"{time}\t{time}\t{'b' if place % 3 else 'db'}" for place, time in enumerate(quarters.tolist())]
        (folder / f"{name}_annotations.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_beats(benchmark, performances):
    out, found = benchmark("beats", "--dir", performances)
    assert [row["name"] for row in found["performances"]] == ["lullaby", "minuet-in-g", "prelude-in-c"]
    assert found["mean"]["f"] > 0.9 and "minuet-in-g" in out
    _, left_out = benchmark("beats", "--dir", performances, "--left-out")
    assert left_out["mean"]["confidence"] != found["mean"]["confidence"]


def test_networks_for_beats_are_trained(performances, songs_folder, tmp_path):
    """And read notes as those that come with the package do."""
    out, sizes = tmp_path / "network.npz", ("--updates", "2", "--networks", "3")
    command = [
        sys.executable,
        "benchmarks/train_beats.py",
        "--dir",
        performances,
        "--scores",
        songs_folder,
        "--out",
        out,
    ]
    done = subprocess.run([*command, *sizes], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(out) as file:
        weights = {name: file[name].astype(np.float32) for name in file.files}
    assert set(weights) == set(load_weights())
    notes = performed("lullaby")[0].notes
    inputs = make_inputs(describe(notes), notes, NO_PEDAL)
    reading, alone = read_groups(inputs, weights), read_groups(inputs, without(weights, 1))
    assert reading.period.shape == (len(inputs), BINS) and np.isfinite(reading.beat).all()
    assert np.abs(reading.beat - alone.beat).max() > 0


def test_mixing(benchmark):
    out, found = benchmark("mixing", "--pairs", 1)
    assert "factor" in out and len(found["steps"]) == 10
    assert set(found["factors"]) == {"harmony", "melody", "rhythm", "dynamics", "tempo", "instruments"}
