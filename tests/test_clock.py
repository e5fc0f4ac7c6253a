"""Which clock counts a song's beats: its file's tempo map, tracked beats or a steady one."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_song
from test_beats import performed

from nemui_jax.data import pianoroll
from nemui_jax.data.grid import grid_song
from nemui_jax.music import midi_reader, midi_writer
from nemui_jax.music.clock import (
    STEADY_BEAT_SECONDS,
    STEPS_PER_BEAT,
    Clock,
    bar_lines,
    choose_clock,
    off_beat_steps,
    on_clock,
    with_beats,
)
from nemui_jax.music.song import BEAT, Song, TempoMap, cut_song, retime


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
    clock = on_clock(song, choose_clock(song)).beats
    assert clock.beats_at(quarter_seconds * 8) == pytest.approx(8 * beats)
    assert 0.36 <= clock.beat_seconds[0] < 0.72


def test_a_tempo_that_changes_is_counted_by_its_mean():
    """Quarters of 0.4 s and of 1.2 s, as many of each: 0.8 s on average, which is counted in halves."""
    seconds = np.cumsum([0.0] + [0.4] * 20 + [1.2] * 20)
    song = make_song([(on, off, 60) for on, off in itertools.pairwise(seconds)], tempos=[(0.0, 0.4), (8.0, 1.2)])
    assert choose_clock(song) == Clock("file", 2)
    np.testing.assert_allclose(on_clock(song, choose_clock(song)).beats.seconds_at(np.arange(0, 80, 2)), seconds[:-1])


def test_a_performance_at_a_tempo_that_nobody_played_by_has_steady_beats():
    song = performance()
    assert off_beat_steps(song.notes, song.tempo_map) == pytest.approx(0.25, abs=0.03)
    assert choose_clock(song) == Clock("steady", 1)
    clock = on_clock(song, choose_clock(song)).beats
    np.testing.assert_allclose(clock.seconds_at(np.arange(4)), STEADY_BEAT_SECONDS * np.arange(4))


def test_a_score_played_a_little_unevenly_follows_its_file():
    song = score(0.5)
    rng = np.random.default_rng(0)
    loose = make_song([(on + abs(rng.normal(0, 0.004)), end, pitch) for on, end, pitch, *_ in song.notes.tolist()])
    assert off_beat_steps(song.notes, song.tempo_map) == pytest.approx(0, abs=1e-9)
    assert 0.03 < off_beat_steps(loose.notes, loose.tempo_map) < 0.2
    assert choose_clock(loose).kind == "file"


@pytest.mark.parametrize(("notes", "slow_beats_seconds"), [(2, 6.0), (4, 0.75)])
def test_slow_beats_are_halved_where_more_than_one_note_in_twenty_needs_it(notes, slow_beats_seconds):
    """Quarters of half a second, then of 6 s, which are divided by eight."""
    song = coarse(notes)
    assert choose_clock(song) == Clock("file", 1)
    clock = on_clock(song, choose_clock(song)).beats
    np.testing.assert_allclose(clock.seconds_at(np.arange(41)), 0.5 * np.arange(41))
    np.testing.assert_allclose(clock.seconds_at(np.arange(41, 44)), 20 + slow_beats_seconds * np.arange(1, 4))


def test_a_grid_that_is_asked_for_is_taken():
    assert choose_clock(performance(), "beats").kind == "file"
    assert choose_clock(coarse(4), "beats").kind == "file"
    assert choose_clock(score(1.0), "seconds") == Clock("steady", 2)


def test_a_song_without_notes_has_steady_beats():
    assert choose_clock(make_song([], tempos=[(0.0, 0.3)])) == Clock("steady", 1)


# Tracked beats


def tracked(times, downbeats=()) -> Song:
    """A song with these beats, and a note at each."""
    song = make_song([(float(time), float(time) + 0.2, 60) for time in times], meters=[(0.0, 4, 4)])
    beats = np.array([(time, index in downbeats) for index, time in enumerate(times)], BEAT)
    return replace(song, beats=beats)


def bars_of(song: Song, until: float) -> np.ndarray:
    clock = choose_clock(song)
    return bar_lines(on_clock(song, clock), clock.kind, until)


def test_a_score_is_not_tracked_and_keeps_its_tempo_map():
    song = score(0.5)
    assert with_beats(song) is song
    assert on_clock(song, choose_clock(song)).song is song


def test_notes_at_random_times_have_steady_beats():
    onset = np.sort(np.random.default_rng(0).uniform(0, 60, 1200))
    pitch = np.random.default_rng(1).integers(36, 90, 1200)
    song = make_song([(time, time + 0.2, key) for time, key in zip(onset, pitch, strict=True)])
    assert with_beats(song) is song
    assert choose_clock(song).kind == "steady"


def test_beats_are_not_tracked_in_a_few_seconds():
    song = cut_song(performed("lullaby")[0], 8.0)
    assert choose_clock(with_beats(song)).kind == "steady"


def test_half_a_step_off_throughout_a_song_follows_its_file():
    song = make_song([(0.5 * beat + 0.5 / 24, 0.5 * beat + 0.4, 60 + beat % 12) for beat in range(60)])
    assert off_beat_steps(song.notes, song.tempo_map) == pytest.approx(0, abs=1e-9)
    assert choose_clock(song).kind == "file"


@pytest.mark.parametrize("name", ["minuet-in-g", "lullaby"])
def test_a_performance_is_written_with_its_beats_as_quarters(name):
    song, quarters = performed(name)
    song = with_beats(song)
    clock = choose_clock(song)
    assert clock.kind == "tracked"
    source, beats, _ = on_clock(song, clock)
    written = midi_reader.parse(midi_writer.encode(retime(source, beats, beats)))
    found = written.tempo_map.seconds_at(np.arange(len(quarters) + 20))
    near = np.abs(quarters[:, None] - found).min(1)
    assert (near < 0.07).mean() > 0.95
    distance = np.abs(song.beats["time"][:, None] - found).min(1)
    assert distance[1:-20].max() < 0.002  # the last ones go on beyond the end of the file
    for field in ("onset", "end"):
        np.testing.assert_allclose(np.sort(written.notes[field]), np.sort(song.notes[field]), atol=1e-3)


@pytest.mark.parametrize("name", ["minuet-in-g", "lullaby", "amazing-grace"])
def test_a_tracked_clock_has_a_step_for_every_onset(name):
    song = with_beats(performed(name)[0])
    clock = on_clock(song, choose_clock(song)).beats
    assert (clock.beat[0], clock.seconds[0]) == (0, 0)
    times = clock.seconds_at(np.arange(pianoroll.count_steps(song.seconds, clock) + 200) / STEPS_PER_BEAT)
    assert (np.diff(times) > 0.01).all() and (np.diff(times) <= 0.8 / STEPS_PER_BEAT + 1e-9).all()
    assert 0.025 < np.diff(times).mean() < 0.06
    played = pianoroll.to_notes(pianoroll.quantize(song.notes, clock), clock)
    assert len(played) == len(song.notes)
    np.testing.assert_allclose(np.sort(played["onset"]), song.notes["onset"], atol=1e-3)


def test_what_grid_is_asked_for_is_taken_in_place_of_tracked_beats():
    song = with_beats(performed("minuet-in-g")[0])
    assert choose_clock(song, "auto").kind == "tracked"
    assert choose_clock(song, "beats").kind == "file"
    assert on_clock(song, choose_clock(song, "beats")).beats.beat_seconds.tolist() == [0.5]
    assert choose_clock(song, "seconds").kind == "steady"
    assert on_clock(song, choose_clock(song, "beats")).song is song


def test_bars_begin_on_the_downbeats():
    song = with_beats(performed("minuet-in-g")[0])
    placed = grid_song(song, choose_clock(song), 0)
    bars = pianoroll.seconds_at(placed.bars, placed.clock)
    downbeats = song.beats["time"][song.beats["downbeat"]]
    assert (np.abs(downbeats[:, None] - bars).min(1) < 0.001).all()
    assert set(placed.source.meters["numerator"].tolist()) == {3}


@pytest.mark.parametrize(
    ("downbeats", "bars"),
    [
        ((2, 5, 8, 11), [0, 2, 5, 8, 11, 14, 17]),  # begins with a bar that is short
        ((0, 3, 6, 15, 18), [0, 3, 6, 9, 12, 15, 18]),  # none for three bars
        ((0, 3, 7, 10), [0, 3, 7, 10, 13, 16, 19]),  # a beat too many
        ((0,), [0, 4, 8, 12, 16]),  # one downbeat alone
        ((), [0, 4, 8, 12, 16]),  # the file's meter
    ],
)
def test_bars_of_tracked_beats(downbeats, bars):
    song = tracked(np.arange(20) * 0.6, downbeats)
    np.testing.assert_allclose(bars_of(song, 20.0), bars, atol=1e-6)


def test_downbeats_hundreds_of_beats_apart_make_bars_that_midi_can_hold():
    song = tracked(np.arange(320) * 0.6, (1, 301))
    bars = bars_of(song, 320.0)
    assert {1, 301} < set(np.round(bars).tolist())
    assert np.diff(bars).max() < 24


def test_a_first_beat_late_in_a_song_follows_others_like_it():
    song = tracked(2.0 + 0.6 * np.arange(20))
    quarters = on_clock(song, choose_clock(song)).song.tempo_map.seconds_at(np.arange(5))
    np.testing.assert_allclose(quarters, [0, 2 / 3, 4 / 3, 2, 2.6])


def test_a_first_beat_soon_after_the_start_is_put_there():
    song = tracked(0.2 + 0.6 * np.arange(20))
    quarters = on_clock(song, choose_clock(song)).song.tempo_map.seconds_at(np.arange(4))
    np.testing.assert_allclose(quarters, [0, 0.8, 1.4, 2.0])


def test_slow_beats_alone_are_counted_in_halves():
    times = np.cumsum([0, *[0.5] * 10, *[1.0] * 4, *[0.5] * 10, 2.5, 0.5])
    song = tracked(times)
    clock = choose_clock(song)
    beats = on_clock(song, clock).beats
    expected = np.cumsum([0, *[1] * 10, *[2] * 4, *[1] * 10, 4, 1])
    np.testing.assert_allclose(beats.beats_at(times), expected)
    quarters = on_clock(song, clock).song.tempo_map.beats_at(song.seconds)
    assert clock.beats_per_quarter == pytest.approx(beats.beats_at(song.seconds) / quarters)


def test_beats_move_with_their_song():
    song = tracked(0.6 * np.arange(20), (0, 4, 8))
    clock = on_clock(song, choose_clock(song)).beats
    twice_as_slow = TempoMap(clock.beat, 2 * clock.seconds, 2 * clock.beat_seconds)
    slow = retime(on_clock(song, choose_clock(song)).song, clock, twice_as_slow)
    np.testing.assert_allclose(slow.beats["time"], 2 * song.beats["time"])
    np.testing.assert_allclose(slow.tempo_map.seconds_at(np.arange(19)), 1.2 * np.arange(19), atol=1e-6)


@pytest.mark.parametrize(("beat_seconds", "beats"), [(0.3, 0.5), (0.6, 1.0), (1.2, 2.0)])
def test_a_tracked_song_on_the_grid_knows_the_beats_of_its_quarters(beat_seconds, beats):
    """Also where some quarters are so slow that they have twice as many."""
    times = np.cumsum([0, *[beat_seconds] * 30, *[1.7 * beat_seconds] * 2, *[beat_seconds] * 30])
    song = tracked(times)
    placed = grid_song(song, choose_clock(song), 0)
    assert placed.beats_per_quarter == beats
    np.testing.assert_allclose(placed.clock.beats_at(times[:30]), beats * np.arange(30))
