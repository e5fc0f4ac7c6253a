"""How well beats are found: F as mir_eval has it, other levels, downbeats, and a song's own beats."""

import mir_eval
import numpy as np
import pytest
from conftest import make_song
from test_beats import performed

from nemui_jax.evaluation import beats
from nemui_jax.music.beats import Beats

BEATS = np.arange(0, 20, 0.5)


def found_at(times, downbeats=()) -> Beats:
    times = np.asarray(times, float)
    return Beats(times, np.isin(np.arange(len(times)), downbeats), 0.9)


@pytest.mark.parametrize("seed", range(20))
def test_f_is_that_of_mir_eval(seed):
    """Also where several beats are near one, and on the very edge of being near."""
    rng = np.random.default_rng(seed)
    true = np.unique(np.round(rng.uniform(0, 30, 60), 2))
    found = np.unique(
        np.round(np.concatenate([true[::2] + rng.normal(0, 0.06, len(true[::2])), rng.uniform(0, 30, 30)]), 2)
    )
    expected = mir_eval.beat.f_measure(true, found)
    assert beats.f_measure(true, found) == pytest.approx(expected, abs=0.02)
    assert beats.f_measure(true, true) == 1 > beats.f_measure(true, found[:0]) == 0


@pytest.mark.parametrize(
    "other", [BEATS[::2], BEATS[1::2], BEATS[2::3], np.arange(0, 19.6, 0.25), np.arange(0, 19.6, 1 / 6)]
)
def test_beats_at_another_level_are_found_at_any_level(other):
    scores = beats.compare(BEATS, np.zeros(len(BEATS), bool), found_at(other))
    assert scores["f"] < 0.8 < 0.95 < scores["any_level"]
    assert scores["downbeat_f"] is None


def test_beats_off_by_half_are_found_at_no_level():
    scores = beats.compare(BEATS, np.zeros(len(BEATS), bool), found_at(BEATS + 0.25))
    assert scores["f"] == 0 and scores["any_level"] < 0.7


def test_what_comes_before_and_after_the_annotations_does_not_count():
    outside = np.concatenate([BEATS[:4] - 5, BEATS, BEATS[:4] + 30])
    downbeats = np.arange(len(BEATS)) % 4 == 0
    scores = beats.compare(BEATS, downbeats, found_at(outside, np.arange(4, len(outside), 4)))
    assert scores == {"f": 1, "any_level": 1, "downbeat_f": 1, "confidence": 0.9}


def test_the_beats_of_a_song_are_those_of_its_meters():
    """Two bars of 3/4 in quarters, then two of 6/8 in dotted quarters, without what comes before the first note."""
    song = make_song(
        [(0.5 * n, 0.5 * n + 0.4, 60) for n in range(1, 13)], tempos=[(0.0, 0.5)], meters=[(0.0, 3, 4), (3.0, 6, 8)]
    )
    times, downbeats = beats.own_beats(song)
    np.testing.assert_allclose(times, [0.5, 1, 1.5, 2, 2.5, 3, 3.75, 4.5, 5.25, 6])
    np.testing.assert_array_equal(times[downbeats], [1.5, 3, 4.5, 6])


def test_a_song_on_its_files_clock_is_compared_with_it_and_another_is_not():
    song, _ = performed("lullaby", 0.0)
    scores = beats.score_clock(song, "tracked")
    assert scores == {"clock": "tracked", "confidence": scores["confidence"]}
    straight = make_song([(0.5 * n, 0.5 * n + 0.4, 60 + n % 5) for n in range(60)], tempos=[(0.0, 0.5)])
    scores = beats.score_clock(straight, "file")
    assert set(scores) == {"clock", "f", "any_level", "downbeat_f", "confidence"}
    assert scores["any_level"] > 0.9


def test_annotations_are_read(tmp_path):
    path = tmp_path / "a_annotations.txt"
    path.write_text("0.5\t0.5\tdb,4/4,-1\n1.0\t1.0\tb\n\n1.5\t1.5\tbR\n2.0\t2.0\tdb\n")
    times, downbeats = beats.read_annotations(path)
    assert times.tolist() == [0.5, 1.0, 1.5, 2.0]
    assert downbeats.tolist() == [True, False, False, True]
