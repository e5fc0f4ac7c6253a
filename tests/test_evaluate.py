"""Measures of runs: on generated notes where they need no decoder, else on an untrained one."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from conftest import SMALLEST, chorale, make_song, repeats, rubato, waltzes

from nemui_jax.data import layout, pianoroll
from nemui_jax.evaluation import note_metrics, report
from nemui_jax.evaluation.language_model import LanguageModel
from nemui_jax.model import decoder
from nemui_jax.music import midi_reader, midi_writer
from nemui_jax.music.clock import STEADY_BEAT_SECONDS, choose_clock, clock_of, steady_clock
from nemui_jax.music.song import NOTE, Song, TempoMap, cut_notes
from nemui_jax.sampling.decode import LatentTrack

SONGS = (chorale(), repeats(), rubato())
STEADY = steady_clock()


def scattered(seed: int, notes: int = 120, seconds: float = 12.0) -> Song:
    rng = np.random.default_rng(seed)
    onset, pitch = np.sort(rng.uniform(0, seconds, notes)), rng.integers(40, 90, notes)
    return make_song([(float(time), float(time) + 0.2, int(note)) for time, note in zip(onset, pitch, strict=True)])


def track(song: Song, seed: int, shift: int = 0, clock: TempoMap = STEADY) -> LatentTrack:
    steps = pianoroll.count_steps(song.seconds, clock)
    shape = (layout.count_song_rows(steps, SMALLEST.model), SMALLEST.model.latent_size)
    return LatentTrack(
        f"song {seed}",
        np.random.default_rng(seed).normal(size=shape).astype(np.float32),
        steps,
        shift,
        song,
        clock,
    )


@pytest.fixture(scope="module")
def params():
    return decoder.init(jax.random.key(0), SMALLEST)


def numbers(value) -> list:
    """Every leaf of plain data that is no text."""
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in numbers(part)]
    if isinstance(value, list):
        return [leaf for part in value for leaf in numbers(part)]
    return [] if isinstance(value, str) else [value]


# The whole of it


@pytest.mark.evaluates
@pytest.mark.parametrize("count", [1, 2])  # of three see below
def test_an_untrained_run_is_measured_too_and_fits_json(params, count):
    tracks = [track(song, index, index) for index, song in enumerate(SONGS[:count])]
    seen = []
    result = report.evaluate(params, tracks, SONGS[:count], SMALLEST, progress=lambda *done: seen.append(done))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert all(leaf is None or type(leaf) is float for leaf in numbers({**result, "songs": []}))
    pairs = count * (count - 1) // 2
    assert seen == [(done + 1, pairs) for done in range(pairs)]
    assert set(result) == ({"songs", "playback", "mixes", "path", "sets"} if pairs else {"songs", "playback"})
    if pairs:
        assert set(result["mixes"]) == {"0.25", "0.5", "0.75"}
        # An untrained decoder recalls nothing, and neither do the ends of its paths.
        assert result["path"]["worst_end"] < 0.5
        assert result["path"]["worst_morph_end"] < 0.5


@pytest.mark.evaluates
def test_songs_of_a_moment_are_measured(params):
    blip = make_song([(0.0, 0.1, 60)])
    tracks = [track(song, index) for index, song in enumerate((blip, blip, chorale()))]
    result = report.evaluate(params, tracks, [one.source for one in tracks], SMALLEST)
    json.dumps(result, allow_nan=False)
    assert [row["ceiling"]["onset"] for row in result["playback"]] == [1, 1, 1]


@pytest.mark.evaluates
def test_another_runs_mixes_are_one_more_set(params):
    tracks = [track(song, index) for index, song in enumerate(SONGS)]
    asked = []

    def original(pair, weight, blocks):
        asked.append(([one.name for one in pair], weight, blocks))
        return pair[0].source

    result = report.evaluate(params, tracks, SONGS, SMALLEST, original)
    assert sorted(names for names, _, _ in asked) == [
        ["song 0", "song 1"],
        ["song 0", "song 2"],
        ["song 1", "song 2"],
    ]
    assert {weight for _, weight, _ in asked} == {0.5}
    real = result["sets"]["original preset's mix"]
    assert real["overlapping_area"] > result["sets"]["mix"]["overlapping_area"]  # songs against noise
    assert real["kl_divergence"] < result["sets"]["mix"]["kl_divergence"]
    assert set(real["overlapping_areas"]) == set(real["kl_divergences"])


@pytest.mark.evaluates
def test_songs_on_their_files_clocks_are_recalled_in_seconds_and_mixed_at_one_tempo(params):
    songs = [*waltzes().values(), chorale()]
    tracks = [track(song, index, clock=clock_of(song, choose_clock(song))) for index, song in enumerate(songs)]
    assert [len(one.clock.beat) for one in tracks] == [2, 2, 1]  # the waltzes slow down
    asked = {}

    def original(pair, weight, blocks):
        asked.update({one.name: one for one in pair})
        return pair[0].source

    result = report.evaluate(params, tracks, songs, SMALLEST, original)
    for row in result["playback"]:
        assert row["ceiling"]["onset"] == row["ceiling"]["offset"] == 1
        assert row["ceiling"]["onset_error_seconds"] == pytest.approx(0, abs=1e-6)
    for name in ("song 0", "song 1"):
        np.testing.assert_allclose(asked[name].source.notes["onset"], STEADY_BEAT_SECONDS * np.arange(36), atol=1e-6)
        assert asked[name].clock.beat_seconds.tolist() == [STEADY_BEAT_SECONDS]
    # What plays the songs themselves at that tempo is closer to them than noise is.
    sets = result["sets"]
    assert sets["original preset's mix"]["overlapping_area"] > sets["mix"]["overlapping_area"] + 0.2


# Pairs


def test_pairs_are_always_the_same_and_never_twice():
    pairs = report.draw_pairs(16)
    assert len(set(pairs)) == report.PAIRS == 24
    assert pairs == report.draw_pairs(16)
    assert all(0 <= first < second < 16 for first, second in pairs)
    assert len({song for pair in pairs for song in pair}) > 10
    assert sorted(report.draw_pairs(3)) == [(0, 1), (0, 2), (1, 2)]
    assert report.draw_pairs(1) == []


# Recall


def test_the_ceiling_is_what_the_grid_keeps(params):
    tracks = [track(song, index) for index, song in enumerate(SONGS)]
    for row in report.score_playback(params, tracks, SONGS, SMALLEST):
        assert row["ceiling"]["onset"] == 1
        assert row["ceiling"]["onset_error_seconds"] == pytest.approx(0, abs=1e-6)
        assert row["ceiling"]["pedal"] > 0.95
        assert row["onset"] < 0.5  # the decoder is untrained
    # Two notes in one cell are more than the grid holds.
    crowd = make_song([(0.0, 0.3, 60), (1.0, 1.02, 62), (1.015, 1.4, 62)])
    row = report.score_playback(params, [track(crowd, 0)], [crowd], SMALLEST)[0]
    assert row["ceiling"]["onset"] == pytest.approx(0.8)


# A mix against its parents


def test_a_mix_is_compared_with_its_parents_by_weight():
    first, second, third = (scattered(seed, notes).notes for seed, notes in ((0, 120), (1, 60), (2, 90)))
    found = report.compare_with_parents(second, [first, second], third, 0.25, 12.0)
    assert found["onset_density"] == pytest.approx(60 / 105)
    assert found["dense_enough"] == 0
    assert found["likeness_second"] == 1
    assert found["likeness_first"] < 0.3
    assert found["of_both"] == 0  # it is one of them, and of the other no more than an unrelated song is
    louder = first.copy()
    louder["velocity"] += 8
    assert report.compare_with_parents(louder, [first, second], third, 0.5, 12.0)["mean_velocity"] == pytest.approx(
        88 / 80
    )


def test_judge_knows_a_copy_from_a_mix():
    first, second, third = (song.notes for song in SONGS)
    copy = report.compare_with_parents(first, [first, second], third, 0.0, 5.0)
    assert copy["likeness_first"] == copy["onset_density"] == 1
    assert copy["rest_ratio"] == 0
    both = np.sort(np.concatenate([first[::2], second[::2]]), order=["onset", "pitch"])
    found = report.compare_with_parents(both, [first, second], third, 0.5, 5.0)
    assert min(found["likeness_first"], found["likeness_second"]) > 0.3
    assert found["of_both"] == 1


def test_what_parents_lack_is_no_number():
    notes, none = scattered(0).notes, np.empty(0, NOTE)
    found = report.compare_with_parents(none, [none, none], notes, 0.5, 12.0)
    assert np.isnan(found["onset_density"])
    assert found["rest_ratio"] == 0
    assert report.summary([found])["onset_density"] is None
    assert (
        report.summary([found, report.compare_with_parents(notes, [notes, notes], none, 0.5, 12.0)])["onset_density"]
        == 1
    )


def test_evenness_is_measured_in_the_common_key(params):
    """A path whose second half is written in another key takes no step there."""
    notes = scattered(0).notes
    parents = [track(SONGS[0], 0, shift=3), track(SONGS[1], 1, shift=-4)]
    thinner = [notes[: len(notes) - 10 * place] for place in range(11)]
    written = [report.transpose(part, -parents[place > 5].shift) for place, part in enumerate(thinner)]
    assert report.evenness(written, parents) == pytest.approx(note_metrics.evenness(thinner))
    leap = [notes] * 5 + [scattered(1).notes] * 6
    still = [report.transpose(part, -parents[place > 5].shift) for place, part in enumerate(leap)]
    assert report.evenness(still, parents) == pytest.approx(10)


# Baselines


def test_a_cross_fade_in_the_common_key_moves_the_second_song_to_the_firsts(params):
    songs = [scattered(0), scattered(1)]
    tracks = [track(song, index, shift) for index, (song, shift) in enumerate(zip(songs, (2, -3), strict=True))]
    players = report.baselines(params, songs, SMALLEST)
    own, common = (players[name](tracks, 1.0, 10).notes for name in ("cross-fade", "cross-fade, common key"))
    assert own["pitch"].tolist() == songs[1].notes["pitch"].tolist()
    # In the common key the first lies 2 up and the second 3 down: 5 apart, so in the first's key the second is 5 lower.
    assert common["pitch"].tolist() == (songs[1].notes["pitch"] - 5).tolist()
    quarter = players["cross-fade"](tracks, 0.25, 10).notes
    of_first = np.isin(quarter["onset"], songs[0].notes["onset"]).mean()
    assert 0.65 < of_first < 0.85
    assert 100 < len(quarter) < 140


def test_the_nearest_song_is_a_learned_one(params):
    songs = [scattered(seed) for seed in range(3)]
    tracks = [track(song, index) for index, song in enumerate(songs)]
    found = report.baselines(params, songs, SMALLEST)["nearest learned song"](tracks[:2], 0.5, 10)
    assert any(found is song for song in songs)


def test_real_songs_overlap_with_songs_more_than_noise_does():
    songs = [scattered(seed, notes=80 + 10 * seed) for seed in range(6)]
    language = LanguageModel.fit([song.notes for song in songs])
    sets = {
        "copies": [(song.notes, 12.0, (index, index)) for index, song in enumerate(songs)],
        "sparse": [(song.notes[::8], 12.0, (index, index)) for index, song in enumerate(songs)],
        "silent": [(song.notes[:0], 12.0, (index, index)) for index, song in enumerate(songs)],
    }
    found = report.compare_sets(sets, songs, language, SMALLEST)
    assert found["copies"]["overlapping_area"] > 0.8 > found["sparse"]["overlapping_area"]
    assert found["copies"]["kl_divergence"] < found["sparse"]["kl_divergence"]
    # A copy is judged by the songs that it is no copy of, like the songs themselves.
    assert found["copies"]["bits_a_note"] == pytest.approx(found["songs"]["bits_a_note"])
    assert found["songs, on the grid"]["bits_a_note"] != pytest.approx(found["songs"]["bits_a_note"], abs=0.05)
    assert found["silent"]["bits_a_note"] is None
    assert found["silent"]["rest_ratio"] == 1


@pytest.mark.evaluates
def test_of_many_songs_some_are_measured(params, monkeypatch):
    monkeypatch.setattr(report, "MAX_SONGS", 3)
    monkeypatch.setattr(report, "PAIRS", 1)
    songs = [scattered(seed) for seed in range(7)]
    result = report.evaluate(params, [track(song, seed) for seed, song in enumerate(songs)], songs, SMALLEST)
    assert result["songs"] == [3, 7]
    assert [row["name"] for row in result["playback"]] == ["song 0", "song 3", "song 6"]


# Stretches


def test_a_stretch_is_measured_as_written():
    song = replace(scattered(3, seconds=30), tempo_map=rubato().tempo_map)
    part = report.written_part(song, 10.0)
    whole = cut_notes(midi_reader.parse(midi_writer.encode(song)).notes, 10.0)
    assert part["pitch"].tolist() == whole["pitch"].tolist()
    np.testing.assert_allclose(part["onset"], whole["onset"], atol=1e-3)
    assert 0 < len(part) < len(song.notes)
    assert part["end"].max() <= 10.0
    assert len(report.written_part(make_song([]), 10.0)) == 0


def test_cut_leaves_its_argument_alone():
    notes = make_song([(0.0, 5.0, 60), (1.0, 1.5, 62), (2.0, 3.0, 64)]).notes
    before = notes.copy()
    assert cut_notes(notes, 2.0)["end"].tolist() == [2.0, 1.5]
    assert notes.tolist() == before.tolist()
