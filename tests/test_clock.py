"""Which clock counts a song's beats: its file's tempo map or a steady one, and how many beats a quarter has."""

import itertools

import numpy as np
import pytest
from conftest import make_song

from nemui_jax.music.clock import STEADY_BEAT_SECONDS, Clock, choose_clock, clock_of, off_beat_steps
from nemui_jax.music.song import Song


def score(quarter_seconds: float, quarters: int = 40) -> Song:
    """A quarter note on each beat and a triplet on each fourth one."""
    beats = np.sort(np.concatenate([np.arange(quarters), np.arange(0, quarters, 4) + 1 / 3]))
    rows = [
        (quarter_seconds * beat, quarter_seconds * (beat + 0.3), 60 + place % 12) for place, beat in enumerate(beats)
    ]
    return make_song(rows, tempos=[(0.0, quarter_seconds)])


def performance(quarter_seconds: float = 0.5) -> Song:
    """Notes that were played by no tempo, in a file that names one."""
    onset = np.sort(np.random.default_rng(0).uniform(0, 60, 300))
    rows = [(float(time), float(time) + 0.2, 60 + place % 12) for place, time in enumerate(onset)]
    return make_song(rows, tempos=[(0.0, quarter_seconds)])


def coarse(notes: int) -> Song:
    """Quarters of half a second, and at the end notes on the beats of a tempo of 10 bpm."""
    rows = [(0.5 * beat, 0.5 * beat + 0.4, 60 + beat % 12) for beat in range(40)]
    rows += [(20 + 0.5 * place, 20.4 + 0.5 * place, 72 + place) for place in range(notes)]  # twelfths of 6 s
    return make_song(rows, tempos=[(0.0, 0.5), (20.0, 6.0)])


@pytest.mark.parametrize(
    ("quarter_seconds", "beats"),
    [(0.25, 0.5), (0.355, 0.5), (0.365, 1), (0.6, 1), (0.715, 1), (0.725, 2), (1.4, 2), (1.5, 4), (0.15, 0.25)],
)
def test_slow_quarters_are_counted_in_halves_and_fast_ones_in_pairs(quarter_seconds, beats):
    song = score(quarter_seconds)
    assert choose_clock(song) == Clock("file", beats)
    clock = clock_of(song, choose_clock(song))
    assert clock.beats_at(quarter_seconds * 8) == pytest.approx(8 * beats)
    assert 0.36 <= clock.beat_seconds[0] < 0.72


def test_a_tempo_that_changes_is_counted_by_its_mean():
    """Quarters of 0.4 s and of 1.2 s, as many of each: 0.8 s on average, which is counted in halves."""
    seconds = np.cumsum([0.0] + [0.4] * 20 + [1.2] * 20)
    song = make_song([(on, off, 60) for on, off in itertools.pairwise(seconds)], tempos=[(0.0, 0.4), (8.0, 1.2)])
    assert choose_clock(song) == Clock("file", 2)
    np.testing.assert_allclose(clock_of(song, choose_clock(song)).seconds_at(np.arange(0, 80, 2)), seconds[:-1])


def test_a_performance_at_a_tempo_that_nobody_played_by_has_steady_beats():
    song = performance()
    assert off_beat_steps(song.notes, song.tempo_map) == pytest.approx(0.25, abs=0.03)
    assert choose_clock(song) == Clock("steady", 1)
    clock = clock_of(song, choose_clock(song))
    np.testing.assert_allclose(clock.seconds_at(np.arange(4)), STEADY_BEAT_SECONDS * np.arange(4))


def test_a_score_played_a_little_unevenly_follows_its_file():
    song = score(0.5)
    rng = np.random.default_rng(0)
    loose = make_song([(on + abs(rng.normal(0, 0.004)), end, pitch) for on, end, pitch, *_ in song.notes.tolist()])
    assert off_beat_steps(song.notes, song.tempo_map) == pytest.approx(0, abs=1e-9)
    assert 0.03 < off_beat_steps(loose.notes, loose.tempo_map) < 0.2
    assert choose_clock(loose).kind == "file"


@pytest.mark.parametrize(("notes", "kind"), [(2, "file"), (4, "steady")])
def test_a_tempo_too_coarse_for_one_note_in_twenty_is_not_used(notes, kind):
    song = coarse(notes)
    assert off_beat_steps(song.notes, song.tempo_map) == pytest.approx(0, abs=1e-9)
    assert choose_clock(song).kind == kind


def test_a_grid_that_is_asked_for_is_taken():
    assert choose_clock(performance(), "beats").kind == "file"
    assert choose_clock(coarse(4), "beats").kind == "file"
    assert choose_clock(score(1.0), "seconds") == Clock("steady", 2)


def test_a_song_without_notes_has_steady_beats():
    assert choose_clock(make_song([], tempos=[(0.0, 0.3)])) == Clock("steady", 1)
