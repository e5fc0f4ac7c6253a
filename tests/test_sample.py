"""Mixes, morphs, variations, new songs, songs that the run has not seen; and the measures of all that."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import SONGS, call, make_song

from nemui_jax import config
from nemui_jax.data import layout, pianoroll
from nemui_jax.evaluation import note_metrics, report
from nemui_jax.music import midi_reader, midi_writer
from nemui_jax.music.song import Song
from nemui_jax.runs import checkpoint
from nemui_jax.runs.run import read_run
from nemui_jax.sampling.blend import latent_weights, mix_weights, morph_weights
from nemui_jax.sampling.decode import Decoded, latent_tracks
from nemui_jax.sampling.play import play, play_back
from nemui_jax.sampling.select import (
    RESTRIKE_STEPS,
    WINDOW_BLOCKS,
    DecodedSong,
    Density,
    held_probability,
    measure_density,
    mix_expression,
    select_by_density,
    select_by_threshold,
    top_k_per_window,
)


@pytest.fixture(scope="module")
def known(trained):
    """Configuration, weights and tracks of the trained run."""
    run = read_run(trained.path)
    params, table = checkpoint.restore_model(run, checkpoint.whole_step(run)[0])
    return run.config, params, latent_tracks(run.corpus(), table, run.config)


def made(trained, tmp_path: Path, *arguments: object) -> Song:
    answer = call("sample", "--run", trained.path, *arguments, "--out", tmp_path / "out.mid")
    assert answer.code == 0, answer.err
    return midi_reader.read(tmp_path / "out.mid")


def onset_f1(source: Song, played: Song, start: float = 0.0, end: float = np.inf) -> float:
    parts = [song.notes[(song.notes["onset"] >= start) & (song.notes["onset"] < end)] for song in (source, played)]
    return note_metrics.note_scores(*parts).onset.f1


# Weights


def test_morph_weights_rest_at_each_song_and_move_evenly_between():
    weights = morph_weights(3, 101)
    assert weights.sum(0) == pytest.approx(np.ones(101))
    assert [weights[song, block] for song, block in ((0, 0), (0, 4), (1, 50), (1, 47), (2, 96), (2, 100))] == [1] * 6
    steps = np.abs(np.diff(weights[0]))
    assert steps.max() < 0.03


def test_eased_weights_keep_their_sum_and_songs_alone():
    weights = np.array([[1, 0.75, 0.5, 0], [0, 0.25, 0.5, 1]])
    eased = latent_weights(weights)
    assert eased.sum(0) == pytest.approx(np.ones(4))
    assert eased[:, [0, 2, 3]] == pytest.approx(weights[:, [0, 2, 3]])
    assert 0.25 < eased[1, 1] < 0.5
    beyond = np.array([[1.5], [-0.5]])
    assert latent_weights(beyond) is beyond


# Choosing cells


def test_likeliest_takes_the_counted_cells_of_each_window():
    values = np.random.default_rng(0).random((2 * WINDOW_BLOCKS, 5))
    counts = np.zeros(2 * WINDOW_BLOCKS)
    counts[[0, 3, WINDOW_BLOCKS]] = 2, 1, 7
    chosen = top_k_per_window(values, counts, WINDOW_BLOCKS)
    first, second = chosen[:WINDOW_BLOCKS], chosen[WINDOW_BLOCKS:]
    assert (first.sum(), second.sum()) == (3, 7)
    assert values[:WINDOW_BLOCKS][first].min() > values[:WINDOW_BLOCKS][~first].max()


def test_a_note_sounds_as_long_as_its_frames_have_since_its_onset():
    frame = np.array([[0.9], [0.2], [0.8], [0.7], [0.9]])
    struck = np.array([[True], [False], [False], [True], [False]])
    assert held_probability(struck, frame)[:, 0] == pytest.approx([1, 0.2, 0.2, 1, 0.9])


def flat(config_: config.Config, blocks: int, **cells: float) -> Decoded:
    shape = (blocks * config_.model.block_steps, config_.roll.high - config_.roll.low + 1)
    parts = {name: np.full(shape, cells.get(name, 0.0)) for name in ("onset", "frame", "velocity", "timing")}
    return Decoded(**parts, pedal=np.full(shape[0], cells.get("pedal", 0.0)))


def test_flat_probabilities_give_the_parents_density_and_no_restrikes():
    """The rest collapse: nothing is over 0.5, and there must be as many notes as the songs have."""
    settings = config.Config()
    rng = np.random.default_rng(3)
    mixed = flat(settings, 16)
    mixed = mixed._replace(onset=0.3 * rng.random(mixed.onset.shape), frame=0.3 * rng.random(mixed.frame.shape))
    parents = []
    for every in (4, 8):
        one = flat(settings, 16, velocity=0.5)
        one.onset[::every, 30:33] = 0.99
        one.frame[:, 30:33] = 0.99
        parents.append(one)
    assert len(select_by_threshold(mixed, settings)[0]) == 0
    weights = mix_weights([0.5, 0.5], 16)
    voices = [DecodedSong(parent, measure_density(parent, settings)) for parent in parents]
    grid, _ = select_by_density(mixed, voices, weights, np.zeros(16, bool), settings)
    onsets = [measure_density(parent, settings).onsets.sum() for parent in parents]
    assert len(grid) == pytest.approx(np.mean(onsets), rel=0.05)
    for pitch in np.unique(grid["pitch"]):
        steps = np.sort(grid["step"][grid["pitch"] == pitch])
        assert (np.diff(steps) > RESTRIKE_STEPS).all()


def test_density_counts_onsets_sounding_cells_and_pedal():
    settings = config.Config()
    one = flat(settings, 2)
    one.onset[3, 10] = one.onset[20, 10] = 1
    one.frame[3:7, 10] = 1
    one.pedal[:5] = 0.8
    found = measure_density(one, settings)
    expected = Density(np.array([1, 1]), np.array([4, 1]), np.array([5, 0]))
    for column, wanted in zip(found, expected, strict=True):
        assert column.tolist() == wanted.tolist()


def test_a_mixed_note_is_played_as_its_song_plays_it_at_the_loudness_of_both():
    settings = config.Config()
    loud, soft = flat(settings, 4, velocity=0.8), flat(settings, 4, velocity=0.4)
    loud.onset[::8, 5] = soft.onset[::8, 9] = 1
    loud.velocity[0, 5] = 0.9
    velocity, _ = mix_expression([loud, soft], np.full((2, len(loud.pedal), 1), 0.5), 128)
    assert velocity[8, 9] == pytest.approx(0.6, abs=0.02)
    assert velocity[0, 5] == pytest.approx(velocity[8, 5] + 0.1, abs=0.01)
    assert velocity[8, 20] == pytest.approx(0.6, abs=0.02)


# The command


def test_ends_of_a_mix_are_the_songs(trained, tmp_path):
    for weight, song in ((1, 0), (0, 1)):
        played = made(trained, tmp_path, "--mix", f"0:{weight},1:{1 - weight}")
        assert onset_f1(list(SONGS.values())[song](), played, end=played.seconds) == 1


def test_a_mix_is_as_full_as_its_songs(trained, tmp_path):
    played = made(trained, tmp_path, "--mix", "a chorale:0.5,rubato:0.5")
    songs = [SONGS[name]() for name in ("a chorale.mid", "rubato.mid")]
    parents, seconds = [song.notes for song in songs], min(song.seconds for song in songs)
    assert note_metrics.density_ratio(played.notes, parents, [0.5, 0.5], 0.0, seconds) == pytest.approx(1, abs=0.1)


def test_a_morph_begins_and_ends_as_its_songs(trained, tmp_path):
    played = made(trained, tmp_path, "--morph", "0,rubato")
    first, last = SONGS["a chorale.mid"](), SONGS["rubato.mid"]()
    assert onset_f1(first, played, end=0.7) == 1
    assert onset_f1(last, played, start=last.seconds - 0.7) == 1
    assert played.seconds == pytest.approx(last.seconds, abs=0.2)


def test_variations_leave_their_song_the_more_noise_there_is(trained, tmp_path):
    source = SONGS["rubato.mid"]()
    likeness = [
        note_metrics.likeness(made(trained, tmp_path, "--perturb", f"rubato:{noise}").notes, source.notes)
        for noise in (0, 1, 5)
    ]
    assert likeness[0] == 1
    assert likeness[0] > likeness[1] > likeness[2]


def test_variations_differ_and_can_be_made_again(trained, tmp_path):
    for folder in ("first", "again"):
        call("sample", "--run", trained.path, "--perturb", "rubato:1", "--count", 3, "--out", tmp_path / folder)
    first, again = ([path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in ("first", "again"))
    assert first == again
    assert len(set(first)) == 3


def test_new_songs_are_new_and_say_what_is_nearest(trained, tmp_path):
    out = tmp_path / "new"
    answer = call("sample", "--run", trained.path, "--random", "--count", 4, "--best", 2, "--seconds", 8, "--out", out)
    assert answer.code == 0, answer.err
    assert answer.out.count("nearest song") == len(list(out.glob("*.mid"))) <= 2


def test_key_program_length_and_temperature(trained, tmp_path):
    plain = made(trained, tmp_path, "--mix", "0:0.5,1:0.5")
    moved = made(trained, tmp_path, "--mix", "0:0.5,1:0.5", "--key", "Eb", "--program", 11)
    shift = (moved.notes["pitch"].astype(int) - plain.notes["pitch"]) % 12
    assert len(set(shift.tolist())) == 1
    assert moved.program == 11
    drawn = made(trained, tmp_path, "--mix", "0:0.5,1:0.5", "--temperature", 2)
    assert len(drawn.notes) == pytest.approx(len(plain.notes), rel=0.2)
    assert note_metrics.likeness(drawn.notes, plain.notes) < 1
    longer = made(trained, tmp_path, "--mix", "0:0.5,1:0.5", "--seconds", 20)
    assert 15 < longer.seconds < 20.01


def test_extrapolation_is_told(trained, tmp_path):
    answer = call("sample", "--run", trained.path, "--mix", "0:1.5,1:-0.5", "--out", tmp_path / "out.mid")
    assert answer.code == 0
    assert "below 0 or above 1" in answer.out


@pytest.mark.parametrize(
    "arguments",
    [["--song", "0", "--count", "2"], ["--random", "--best", "3"], ["--morph", "0"], ["--mix", "0", "--best", 1]],
)
def test_flags_that_do_not_go_together(trained, tmp_path, arguments):
    answer = call("sample", "--run", trained.path, *arguments, "--out", tmp_path / "x")
    assert answer.code == 2
    assert not (tmp_path / "x").exists()


def test_sound_and_picture(trained, tmp_path):
    made(trained, tmp_path, "--mix", "0:0.5,1:0.5", "--wav", "--png")
    assert (tmp_path / "out.wav").read_bytes()[:4] == b"RIFF"
    assert (tmp_path / "out.png").read_bytes()[1:4] == b"PNG"


# Songs that the run has not seen


def stranger() -> Song:
    """A tune in F with a pitch that the run's grid does not reach."""
    steps = [0, 4, 7, 12, 7, 4, 9, 5, 0, 5, 9, 12, 11, 7, 2, -1]
    return make_song(
        [(0.3 * i, 0.3 * i + 0.25, 65 + step, 60 + i) for i, step in enumerate(steps)] + [(4.8, 5.2, 100, 70)]
    )


def test_a_file_can_stand_where_a_song_does(trained, tmp_path):
    midi_writer.write(stranger(), tmp_path / "stranger.mid")
    before = {path: path.read_bytes() for path in trained.path.rglob("*") if path.is_file()}
    answer = call(
        "sample", "--run", trained.path, "--mix", f"0:0.5,{tmp_path}/stranger.mid:0.5", "--out", tmp_path / "o"
    )
    assert answer.code == 0, answer.err
    assert "when it is played back" in answer.out
    assert before == {path: path.read_bytes() for path in trained.path.rglob("*") if path.is_file()}


def test_add_teaches_a_song_and_keeps_the_others(trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "run")
    midi_writer.write(stranger(), tmp_path / "stranger.mid")
    answer = call("add", "--file", tmp_path / "stranger.mid", "--run", tmp_path / "run")
    assert answer.code == 0, answer.err
    songs = json.loads(call("songs", "--json", "--run", tmp_path / "run").out)
    assert [song["name"] for song in songs][-1] == "stranger"
    old, new = read_run(trained.path), read_run(tmp_path / "run")
    tables = [checkpoint.restore_table(run, checkpoint.whole_step(run)[0]) for run in (old, new)]
    np.testing.assert_array_equal(tables[1][: old.rows], tables[0])
    assert len(tables[1]) == new.rows > old.rows
    for index, source in enumerate([*(make() for make in SONGS.values()), stranger()]):
        call("sample", "--run", tmp_path / "run", "--song", index, "--out", tmp_path / "out.mid")
        assert onset_f1(source, midi_reader.read(tmp_path / "out.mid")) > 0.9
    again = call("add", "--file", tmp_path / "stranger.mid", "--run", tmp_path / "run")
    assert (again.code, "in the run already, as song 3" in again.err) == (2, True)


# Measures


def test_evaluate_measures_what_was_written(trained, tmp_path):
    answer = call("evaluate", "--run", trained.path, "--json", tmp_path / "figures.json")
    assert answer.code == 0, answer.err
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [row["name"] for row in figures["playback"]] == ["a chorale", "repeats", "rubato"]
    assert all(row["onset"] == row["ceiling"]["onset"] == 1 for row in figures["playback"])
    assert figures["mixes"]["0.5"]["onset_density"] == pytest.approx(1, abs=0.1)
    assert figures["path"]["worst_end"] == 1
    assert {"mix", "cross-fade", "cross-fade, common key", "nearest learned song"} < set(figures["sets"])


def test_a_copy_is_distinguished_from_a_mix():
    first, second, third = (make().notes for make in SONGS.values())
    copy = report.compare_with_parents(first, [first, second], third, 0.0, 5.0)
    assert copy["likeness_first"] == copy["onset_density"] == 1
    assert copy["rest_ratio"] == 0
    both = np.sort(np.concatenate([first[::2], second[::2]]), order=["onset", "pitch"])
    found = report.compare_with_parents(both, [first, second], third, 0.5, 5.0)
    assert min(found["likeness_first"], found["likeness_second"]) > 0.3
    assert found["of_both"] == 1


def test_a_cross_fade_has_notes_of_both_by_weight(known):
    settings, params, tracks = known
    songs = [track.source for track in tracks]
    play = report.baselines(params, songs, settings)["cross-fade"]
    assert play(tracks[:2], 0.0, 10).notes.tolist() == songs[0].notes.tolist()
    assert play(tracks[:2], 1.0, 10).notes.tolist() == songs[1].notes.tolist()
    half = play(tracks[:2], 0.5, 10).notes
    assert 0 < len(half) < len(songs[0].notes) + len(songs[1].notes)


def test_a_short_song_starts_again(known):
    settings, params, tracks = known
    blocks = 3 * layout.count_blocks(tracks[0].steps, settings.model)
    played = play(params, tracks[:1], np.ones((1, blocks)), settings)
    assert len(played.notes) == pytest.approx(3 * len(tracks[0].source.notes), rel=0.1)


def test_one_song_alone_is_recall_whatever_is_beside_it(known):
    settings, params, tracks = known
    blocks = 20
    weights = np.concatenate([mix_weights([1.0, 0.0], blocks // 2), mix_weights([0.5, 0.5], blocks // 2)], 1)
    half = pianoroll.seconds_at(blocks // 2 * settings.model.block_steps, tracks[0].clock)
    played = play(params, tracks[:2], weights, settings)
    alone = play_back(params, tracks[0], settings)
    before = [song.notes[song.notes["onset"] < half - 0.05] for song in (played, alone)]
    assert before[0]["pitch"].tolist() == before[1]["pitch"].tolist()
    np.testing.assert_allclose(before[0]["onset"], before[1]["onset"], atol=1e-9)


def test_settings_of_the_original(songs_folder, tmp_path):
    """The baseline goes through the same code, to the end and to a file."""
    answer = call("train", "--dir", songs_folder, "--run", tmp_path / "run", "--preset", "original", "--steps", 100)
    assert answer.code == 0, answer.err
    answer = call("sample", "--run", tmp_path / "run", "--mix", "0:0.5,1:0.5", "--out", tmp_path / "mix.mid")
    assert answer.code == 0, answer.err
    assert read_run(tmp_path / "run").rows == len(SONGS)
    assert dataclasses.asdict(read_run(tmp_path / "run").config)["preset"] == "original"


# The grid of beats


def waltz(quarter_seconds: float, pitches: Sequence[int]) -> Song:
    """Twelve bars of quarters in three, at a tempo that slows down by half in the last four bars."""
    slow = quarter_seconds * 24
    lasts = np.repeat([quarter_seconds, 2 * quarter_seconds], [24, 12])
    onset = np.concatenate([[0.0], np.cumsum(lasts)[:-1]])
    rows = [(on, on + 0.9 * long, pitch, 70) for on, long, pitch in zip(onset, lasts, pitches, strict=False)]
    tempos = [(0.0, quarter_seconds), (slow, 2 * quarter_seconds)]
    return make_song(rows, tempos=tempos, meters=[(0.0, 3, 4), (slow, 3, 4)])


@pytest.fixture(scope="module")
def on_beats(tmp_path_factory) -> Path:
    """A run that knows two waltzes in beats, one at 1.4 times the other's tempo."""
    folder = tmp_path_factory.mktemp("beats")
    (folder / "songs").mkdir()
    tune = [60, 64, 67, 62, 65, 69, 59, 62, 67] * 4
    midi_writer.write(waltz(0.35, tune), folder / "songs/fast.mid")
    midi_writer.write(waltz(0.5, [pitch - 12 for pitch in tune[3:] + tune[:3]]), folder / "songs/slow.mid")
    answer = call("train", "--dir", folder / "songs", "--run", folder / "run", "--grid", "beats")
    assert answer.code == 0, answer.err
    return folder


def written(folder: Path, *arguments: str) -> Song:
    answer = call("sample", "--run", folder / "run", "--out", folder / "out.mid", *arguments)
    assert answer.code == 0, answer.err
    return midi_reader.read(folder / "out.mid")


def test_songs_learned_in_beats_come_back_in_seconds(on_beats):
    for name in ("fast", "slow"):
        source, song = midi_reader.read(on_beats / f"songs/{name}.mid"), written(on_beats, "--song", name)
        scores = note_metrics.note_scores(source.notes, song.notes)
        assert scores.onset.f1 == scores.offset.f1 == 1
        np.testing.assert_allclose(song.notes["onset"], source.notes["onset"], atol=0.005)
        np.testing.assert_allclose(song.tempo_map.beat_seconds, source.tempo_map.beat_seconds, rtol=1e-3)
        np.testing.assert_allclose(song.meters["time"], source.meters["time"], atol=0.005)


def test_a_mix_in_beats_is_on_the_beat_at_the_tempo_between(on_beats):
    song = written(on_beats, "--mix", "fast:0.5,slow:0.5")
    quarter = np.sqrt(0.35 * 0.5)
    beats = song.notes["onset"][song.notes["onset"] < 24 * quarter - 0.1] / quarter
    assert len(beats) >= 20
    assert (np.abs(beats - np.round(beats)) < 0.05).mean() >= 0.9
    np.testing.assert_allclose(song.tempo_map.beat_seconds, [quarter, 2 * quarter], rtol=0.01)


def test_seconds_of_a_mix_in_beats_are_seconds(on_beats):
    assert written(on_beats, "--mix", "fast:0.5,slow:0.5", "--seconds", "7").seconds == pytest.approx(7, abs=0.6)
    assert written(on_beats, "--song", "slow", "--seconds", "30").seconds == pytest.approx(30, abs=1.6)


def test_a_performance_that_ignores_its_tempo_is_named(tmp_path):
    rng = np.random.default_rng(1)
    rows = [(float(onset), float(onset) + 0.2, 60 + index % 12) for index, onset in enumerate(rng.uniform(0, 20, 60))]
    midi_writer.write(make_song(rows), tmp_path / "free.mid")
    answer = call("train", "--dir", tmp_path, "--run", tmp_path / "run", "--grid", "beats", "--steps", "50")
    assert "free.mid" in answer.out
    assert "do not follow its tempo" in answer.out
