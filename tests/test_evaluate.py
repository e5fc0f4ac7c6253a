"""Measures of runs and of mixes: on music made by hand, where each measure has a value that is known."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pytest
from conftest import TINY, band, chorale, make_song, repeats, rubato, transposed, waltzes

from nemui_jax.data import dataset
from nemui_jax.evaluation import mixing, report
from nemui_jax.evaluation.language_model import LanguageModel
from nemui_jax.music.song import NOTE, Song, TempoMap, cut_notes, retime
from nemui_jax.sampling.arrange import to_song

SONGS = (chorale(), repeats(), rubato())


def melody(seed: int, quarters: int = 64, step: float = 0.5) -> Song:
    """A walk up and down C major, one note every `step` quarters, at 120 quarter notes a minute."""
    rng = np.random.default_rng(seed)
    degree = 14 + np.cumsum(rng.choice([-2, -1, 1, 2], int(quarters / step))) % 14
    pitch = 36 + 12 * (degree // 7) + np.array([0, 2, 4, 5, 7, 9, 11])[degree % 7]
    return make_song([(0.5 * step * n, 0.5 * step * (n + 0.9), int(one), 80) for n, one in enumerate(pitch)])


def notes_of(*rows: tuple[float, ...]) -> np.ndarray:
    """Notes from (onset, end, pitch) in seconds, 0.5 of them a quarter."""
    return make_song(rows).notes


def joined(*parts: np.ndarray) -> np.ndarray:
    return np.sort(np.concatenate(parts), order=["onset", "pitch"])


# Songs in beats


def test_songs_are_compared_at_one_tempo_and_in_one_key():
    song = melody(0)
    slower = retime(transposed(song, 5), TempoMap.steady(0.5), TempoMap.steady(0.83))
    first, second = mixing.in_beats(song), mixing.in_beats(slower)
    np.testing.assert_array_equal(first["pitch"], song.notes["pitch"])  # C is the common key
    np.testing.assert_array_equal(first["pitch"] % 12, second["pitch"] % 12)
    assert len(set(first["pitch"].astype(int) - second["pitch"])) == 1
    np.testing.assert_allclose(first["onset"], second["onset"], atol=1e-9)
    np.testing.assert_allclose(first["end"], second["end"], atol=1e-9)


def test_a_tempo_that_changes_is_none_in_beats():
    fast = waltzes()["fast"]  # slows down by half
    notes = mixing.in_beats(fast)
    np.testing.assert_allclose(notes["onset"], 0.5 * np.arange(36), atol=1e-9)
    assert mixing.on_beat(notes) == 1 > mixing.on_beat(fast.notes)


def test_drums_are_not_compared():
    assert len(mixing.in_beats(band())) == len(band().notes)


# Each measure


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(0, 1, 60), (0, 1, 64), (0, 1, 67)], 0),
        ([(0, 1, 60), (0, 1, 61)], 1),  # a minor second, both struck
        ([(0, 1, 60), (0.5, 1, 59)], 1 / 2),  # only the later one meets another
        ([(0, 1, 60), (0.5, 1, 71)], 1 / 2),  # a major seventh
        ([(0, 1, 60), (0.5, 1, 73)], 1 / 2),  # a minor ninth
        ([(0, 1, 60), (0.5, 1, 72), (0.5, 1, 62), (0.5, 1, 70)], 0),  # an octave, a second, a seventh
        ([(0, 0.5, 60), (0.5, 1, 61)], 0),  # one after the other
        ([], 0),
    ],
)
def test_clash(rows, expected):
    assert mixing.clash(notes_of(*rows)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("quarters", "expected"),
    [
        ([0, 0.25, 0.5, 0.75, 1, 5], 1),
        ([1 / 3, 2 / 3], 1),
        ([0.25 + 1 / 25, 1 - 1 / 25], 1),  # as near as played music is
        ([0.1, 0.4, 0.9], 0),
        ([0, 0.1], 1 / 2),
        ([], 0),
    ],
)
def test_on_beat(quarters, expected):
    assert mixing.on_beat(notes_of(*[(0.5 * at, 0.5 * at + 0.1, 60) for at in quarters])) == pytest.approx(expected)


def test_a_song_is_heard_where_its_notes_are():
    first, second, other = (melody(seed).notes for seed in range(3))
    both = joined(first[::2], second[1::2])
    assert mixing.heard(both, [first, second], [other], 64, 16) == 1
    assert mixing.heard(both, [first, second], [other], 64, 4) > 0.6
    turns = joined(cut_notes(first, 16.0), second[second["onset"] >= 16.0])
    assert mixing.heard(turns, [first, second], [other], 64, 16) < 0.5  # one after the other
    assert mixing.heard(other, [first, second], [other], 64, 16) == 0
    assert mixing.heard(first[:0], [first, second], [other], 64, 16) == 0


def test_near_pitches_on_the_same_step_are_alike():
    first, other = melody(0).notes, melody(1).notes
    second, late = first.copy(), first.copy()
    second["pitch"] += 2
    late["onset"] += 0.5 / 6
    late["end"] += 0.5 / 6
    assert mixing.heard(second, [first], [other], 64, 16) == 1
    assert mixing.heard(late, [first], [first], 64, 16) == 0  # no more like it than like another


@pytest.mark.parametrize("shift", [0, 5, -7])
def test_a_passage_is_a_copy_in_any_key(shift):
    first, second = melody(0).notes, melody(1).notes
    passage = cut_notes(first[first["onset"] >= 8], 24.0).copy()  # 32 quarters of it
    passage["onset"] -= 8
    passage["pitch"] += shift % 256
    assert mixing.copied(passage, [second, first], 32) == 1
    assert mixing.copied(passage, [second], 32) == 0
    assert mixing.copied(joined(first[::2], second[1::2]), [first, second], 64) == 0


def test_a_cross_fade_has_notes_of_each_song_by_weight():
    songs = [melody(seed, quarters=400).notes for seed in range(2)]
    songs[1]["velocity"] = 33
    assert mixing.cross_fade(songs, (1.0, 0.0)).tolist() == songs[0].tolist()
    fade = mixing.cross_fade(songs, (0.25, 0.75))
    assert (fade["velocity"] == 80).sum() == pytest.approx(0.25 * 800, rel=0.15)
    assert (fade["velocity"] == 33).sum() == pytest.approx(0.75 * 800, rel=0.15)
    assert (np.diff(fade["onset"]) >= 0).all()
    assert mixing.cross_fade(songs, (0.25, 0.75)).tolist() == fade.tolist()
    assert mixing.cross_fade(songs, (0.25, 0.75), seed=1).tolist() != fade.tolist()


def compared(mix: np.ndarray, songs: Sequence[np.ndarray], weights: Sequence[float] = (0.5, 0.5)) -> dict[str, float]:
    library = [*songs, *(melody(seed).notes for seed in (7, 8, 9))]
    return mixing.compare(mix, songs, weights, library[2:], 64, LanguageModel.fit(library), (0, 1))


def test_a_mix_is_compared_with_its_songs_by_weight():
    dense, sparse = melody(0, step=0.5).notes, melody(1, step=1.0).notes
    found = compared(dense, [dense, sparse], (0.25, 0.75))
    assert found["density"] == pytest.approx(128 / (0.25 * 128 + 0.75 * 64))
    assert (found["clash"], found["on_beat"], found["copied"]) == (0, 0, 1)
    assert compared(dense, [dense, sparse], (1.0, 0.0))["bits"] == pytest.approx(1)
    clashing, late = dense.copy(), dense.copy()
    clashing["pitch"] += 1
    late["onset"] += 0.05
    assert compared(joined(dense, clashing), [dense, sparse])["clash"] == 1
    assert compared(late, [dense, sparse])["on_beat"] == -1
    twice = joined(dense, np.concatenate([dense, dense]))
    assert compared(twice, [dense, dense])["density"] == 3


def test_nonsense_costs_more_than_a_song():
    songs = [melody(seed).notes for seed in range(2)]
    wild = songs[0].copy()
    wild["pitch"] = np.random.default_rng(0).integers(30, 90, len(wild))
    assert compared(wild, songs)["bits"] > 1.3
    assert compared(mixing.cross_fade(songs, (0.5, 0.5)), songs)["bits"] > 1.03


def test_only_the_quarters_that_are_asked_for_count():
    first, second = (melody(seed, quarters=128).notes for seed in range(2))
    mix = joined(cut_notes(first, 32.0), second[second["onset"] >= 32.0])
    assert compared(mix, [first, second]) == compared(first, [first, second])


def test_means_leave_out_what_could_not_be_measured():
    assert mixing.mean([{"bits": 1.0, "clash": 0.5}, {"bits": float("nan"), "clash": 0.0}]) == {
        "bits": 1,
        "clash": 0.25,
    }


# The whole of it


def numbers(value) -> list:
    """Every leaf of plain data that is no text."""
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in numbers(part)]
    if isinstance(value, list):
        return [leaf for part in value for leaf in numbers(part)]
    return [] if isinstance(value, str) else [value]


def on_grid_of(songs: Sequence[Song]):
    corpus = dataset.from_songs(songs, TINY)
    return lambda index: dataset.on_grid(corpus.songs[index], corpus.entries[index], TINY)


def measured(songs: Sequence[Song], **options) -> dict:
    """The figures of a run that plays its songs as they are, and mixes them by playing the heavier one."""
    played = {
        "played": lambda index: songs[index],
        "mix": lambda pair, weights, seconds: songs[pair[int(weights[1] > weights[0])]],
    }
    return report.evaluate(songs, on_grid=on_grid_of(songs), **(played | options))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_run_is_measured_and_fits_json(count):
    seen = []
    result = measured(SONGS[:count], compose=lambda count, _: [SONGS[0]] * count, progress=lambda *at: seen.append(at))
    assert json.loads(json.dumps(result)) == result
    assert all(leaf is None or isinstance(leaf, int | float) for leaf in numbers(result))
    pairs = count * (count - 1) // 2
    assert seen == [(done + 1, pairs) for done in range(pairs)]
    assert [row["name"] for row in result["playback"]] == ["Chorale", "song 1", "Rubato № 1"][:count]
    assert set(result) == ({"songs", "playback", "mixes", "path", "new"} if pairs else {"songs", "playback"})


def test_playback_is_scored_against_the_song_beside_what_its_grid_holds():
    crowd = make_song([(0.0, 0.3, 60), (1.0, 1.01, 62), (1.012, 1.4, 62), (1.02, 1.5, 62), (2.0, 2.5, 64)])
    result = measured([chorale(), crowd], played=lambda index: [repeats(), crowd][index])
    assert "new" not in result
    first, second = result["playback"]
    assert first["onset"] < 0.2 < first["ceiling"]["onset"] == 1
    assert (second["onset"], second["ceiling"]["onset"]) == (1, pytest.approx(8 / 9))  # three notes in one cell


def test_instruments_and_drums_count():
    wrong = dataclasses.replace(
        band(), parts=tuple(dataclasses.replace(part, program=5) if part.channel else part for part in band().parts)
    )
    row = report.score_playback(band(), wrong, on_grid_of([band()])(0))
    lead_and_drums = sum(len(part.notes) for part in band().parts if part.channel in (0, 9))
    assert row["onset"] == pytest.approx(lead_and_drums / (band().drums + len(band().notes)))
    assert row["ceiling"]["onset"] == row["ceiling"]["offset"] == 1


def test_mixes_stand_beside_cross_fades_and_the_original():
    songs, asked = [melody(seed) for seed in range(3)], []

    def mix(pair, weights, seconds):
        asked.append((tuple(pair), weights))
        parts = [song.notes[n::2] for n, song in enumerate(songs[number] for number in pair)]
        return make_song(joined(*parts).tolist())

    result = measured(songs, mix=mix, original=lambda pair, weights, _: songs[pair[0]])
    assert set(result["mixes"]) == {"mix 0.25", "mix 0.5", "mix 0.75", "cross-fade 0.5", "original preset's mix 0.5"}
    assert ((0, 1), (0.75, 0.25)) in asked and len({pair for pair, _ in asked}) == 3
    assert result["mixes"]["mix 0.5"]["heard"] > result["mixes"]["original preset's mix 0.5"]["heard"]
    assert result["mixes"]["original preset's mix 0.5"]["copied"] == 1
    assert result["mixes"]["mix 0.5"]["copied"] == 0
    assert result["mixes"]["mix 0.5"]["density"] == pytest.approx(1, abs=0.02)


def test_a_path_is_even_where_it_changes_little_by_little_and_ends_at_its_songs():
    songs = [melody(0), melody(1)]

    def little_by_little(pair, weights, seconds):
        order = np.random.default_rng(0).permutation(128) / 128
        kept = [
            song.notes[chosen] for song, chosen in zip(songs, (order < weights[0], order >= weights[0]), strict=True)
        ]
        return make_song(joined(*kept).tolist())

    even, leap = (measured(songs, **options)["path"] for options in ({"mix": little_by_little}, {}))
    assert even["end"] == leap["end"] == 1
    assert even["evenness"] < 3
    assert leap["evenness"] == pytest.approx(10)
    wrong = measured(songs, mix=lambda *_: songs[0])["path"]
    assert wrong["end"] < 0.5


def test_new_songs_are_compared_with_all_songs():
    songs = [melody(seed) for seed in range(3)]
    asked = []

    def compose(count: int, seconds: float) -> list[Song]:
        asked.append((count, seconds))
        return [melody(11), songs[1]]

    new = measured(songs, compose=compose)["new"]
    assert asked == [(report.NEW_SONGS, 60.0)]
    assert (new["copied"], new["clash"], new["on_beat"]) == (0.5, 0, 0)
    assert new["bits"] < 1.2  # one of them is a song
    assert new["density"] == pytest.approx(1, abs=0.2)


def test_of_many_songs_some_are_measured(monkeypatch):
    monkeypatch.setattr(report, "MAX_SONGS", 3)
    monkeypatch.setattr(report, "PAIRS", 1)
    played = []
    result = measured([melody(seed) for seed in range(7)], played=lambda index: played.append(index) or melody(index))
    assert result["songs"] == [3, 7]
    assert played == [0, 3, 6]
    assert dataset.spread(2, report.MAX_SONGS) == [0, 1]
    assert len(report.draw_pairs(100)) == 1


def test_songs_of_a_moment_are_measured():
    blip = make_song([(0.0, 0.1, 60)])
    result = measured([blip, repeats(), chorale()])
    assert [row["ceiling"]["onset"] for row in result["playback"]] == [1, 1, 1]


def test_what_is_measured_is_what_is_written():
    song = to_song(on_grid_of([rubato()])(0))
    again = report.written(song)
    assert again.notes["pitch"].tolist() == song.notes["pitch"].tolist()
    np.testing.assert_allclose(again.notes["onset"], song.notes["onset"], atol=1e-3)
    empty = make_song([])
    assert report.written(empty) is empty


def test_cut_leaves_its_argument_alone():
    notes = notes_of((0.0, 5.0, 60), (1.0, 1.5, 62), (2.0, 3.0, 64))
    before = notes.copy()
    assert cut_notes(notes, 2.0)["end"].tolist() == [2.0, 1.5]
    assert notes.tolist() == before.tolist()
    assert cut_notes(np.empty(0, NOTE), 2.0).tolist() == []
