"""Tempo maps, and songs moved from one to another."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import chorale, make_song, rubato
from hypothesis import given, settings
from hypothesis import strategies as st

from nemui_jax.music.song import KEY_SIGNATURE, Song, TempoMap, Text, retime

# Beats 0 to 4 last half a second each, 4 to 6 a whole one, those after 6 a quarter.
CHANGES = TempoMap.of_changes([0, 4, 6], [0.5, 1.0, 0.25])

MAPS = st.lists(st.tuples(st.floats(0.1, 20), st.floats(0.05, 4)), min_size=1, max_size=8).map(
    lambda rows: TempoMap.of_changes(
        np.concatenate([[0.0], np.cumsum([length for length, _ in rows[1:]])]), [seconds for _, seconds in rows]
    )
)


@pytest.mark.parametrize(("beat", "seconds"), [(0, 0), (1, 0.5), (4, 2), (4.5, 2.5), (6, 4), (10, 5), (-2, -1)])
def test_when_a_beat_falls(beat, seconds):
    assert CHANGES.seconds_at(beat) == pytest.approx(seconds)
    assert CHANGES.beats_at(seconds) == pytest.approx(beat)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(MAPS, st.lists(st.floats(-5, 200), min_size=1, max_size=30))
def test_beats_and_seconds_are_each_other_s_inverse_and_increase(tempo_map, times):
    times = np.sort(times)
    np.testing.assert_allclose(tempo_map.seconds_at(tempo_map.beats_at(times)), times, atol=1e-8)
    np.testing.assert_allclose(tempo_map.beats_at(tempo_map.seconds_at(times)), times, atol=1e-8)
    apart = np.diff(times) > 1e-6
    assert (np.diff(tempo_map.seconds_at(times))[apart] > 0).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(MAPS)
def test_a_map_through_the_times_of_its_beats_is_itself(tempo_map):
    beats = np.append(tempo_map.beat, tempo_map.beat[-1] + 3)
    beats = np.sort(np.concatenate([beats, (beats[1:] + beats[:-1]) / 2]))
    again = TempoMap.through(beats, tempo_map.seconds_at(beats))
    every = np.linspace(-2, beats[-1] + 10, 200)
    np.testing.assert_allclose(again.seconds_at(every), tempo_map.seconds_at(every), rtol=1e-4, atol=1e-4)


def test_equal_tempos_in_a_row_are_one():
    found = TempoMap.through([0, 1, 2, 3, 4], [0.0, 0.5, 1.0, 2.0, 3.0])
    assert [column.tolist() for column in found] == [[0, 2], [0.0, 1.0], [0.5, 1.0]]


def test_counted_in_halves_the_same_moments_have_twice_as_many_beats():
    twice = CHANGES.counted(2.0)
    times = np.linspace(0, 8, 50)
    np.testing.assert_allclose(twice.beats_at(times), 2 * CHANGES.beats_at(times))
    np.testing.assert_allclose(twice.beat_seconds, CHANGES.beat_seconds / 2)


# Songs moved to another tempo


def full_song() -> Song:
    """A song with something of each kind on known beats of CHANGES."""

    def at(*beats: float) -> list[float]:
        return [float(CHANGES.seconds_at(beat)) for beat in beats]

    song = make_song(
        [(*at(beat, beat + 1), 60 + beat) for beat in range(9)],
        pedal=list(zip(at(1, 5, 7), (127, 0, 127), strict=True)),
        meters=[(0.0, 4, 4), (*at(4), 2, 4)],
        tempo_map=CHANGES,
    )
    return replace(
        song,
        key_signatures=np.array([(*at(6), -3, True)], KEY_SIGNATURE),
        texts=(Text(*at(7), "lyrics", "la"),),
    )


def test_all_that_a_song_has_moves_with_its_beats():
    steady = TempoMap.steady(0.4)
    moved = retime(full_song(), CHANGES, steady)
    np.testing.assert_allclose(moved.notes["onset"], 0.4 * np.arange(9))
    np.testing.assert_allclose(moved.notes["end"], 0.4 * np.arange(1, 10))
    np.testing.assert_allclose(moved.pedal["time"], [0.4, 2.0, 2.8])
    np.testing.assert_allclose(moved.meters["time"], [0, 1.6])
    np.testing.assert_allclose(moved.key_signatures["time"], [2.4])
    assert moved.texts[0].time == pytest.approx(2.8)
    assert [column.tolist() for column in moved.tempo_map] == [[0], [0], [pytest.approx(0.4)]]
    np.testing.assert_array_equal(moved.notes["pitch"], 60 + np.arange(9))


def test_beats_counted_in_halves_move_the_quarters_too():
    """Two beats for each quarter, of 0.3 s in place of 0.25, 0.5 and 0.125 s: quarters of 0.6 s."""
    moved = retime(full_song(), CHANGES.counted(2.0), TempoMap.steady(0.3))
    np.testing.assert_allclose(moved.tempo_map.beat_seconds, [0.6])
    np.testing.assert_allclose(moved.notes["onset"], 0.6 * np.arange(9))


@pytest.mark.parametrize("make", [chorale, rubato, full_song])
def test_moved_there_and_back_a_song_is_as_it_was(make):
    song, clock = make(), TempoMap.of_changes([0, 3, 5.5], [0.7, 0.3, 0.45])
    back = retime(retime(song, song.tempo_map, clock), clock, song.tempo_map)
    for name in ("onset", "end"):
        np.testing.assert_allclose(back.notes[name], song.notes[name], atol=1e-9)
    np.testing.assert_allclose(back.pedal["time"], song.pedal["time"], atol=1e-9)
    np.testing.assert_allclose(back.meters["time"], song.meters["time"], atol=1e-9)
    beats = np.linspace(0, 20, 100)
    np.testing.assert_allclose(back.tempo_map.seconds_at(beats), song.tempo_map.seconds_at(beats), atol=1e-4)


def test_a_song_whose_beats_mean_nothing_keeps_its_quarters_by_its_own_tempo():
    """Moved from a steady clock to one twice as slow, all lasts twice as long, its file's tempo changes too."""
    song = full_song()
    slow = retime(song, TempoMap.steady(0.6), TempoMap.steady(1.2))
    np.testing.assert_allclose(slow.notes["onset"], 2 * song.notes["onset"])
    np.testing.assert_allclose(slow.tempo_map.seconds, 2 * CHANGES.seconds)
    np.testing.assert_allclose(slow.tempo_map.beat_seconds, 2 * CHANGES.beat_seconds)
    np.testing.assert_allclose(slow.tempo_map.beat, CHANGES.beat)


def test_a_song_ends_with_its_last_note_or_the_onset_of_its_last_hit():
    """The end of a drum's note means nothing."""
    notes = [(0.0, 2.0, 60, 80, 0, 0), (0.0, 1.0, 62, 80, 1, 5)]
    assert make_song([*notes, (1.5, 9.0, 36, 80, 9, 0)]).seconds == 2.0
    assert make_song([*notes, (3.0, 9.0, 36, 80, 9, 0)]).seconds == 3.0
    assert make_song([]).seconds == 0.0
