"""Notes to the grid and back, bits, the pedal, and keys."""

import numpy as np
import pytest
from conftest import SONGS, make_song, waltzes
from hypothesis import given, settings
from hypothesis import strategies as st

from nemui_jax.data import pianoroll
from nemui_jax.evaluation import note_metrics
from nemui_jax.music.clock import choose_clock, on_clock
from nemui_jax.music.key import TONICS, estimate_key, shift_to_common
from nemui_jax.music.song import NOTE, PEDAL, TempoMap

STEP = 0.05
CLOCK = TempoMap.steady(12 * STEP)
LOW, HIGH = 21, 108


def through_roll(notes: np.ndarray, shift: int = 0) -> np.ndarray:
    """Notes to a dense roll and back."""
    grid = pianoroll.quantize(notes, CLOCK, shift)
    roll = pianoroll.to_roll(grid, int(grid["end"].max()) + 1, LOW, HIGH)
    return pianoroll.to_notes(pianoroll.from_roll(roll, LOW), CLOCK, shift)


def assert_kept(notes: np.ndarray, again: np.ndarray) -> None:
    """Each note is there: its onset to a millisecond, pitch and velocity as they were.

    Its end is there to half a step, or to a step if it lasts less than two.
    """
    assert len(notes) == len(again)
    order = np.lexsort((notes["onset"], notes["pitch"])), np.lexsort((again["onset"], again["pitch"]))
    notes, again = notes[order[0]], again[order[1]]
    np.testing.assert_array_equal(notes["pitch"], again["pitch"])
    np.testing.assert_array_equal(notes["velocity"], again["velocity"])
    assert np.abs(notes["onset"] - again["onset"]).max() < 1e-3
    exact = np.where(notes["end"] - notes["onset"] < 2 * STEP, STEP, STEP / 2) + 1e-6
    assert (np.abs(notes["end"] - again["end"]) <= exact).all()


# Round trips


@pytest.mark.parametrize(
    "rows",
    [
        [(index * 0.1, (index + 1) * 0.1, 60, 30 + index) for index in range(20)],  # repeated, no rest between
        [(0.2, 0.9, pitch, pitch) for pitch in (48, 60, 64, 67, 72)],  # a chord
        [(0.2, 0.6, 60), (1.8, 2.4, 60), (3.0, 3.05, 61)],  # a rest between notes on one pitch
        [(0.1, 2.1, 50), (0.5, 0.8, 60), (1.5, 1.9, 60)],  # held under others
        [(0.024, 0.3, 60), (0.526, 0.9, 61), (1.01, 1.2, 62), (1.04, 1.2, 63)],  # off the grid
        [(0.0, 0.4, 21), (0.0, 0.4, 108)],  # the grid's edges
        [(0.1, 0.4, 60, 1), (0.5, 0.8, 61, 127)],
    ],
    ids=["repeated", "chord", "rest", "held", "off the grid", "edges", "velocity"],
)
def test_notes_return(rows):
    notes = make_song(rows).notes
    assert_kept(notes, through_roll(notes))


@pytest.mark.parametrize("make", SONGS.values(), ids=SONGS)
def test_songs_return(make):
    assert_kept(make().notes, through_roll(make().notes))


@pytest.mark.parametrize("shift", [0, -4])
@pytest.mark.parametrize("make", [*SONGS.values(), lambda: waltzes()["fast"]], ids=[*SONGS, "a waltz that slows down"])
def test_songs_return_on_their_files_clocks(make, shift):
    """Where the tempo changes steps are longer or shorter; onsets and ends are as exact, in the steps there."""
    song = make()
    clock = on_clock(song, choose_clock(song, "beats")).beats
    again = pianoroll.to_notes(pianoroll.quantize(song.notes, clock, shift), clock, shift)
    assert len(again) == len(song.notes)
    np.testing.assert_array_equal(again["pitch"], song.notes["pitch"])
    np.testing.assert_array_equal(again["velocity"], song.notes["velocity"])
    np.testing.assert_allclose(again["onset"], song.notes["onset"], atol=1e-6)
    onset, end, end_again = (
        pianoroll.steps_at(times, clock) for times in (song.notes["onset"], song.notes["end"], again["end"])
    )
    assert (np.abs(end - end_again) <= np.where(end - onset < 2, 1, 0.5) + 1e-6).all()


def test_steps_of_a_song_that_slows_down_are_those_of_its_beats():
    song = waltzes()["fast"]
    clock = on_clock(song, choose_clock(song)).beats
    grid = pianoroll.quantize(song.notes, clock)
    assert grid["step"].tolist() == [12 * beat for beat in range(36)]
    np.testing.assert_allclose(grid["timing"], 0, atol=1e-4)
    # The same notes lie elsewhere on a grid that does not slow down.
    assert pianoroll.quantize(song.notes, TempoMap.steady(0.35))["step"].tolist()[24:27] == [288, 312, 336]


def test_a_note_shorter_than_a_step_lasts_one():
    notes = make_song([(0.51, 0.512, 60), (0.56, 0.561, 60), (1.02, 1.021, 72)]).notes
    again = through_roll(notes)
    np.testing.assert_allclose(again["onset"], notes["onset"], atol=1e-3)
    np.testing.assert_allclose(again["end"], [0.55, 0.6, 1.05], atol=1e-6)


def test_a_note_ends_where_another_track_strikes_its_pitch():
    notes = make_song([(0.0, 2.0, 60, 50, 0), (1.0, 1.5, 60, 90, 1)]).notes
    again = through_roll(notes)
    np.testing.assert_allclose(again["onset"], [0.0, 1.0], atol=1e-3)
    np.testing.assert_allclose(again["end"], [1.0, 1.5], atol=1e-6)
    assert again["velocity"].tolist() == [50, 90]


def test_of_two_notes_on_a_cell_the_louder_stays():
    notes = make_song([(0.49, 1.5, 60, 40, 0), (0.51, 1.0, 60, 90, 1), (0.5, 1.0, 61, 10)]).notes
    again = through_roll(notes)
    assert again["pitch"].tolist() == [61, 60]
    loud = again[again["pitch"] == 60][0]
    assert loud["velocity"] == 90
    assert (loud["onset"], loud["end"]) == pytest.approx((0.51, 1.0), abs=1e-3)


def test_grid_of_plain_notes():
    grid = pianoroll.quantize(make_song([(0.5, 0.76, 60, 80), (0.12, 0.2, 64, 70)]).notes, CLOCK, shift=-3)
    assert grid[["step", "end", "pitch", "velocity"]].tolist() == [(2, 4, 61, 70), (10, 15, 57, 80)]
    np.testing.assert_allclose(grid["timing"], [0.4, 0.0], atol=1e-6)


def test_roll_of_plain_notes():
    grid = np.array([(1, 3, 60, 127, 0.25), (3, 4, 62, 0, -0.5)], pianoroll.GRID)
    roll = pianoroll.to_roll(grid, 5, 60, 62)
    expected = np.zeros((5, 4, 3), np.float32)
    expected[1, pianoroll.ONSET, 0] = expected[3, pianoroll.ONSET, 2] = 1
    expected[1:3, pianoroll.FRAME, 0] = expected[3, pianoroll.FRAME, 2] = 1
    expected[1, pianoroll.VELOCITY, 0] = 1
    expected[1, pianoroll.TIMING, 0], expected[3, pianoroll.TIMING, 2] = 0.25, -0.5
    np.testing.assert_array_equal(roll, expected)


def test_no_notes():
    none = np.empty(0, NOTE)
    grid = pianoroll.quantize(none, CLOCK)
    assert len(grid) == 0
    assert not pianoroll.to_roll(grid, 3, LOW, HIGH).any()
    assert not pianoroll.pack_bits(grid, 3, LOW, HIGH).any()
    assert len(pianoroll.from_roll(np.zeros((3, 4, 88), np.float32), LOW)) == 0
    assert len(pianoroll.to_notes(grid, CLOCK)) == 0


def test_the_shift_is_taken_back():
    notes = make_song([(0.0, 0.5, 60), (0.5, 1.0, 67)]).notes
    for shift in (-6, 5):
        assert through_roll(notes, shift)["pitch"].tolist() == [60, 67]


def test_pitches_outside_midi_move_by_octaves():
    grid = np.array([(index, index + 1, pitch, 64, 0.0) for index, pitch in enumerate((2, 124, 60))], pianoroll.GRID)
    assert pianoroll.to_notes(grid, CLOCK, 5)["pitch"].tolist() == [9, 119, 55]
    assert pianoroll.to_notes(grid, CLOCK, -6)["pitch"].tolist() == [8, 118, 66]
    assert pianoroll.to_notes(grid, CLOCK, np.array([5, 0, -1]))["pitch"].tolist() == [9, 124, 61]


def test_onsets_are_not_negative():
    notes = pianoroll.to_notes(np.array([(0, 1, 60, 64, -0.4)], pianoroll.GRID), CLOCK)
    assert notes["onset"].tolist() == [0.0]


def test_a_note_of_a_single_step_ends_at_most_a_step_after_its_onset():
    """A short note that begins before its step would else last up to a step and a half."""
    rows = [(4, 5, 60, 64, -0.4), (4, 5, 61, 64, 0.0), (4, 5, 62, 64, 0.4), (4, 6, 63, 64, -0.4)]
    notes = pianoroll.to_notes(np.array(rows, pianoroll.GRID), CLOCK)
    order = np.argsort(notes["pitch"])
    np.testing.assert_allclose(pianoroll.steps_at(notes["end"][order], CLOCK), [4.6, 5, 5, 6], atol=1e-6)


def test_cells_count_from_one_half():
    roll = np.zeros((4, 4, 1), np.float32)
    roll[:, pianoroll.FRAME, 0] = 0.6, 0.6, 0.4, 0.9
    roll[0, pianoroll.ONSET], roll[3, pianoroll.ONSET] = 0.51, 0.49
    assert pianoroll.from_roll(roll, 60)[["step", "end"]].tolist() == [(0, 2)]


ROWS = st.lists(
    st.tuples(st.floats(0, 5), st.floats(0.001, 2), st.integers(21, 108), st.integers(1, 127), st.integers(0, 3)),
    min_size=1,
    max_size=40,
)


def song_of(rows):
    return make_song(
        [(onset, onset + length, pitch, velocity, channel) for onset, length, pitch, velocity, channel in rows]
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(ROWS)
def test_grid_properties(rows):
    """One note a cell, one voice a pitch, every note in the song's steps; the dense roll and the bits agree."""
    song = song_of(rows)
    grid = pianoroll.quantize(song.notes, CLOCK)
    steps = pianoroll.count_steps(song.seconds, CLOCK)
    assert (grid["end"] > grid["step"]).all()
    assert grid["end"].max() <= steps
    assert np.abs(grid["timing"]).max() <= 0.5 + 1e-5
    assert len(np.unique(grid[["step", "pitch"]])) == len(grid)
    struck = {(round(note["onset"] / STEP), int(note["pitch"])) for note in song.notes}
    assert struck == set(grid[["step", "pitch"]].tolist())  # every cell that was struck, and no other

    roll = pianoroll.to_roll(grid, steps, LOW, HIGH)
    assert roll[:, pianoroll.FRAME].sum() == (grid["end"] - grid["step"]).sum()
    bits = np.unpackbits(pianoroll.pack_bits(grid, steps, LOW, HIGH), axis=-1, count=HIGH - LOW + 1, bitorder="little")
    np.testing.assert_array_equal(bits, roll[:, [pianoroll.ONSET, pianoroll.FRAME]])
    np.testing.assert_array_equal(pianoroll.from_roll(roll, LOW), grid)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(ROWS)
def test_a_second_round_trip_changes_nothing(rows):
    once = through_roll(song_of(rows).notes)
    assert_kept(once, through_roll(once))


# The pedal


def pedal_through_shares(moves: list[tuple], steps: int) -> np.ndarray:
    return pianoroll.to_pedal(pianoroll.quantize_pedal(np.array(moves, PEDAL), steps, CLOCK), CLOCK)


def test_the_pedal_returns_on_a_clock_that_changes():
    clock = TempoMap.of_changes([0, 4, 8], [0.4, 0.9, 0.6])
    moves = np.array([(0.31, 127), (1.55, 0), (2.2, 127), (4.9, 0), (5.5, 127), (7.0, 0)], PEDAL)
    steps = pianoroll.count_steps(8.0, clock)
    again = pianoroll.to_pedal(pianoroll.quantize_pedal(moves, steps, clock), clock)
    assert again["value"].tolist() == moves["value"].tolist()
    np.testing.assert_allclose(again["time"], moves["time"], atol=1e-6)


def test_share_of_a_step():
    moves = np.array([(0.07, 127), (0.16, 0), (0.21, 64), (0.22, 63)], PEDAL)  # steps are centred on their times
    share = pianoroll.quantize_pedal(moves, 6, CLOCK)
    np.testing.assert_allclose(share, [0, 0.1, 1, 0.7, 0.2, 0], atol=1e-9)


def test_pedal_of_no_moves():
    assert not pianoroll.quantize_pedal(np.empty(0, PEDAL), 4, CLOCK).any()
    assert len(pianoroll.to_pedal(np.zeros(4), CLOCK)) == 0


def test_pedal_held_to_the_end():
    np.testing.assert_allclose(pianoroll.quantize_pedal(np.array([(0.0, 127)], PEDAL), 4, CLOCK), [0.5, 1, 1, 1])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.1, 1.5), min_size=1, max_size=20), st.integers(0, 255))
def test_pedal_moves_return_to_a_millisecond(gaps, noise):
    """Moves two steps apart and more come back exactly; as the bytes that the device keeps, to a quarter of a ms."""
    times = np.cumsum(gaps)
    moves = [(time, 127 if index % 2 == 0 else 0) for index, time in enumerate(times)]
    steps = int(times[-1] / STEP) + 4
    share = np.round(pianoroll.quantize_pedal(np.array(moves, PEDAL), steps, CLOCK) * 255) / 255
    again = pianoroll.to_pedal(share, CLOCK)
    assert again["value"].tolist() == [value for _, value in moves]
    np.testing.assert_allclose(again["time"], times, atol=1e-3)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0.2, 1.0), st.floats(0.001, 0.049)), min_size=1, max_size=10), st.booleans())
def test_pulses_shorter_than_a_step_cost_no_more_than_they_last(pulses, lifts):
    """Short presses, or short lifts of a pedal held down: what lies between them stands as it was."""
    moves, time = ([(0.0, 127)] if lifts else []), 0.0
    for gap, length in pulses:
        moves += [(time + gap, 0 if lifts else 127), (time + gap + length, 127 if lifts else 0)]
        time += gap + length
    steps = int(time / STEP) + 8
    again = pedal_through_shares(moves, steps)
    seconds = steps * STEP - STEP / 2
    wrong = (1 - note_metrics.pedal_agreement(np.array(moves, PEDAL), again, seconds)) * seconds
    assert wrong <= sum(length for _, length in pulses) + 1e-6


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_pedal_events_are_in_order(shares):
    """Whatever a decoder says, down and up take turns, in time."""
    events = pianoroll.to_pedal(np.array(shares), CLOCK)
    assert (events["time"] >= 0).all()
    assert (np.diff(events["time"]) >= 0).all()
    assert events["value"].tolist() == [127 if index % 2 == 0 else 0 for index in range(len(events))]


# Keys

MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 11)


def cadence(scale: tuple[int, ...], tonic: int) -> np.ndarray:
    """A scale up and down, then the chords I, IV, V and I of its key."""
    pitches = [scale[degree % 7] + 12 * (degree // 7) for degree in (0, 1, 2, 3, 4, 5, 6, 7, 6, 5, 4, 3, 2, 1, 0)]
    rows = [(index * 0.25, index * 0.25 + 0.25, 54 + tonic + pitch) for index, pitch in enumerate(pitches)]
    for index, root in enumerate((0, 3, 4, 0)):
        chord = [scale[(root + third) % 7] for third in (0, 2, 4)]
        rows += [(4.0 + index, 5.0 + index, 54 + tonic + pitch) for pitch in chord]
    return make_song(rows).notes


@pytest.mark.parametrize("tonic", range(12))
@pytest.mark.parametrize(("scale", "ending"), [(MAJOR, ""), (MINOR, "m")])
def test_key_of_a_cadence(scale, ending, tonic):
    notes = cadence(scale, tonic)
    key = estimate_key(notes)
    assert key == TONICS[(54 + tonic) % 12] + ending
    shift = shift_to_common(key)
    assert -6 <= shift <= 5
    notes["pitch"] += shift % 12
    assert estimate_key(notes) == "C" + ending


def test_a_key_is_told_by_time_and_not_by_the_number_of_notes():
    long = [(index * 2.0, index * 2.0 + 2.0, pitch) for index, pitch in enumerate((60, 64, 67, 72))]
    short = [(8 + index * 0.01, 8.01 + index * 0.01, 61 + index % 2 * 5) for index in range(40)]
    assert estimate_key(make_song(long + short).notes) == "C"


def test_key_of_nothing():
    assert estimate_key(np.empty(0, NOTE)) == "C"
    assert estimate_key(make_song([(0, 1, 60 + pitch) for pitch in range(12)]).notes) == "C"


def test_shift_takes_the_shorter_way():
    assert [shift_to_common(key) for key in ("C", "Cm", "G", "F", "Bbm", "F#", "Ebm")] == [0, 0, 5, -5, 2, -6, -3]
