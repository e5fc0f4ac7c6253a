"""Bands are learned part by part, come back as they were, and join a run of piano pieces."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Trained, band, call, rubato, settings_flags, transposed

import nemui_jax as nemui
from nemui_jax.data import curves
from nemui_jax.errors import UsageError
from nemui_jax.evaluation import note_metrics
from nemui_jax.music import midi_reader, midi_writer
from nemui_jax.music.song import CONTROL, PITCH_BEND, Part, Song, TempoMap, retime
from nemui_jax.runs.run import read_run, read_scores
from nemui_jax.sampling.decode import decode_song, latent_songs
from nemui_jax.sampling.play import play_back

pytestmark = pytest.mark.usefixtures("small_batches")

SETTINGS = settings_flags(TINY)[1::2]


@pytest.fixture(scope="module")
def bands(tmp_path_factory) -> Path:
    """A folder of two bands: the second is a tone higher, and slower."""
    folder = tmp_path_factory.mktemp("bands")
    midi_writer.write(band(), folder / "band.mid")
    slower = retime(transposed(band(), 2), TempoMap.steady(0.5), TempoMap.steady(0.6))
    midi_writer.write(dataclasses.replace(slower, name="Higher"), folder / "higher.mid")
    return folder


@pytest.fixture(scope="module")
def trained_bands(bands, tmp_path_factory) -> nemui.LoadedRun:
    """A run that knows the two bands; read only."""
    return nemui.train(bands, tmp_path_factory.mktemp("runs") / "bands", overrides=SETTINGS)


@pytest.fixture(scope="module")
def played(trained_bands, tmp_path_factory) -> Song:
    """The band as it comes back, read from the file that is written."""
    path = tmp_path_factory.mktemp("played") / "band.mid"
    trained_bands.song("band").write(path)
    return midi_reader.read(path)


def by_name(song: Song) -> dict[str, Part]:
    return {part.name: part for part in song.parts}


def test_heads_and_pitches_fit_the_bands(trained_bands):
    config = trained_bands.config
    assert config.model.heads == (*TINY.model.heads, "half_pedal", "bend", "modulation", "expression")
    assert config.roll.low <= 36  # drums keep their pitches
    assert config.roll.high == 75 + 5  # G major is five semitones below C


def test_a_band_has_fewer_rows_than_cells(trained_bands):
    """In another key and at another tempo as few: in the common key and on its beats it is the same music."""
    rows = [entry.rows for entry in trained_bands.run.entries]
    assert rows[0] == rows[1] == len(trained_bands.table) // 2 < 4 * 24 - 16


def test_a_band_comes_back_part_by_part(played):
    source = by_name(band())
    assert [part.name for part in played.parts] == ["Lead", "Bass", "Strings", "Drums"]
    for name, part in by_name(played).items():
        wanted = source[name]
        assert (part.program, part.channel, part.is_drums) == (wanted.program, wanted.channel, wanted.is_drums)
        scores = note_metrics.note_scores(wanted.notes, part.notes)
        assert (scores.onset.f1, scores.velocity.f1 if not part.is_drums else 1) == (1, 1), name
        assert scores.onset_error_seconds < 0.004
        assert part.is_drums or scores.offset.f1 == 1
    np.testing.assert_array_equal(by_name(played)["Drums"].notes["pitch"], source["Drums"].notes["pitch"])


def test_its_controllers_come_back(played):
    """Those that move in steps of the grid; the others just as they were in the file."""
    source = by_name(band())
    for name, part in by_name(played).items():
        moving = curves.moving(source[name])
        assert curves.moving(part) == moving, name
        assert settings_of(part) == settings_of(source[name]), name
        times = np.arange(0, 8, 0.01)
        for curve in (curves.CURVES[one] for one in moving if one not in ("pedal", "half_pedal")):
            now, was = (value_at(each.controls, curve, times) for each in (part, source[name]))
            assert (np.abs(now - was) <= 0.06 * (curve.high - curve.low)).mean() > 0.97, curve
    pedal = [
        value_at(each.controls, curves.CURVES["pedal"], times)
        for each in (by_name(played)["Strings"], source["Strings"])
    ]
    assert ((pedal[0] >= 64) == (pedal[1] >= 64)).mean() > 0.98
    assert (np.abs(pedal[0] - pedal[1]) <= 8).mean() > 0.97  # half pedal


def settings_of(part: Part) -> list[tuple]:
    """What does not move, without the program changes of the file."""
    found = curves.settings(part)
    return sorted(found[found["controller"] < 130].tolist())


def value_at(controls: np.ndarray, curve: curves.Curve, times: np.ndarray) -> np.ndarray:
    moves = controls[controls["controller"] == curve.controller]
    return np.append(curve.first, moves["value"]).astype(int)[np.searchsorted(moves["time"], times, side="right")]


def test_a_bend_ends_where_it_began(played):
    bends = by_name(played)["Lead"].controls
    bends = bends[bends["controller"] == curves.CURVES["bend"].controller]
    assert bends["value"][-1] == 0
    assert not [part.name for part in played.parts if part.name != "Lead" and 128 in part.controls["controller"]]


def test_its_words_keys_and_bars_come_back(played):
    source = band()
    assert [(text.kind, text.text) for text in played.texts if "nemui" not in text.text] == [
        (text.kind, text.text) for text in source.texts
    ]
    np.testing.assert_array_equal(played.key_signatures, source.key_signatures)
    np.testing.assert_array_equal(played.meters, source.meters)
    np.testing.assert_allclose(played.tempo_map.beat_seconds, source.tempo_map.beat_seconds)


def test_the_score_says_how_well(trained_bands):
    for scores in read_scores(trained_bands.run):
        assert (scores["onset"], scores["offset"], scores["velocity"]) == (1, 1, 1)
    other = dataclasses.replace(band(), parts=tuple(dataclasses.replace(part, program=7) for part in band().parts))
    drums, notes = band().drums, band().drums + len(band().notes)
    assert note_metrics.playback_scores(band(), other)["onset"] == pytest.approx(drums / notes)  # instruments count


def test_one_instrument_leaves_drums_out(trained_bands):
    config, run = trained_bands.config, trained_bands.run
    song = latent_songs(run.corpus(), trained_bands.table, config)[0]
    grid = decode_song(trained_bands.params, song, config)
    (part,) = play_back(trained_bands.params, song, config, program=3).parts
    assert (part.program, part.is_drums) == (3, False)
    assert len(part.notes) == sum(len(each.notes) for each in grid.parts if not each.is_drums)


# Training on


def test_the_same_command_goes_on_with_the_heads_of_the_run(trained_bands, bands):
    lines: list[str] = []
    again = nemui.train(bands, trained_bands.run.path, overrides=SETTINGS, report=lines.append)
    assert again.run == trained_bands.run
    assert lines == [f"training is finished: all {again.run.total:,} steps are done"]


def test_heads_that_are_set_stay(bands, tmp_path):
    options = {"overrides": [*SETTINGS, "model.heads=onset,frame,bend"], "steps": 50}
    run = nemui.train(bands, tmp_path / "run", **options)
    assert run.config.model.heads == ("onset", "frame", "bend")
    assert nemui.train(bands, tmp_path / "run", **options).run == run.run
    moved = [set(part.controls["controller"]) & {1, 11, 64, 128} for part in run.song(0).song.parts]
    assert set().union(*moved) <= {128}  # no other controller is learned
    with pytest.raises(UsageError, match=r"model\.heads: no head 'wah'"):
        nemui.train(bands, tmp_path / "new", overrides=["model.heads=onset,frame,wah"])


def test_a_band_joins_a_run_of_piano_pieces(trained: Trained, bands, tmp_path):
    path = shutil.copytree(trained.path, tmp_path / "run")
    before, scores = read_run(path), read_scores(read_run(path))
    old_table = np.asarray(nemui.load(path).table)
    answer = call("add", "--file", bands / "band.mid", "--run", path)
    assert answer.code == 0, answer
    run = read_run(path)
    assert run.config.model.heads == (*before.config.model.heads, "half_pedal", "bend", "modulation", "expression")
    assert run.config.roll.low == min(before.config.roll.low, 36)
    assert run.config.roll.high == max(before.config.roll.high, 80)
    assert run.entries[:3] == before.entries
    assert [part.name for part in run.entries[3].parts] == ["Lead", "Bass", "Strings", "Drums"]
    table = np.asarray(nemui.load(path).table)
    np.testing.assert_array_equal(table[: before.rows], old_table)  # rows of old songs do not change
    assert len(table) == run.rows == before.rows + run.entries[3].rows
    now = read_scores(run)
    for was, then in zip(scores, now, strict=False):
        assert then["onset"] > was["onset"] - 0.02
    assert now[3]["onset"] > 0.95
    loaded = nemui.load(path)
    assert [part.program for part in loaded.song(3).song.parts] == [81, 33, 48, 8]
    assert note_metrics.playback_scores(rubato(), loaded.song("rubato").song)["onset"] > 0.98
    answer = call("train", "--dir", bands, "--run", path)  # knows one of the two, and adds the other
    assert answer.code == 0, answer
    assert [entry.name for entry in read_run(path).entries[3:]] == ["band", "higher"]


def test_a_file_of_a_band_is_fitted_to_a_run_of_piano_pieces(trained: Trained, tmp_path):
    """With pitches and controllers that the run does not have, and played part by part."""
    low = dataclasses.replace(band(), parts=tuple(_an_octave_lower(part) for part in band().parts))
    midi_writer.write(low, tmp_path / "low.mid")
    lines: list[str] = []
    piece = nemui.load(trained.path, lines.append).song(tmp_path / "low.mid")
    assert "not in the run; fitting it" in lines[0]
    assert "fine-tuning the decoder for this output" in lines[1]
    assert [part.name for part in piece.song.parts] == ["Lead", "Bass", "Strings", "Drums"]
    assert note_metrics.playback_scores(low, piece.song)["onset"] > 0.9
    assert len(read_run(trained.path).entries) == 3


def test_a_file_is_fitted_without_what_the_run_cannot_play_and_that_is_said(trained: Trained, tmp_path, monkeypatch):
    monkeypatch.setattr("nemui_jax.runs.loader.FIT_ENOUGH", 0.0)
    midi_writer.write(band(), tmp_path / "band.mid")
    lines: list[str] = []
    piece = nemui.load(trained.path, lines.append).song(tmp_path / "band.mid")
    assert not any((part.controls["controller"] == PITCH_BEND).any() for part in piece.song.parts)
    assert "band.mid: played without half pedal, bend, modulation, expression" in lines[-1]
    assert "add --file" in lines[-1]


def _an_octave_lower(part: Part) -> Part:
    notes = part.notes.copy()
    notes["pitch"] -= 0 if part.is_drums else 12
    return dataclasses.replace(part, notes=notes, controls=part.controls.astype(CONTROL))
