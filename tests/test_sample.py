"""Mixes, morphs, variations, new songs, and songs that the run has not seen, as functions of a trained run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SONGS, TINY, make_song, waltzes

import nemui_jax as nemui
from nemui_jax.data import dataset
from nemui_jax.errors import RecipeError, UsageError
from nemui_jax.evaluation import note_metrics
from nemui_jax.music import midi_writer
from nemui_jax.music.song import Song
from nemui_jax.runs import adding, checkpoint
from nemui_jax.runs.run import Run, read_run, read_scores, write_scores

pytestmark = pytest.mark.usefixtures("small_batches")

CHORALE, REPEATS, RUBATO = (make() for make in SONGS.values())


@pytest.fixture(scope="module")
def run(trained) -> nemui.LoadedRun:
    return nemui.load(trained.path)


@pytest.fixture
def copy_of_trained(trained, tmp_path) -> Path:
    return shutil.copytree(trained.path, tmp_path / "run")


def onset_f1(source: Song, played: Song, start: float = 0.0, end: float = np.inf) -> float:
    parts = [song.notes[(song.notes["onset"] >= start) & (song.notes["onset"] < end)] for song in (source, played)]
    return note_metrics.note_scores(*parts).onset.f1


# Mixes and morphs


def test_ends_of_a_mix_are_the_songs(run):
    for weights, song in (({0: 1, 1: 0}, CHORALE), ({0: 0, 1: 1}, REPEATS)):
        played = run.mix(weights).song
        assert len(played.notes) > 30
        assert onset_f1(song, played, end=played.seconds) == 1


def test_a_mix_is_as_full_as_its_songs(run):
    played = run.mix({"a chorale": 0.5, "rubato": 0.5})
    notes = [(song.notes["onset"] < 9 * 0.6).sum() for song in (played, CHORALE, RUBATO)]  # the chorale's whole bars
    assert notes[0] == pytest.approx(np.mean(notes[1:]), rel=0.25)


def test_a_morph_begins_and_ends_as_its_songs(run):
    played = run.morph([0, "rubato"]).song
    assert onset_f1(CHORALE, played, end=0.7) > 0.8
    assert RUBATO.program in played.notes["program"][played.notes["onset"] > played.seconds - 2]


def test_a_weight_below_0_is_refused(run):
    with pytest.raises(RecipeError, match=r"the weight -0.5 in '0:1.5,1:-0.5' is below 0"):
        run.mix({0: 1.5, 1: -0.5})


def test_a_shorter_mix_is_the_beginning_of_the_whole_one(run):
    whole, short = (run.mix({0: 0.5, "rubato": 0.5}, seconds=seconds).song for seconds in (None, 4))
    assert 0 < short.seconds <= 4
    before = whole.notes[whole.notes["onset"] < 3.9]
    assert short.notes[short.notes["onset"] < 3.9][["onset", "pitch"]].tolist() == before[["onset", "pitch"]].tolist()


# Variations and new songs


def test_variations_leave_their_song_the_more_noise_there_is(run):
    likeness = [note_metrics.likeness(run.perturb("rubato", noise).notes, RUBATO.notes) for noise in (0, 0.5, 1)]
    assert likeness[0] == 1
    assert likeness[0] >= likeness[1] >= likeness[2] < 1


def test_variations_differ_by_their_seed_and_can_be_made_again(run):
    first, other = (run.perturb("a chorale", 1, seed=seed).notes.tobytes() for seed in (3, 4))
    assert first == run.perturb("a chorale", 1, seed=3).notes.tobytes()
    assert first != other


def test_the_best_of_new_songs_are_new_and_the_first_of_all(run):
    every = run.randoms(4, seconds=10)
    best = run.randoms(4, 2, seconds=10)
    assert [piece.notes.tobytes() for piece in best] == [piece.notes.tobytes() for piece in every[:2]]
    assert len({piece.notes.tobytes() for piece in every}) == len(every) >= 2
    for piece in every:
        assert piece.remark.startswith("nearest song ")
        assert 8 < piece.seconds <= 10
        assert max(note_metrics.likeness(piece.notes, song.notes) for song in (CHORALE, REPEATS, RUBATO)) < 1


# Options


def test_a_key_moves_every_note_as_far_and_a_program_is_taken(run):
    plain, moved = run.mix({0: 0.5, 1: 0.5}), run.mix({0: 0.5, 1: 0.5}, key="Eb", program=11)
    # The mix has the key of the chorale, C.
    assert set((moved.notes["pitch"].astype(int) - plain.notes["pitch"]) % 12) == {3}
    assert set(moved.notes["program"]) == {11} != set(plain.notes["program"])


def test_a_temperature_draws_other_notes_and_as_many(run):
    plain, drawn = run.mix({0: 0.5, "rubato": 0.5}), run.mix({0: 0.5, "rubato": 0.5}, temperature=2)
    assert len(drawn.notes) == pytest.approx(len(plain.notes), rel=0.2)
    assert note_metrics.likeness(drawn.notes, plain.notes) < 1


def test_a_mix_lasts_as_long_as_it_is_asked_to(run):
    assert 15 < run.mix({0: 0.5, 1: 0.5}, seconds=20).seconds < 20.01


# Songs that the run has not seen


def stranger() -> Song:
    """A tune in F with a pitch that the run's grid does not reach."""
    steps = [0, 4, 7, 12, 7, 4, 9, 5, 0, 5, 9, 12, 11, 7, 2, -1]
    return make_song(
        [(0.3 * i, 0.3 * i + 0.25, 65 + step, 60 + i) for i, step in enumerate(steps)] + [(4.8, 5.2, 100, 70)],
        name="stranger",
    )


def test_a_file_that_the_decoder_can_play_is_mixed_as_it_is(trained, tmp_path, monkeypatch):
    """Its rows are fitted; nothing else is learned, and the run stays as it was."""
    monkeypatch.setattr("nemui_jax.runs.loader.FIT_ENOUGH", 0.0)
    midi_writer.write(stranger(), tmp_path / "stranger.mid")
    before = {path: path.read_bytes() for path in trained.path.rglob("*") if path.is_file()}
    lines = []
    piece = nemui.load(trained.path, lines.append).mix({0: 0.5, tmp_path / "stranger.mid": 0.5})
    assert piece.songs == ("a chorale", "stranger")
    said = ("not in the run; fitting it", "fitted, with the decoder as it is; note F1 ")
    for line, part in zip(lines, said, strict=True):
        assert f"stranger.mid: {part}" in line
    assert before == {path: path.read_bytes() for path in trained.path.rglob("*") if path.is_file()}


def test_a_song_is_added_and_the_others_are_kept(trained, copy_of_trained):
    adding.add(copy_of_trained, dataset.from_songs([stranger()], TINY))
    assert [song.name for song in nemui.load(copy_of_trained).songs][-1] == "stranger"
    old, new = read_run(trained.path), read_run(copy_of_trained)
    tables = [checkpoint.restore_table(run, checkpoint.whole_step(run)[0]) for run in (old, new)]
    np.testing.assert_array_equal(tables[1][: old.rows], tables[0])
    assert len(tables[1]) == new.rows > old.rows
    run = nemui.load(copy_of_trained)
    for index, source in enumerate((CHORALE, REPEATS, RUBATO, stranger())):
        assert onset_f1(source, run.song(index).song) > 0.9
    with pytest.raises(UsageError, match="stranger: in the run already, as song 3 stranger"):
        adding.add(copy_of_trained, dataset.from_songs([stranger()], TINY))


def test_of_a_run_that_songs_are_added_to_few_songs_are_read(copy_of_trained, monkeypatch):
    """Others keep their scores; the one that `add` was stopped before it could measure has its own measured now."""
    read, song = [], Run.song
    monkeypatch.setattr(Run, "song", lambda run, index: read.append(index) or song(run, index))
    monkeypatch.setattr(adding, "MEASURED_SONGS", 2)
    scores = read_scores(read_run(copy_of_trained))
    scores[1] = {"onset": 0.123}  # not measured again
    write_scores(read_run(copy_of_trained), scores[:2])
    lines: list[str] = []
    run = adding.add(copy_of_trained, dataset.from_songs([stranger()], TINY), report=lines.append)
    assert read == [2, 3, 0, 2]  # before, when it is learned, and in the end
    now = read_scores(run)
    assert now[1] == {"onset": 0.123}
    assert now[2]["onset"] > 0.9 and now[3]["onset"] > 0.9
    assert "; of 2 other songs none lost more than 0.0" in lines[-1]


# Songs on the clocks of their files


@pytest.fixture(scope="module")
def on_beats(trained_waltzes) -> nemui.LoadedRun:
    return nemui.load(trained_waltzes)


def test_songs_learned_in_beats_come_back_in_seconds(on_beats):
    for name, source in waltzes().items():
        song = on_beats.song(name).song
        scores = note_metrics.note_scores(source.notes, song.notes)
        assert scores.onset.f1 == scores.offset.f1 == 1
        np.testing.assert_allclose(song.notes["onset"], source.notes["onset"], atol=1e-4)  # a score comes back exactly
        np.testing.assert_allclose(song.tempo_map.beat_seconds, source.tempo_map.beat_seconds, rtol=1e-3)
        np.testing.assert_allclose(song.meters["time"], source.meters["time"], atol=0.005)


def test_a_mix_in_beats_is_on_the_beat_at_the_tempo_between(on_beats):
    song = on_beats.mix({"fast": 0.5, "slow": 0.5}).song
    quarter = np.sqrt(0.35 * 0.5)
    beats = song.notes["onset"][song.notes["onset"] < 24 * quarter - 0.1] / quarter
    assert len(beats) >= 20
    assert (np.abs(beats - np.round(beats)) < 0.05).mean() >= 0.9
    assert song.tempo_map.beat_seconds[0] == pytest.approx(quarter) and len(song.tempo_map.beat) > 1


def test_seconds_of_a_mix_in_beats_are_seconds(on_beats):
    assert on_beats.mix({"fast": 0.5, "slow": 0.5}, seconds=7).seconds == pytest.approx(7, abs=0.6)
    assert on_beats.song("slow", seconds=5).seconds == pytest.approx(5, abs=0.6)
