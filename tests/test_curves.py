"""Controllers as curves and back: those that move are learned, the others stay as they are in the file."""

import dataclasses

import numpy as np
import pytest
from conftest import band, controls, make_song
from hypothesis import given, settings
from hypothesis import strategies as st

from nemui_jax.data import curves, pianoroll
from nemui_jax.data.curves import CURVES
from nemui_jax.music.song import PITCH_BEND, PROGRAM_CHANGE, SUSTAIN, Part, TempoMap

STEP = 0.05
CLOCK = TempoMap.steady(12 * STEP)
STEPS = 80
PLAIN = [name for name in CURVES if name not in ("pedal", "half_pedal")]


def part_with(*rows: tuple[float, int, int], onset: float = 0.0) -> Part:
    """A part of one note with controls (time, controller, value)."""
    return dataclasses.replace(make_song([(onset, onset + 1, 60)]).parts[0], controls=controls(rows))


def returned(part: Part, clock: TempoMap = CLOCK, steps: int = STEPS) -> list[tuple[float, int, int]]:
    """The events that come back of the curves of a part, and its settings."""
    moved = curves.to_controls(curves.sample_curves(part, steps, clock), clock)
    both = np.concatenate([curves.settings(part), moved])
    return [(round(time, 6), number, value) for time, number, value in both[np.argsort(both["time"])].tolist()]


@pytest.mark.parametrize("name", PLAIN)
def test_a_controller_that_moves_on_the_grid_returns(name):
    curve = CURVES[name]
    values = (curve.high - curve.change, curve.low, (curve.high + curve.low) // 2 + curve.change)
    moves = [(time, curve.controller, value) for time, value in zip((0.1, 0.15, 2.0), values, strict=True)]
    assert curves.moving(part_with(*moves)) == (name,)
    assert returned(part_with(*moves)) == moves


def test_the_sustain_pedal_returns_between_steps():
    moves = [(0.11, SUSTAIN, 127), (0.37, SUSTAIN, 0), (1.003, SUSTAIN, 127), (2.5, SUSTAIN, 0)]
    assert curves.moving(part_with(*moves)) == ("pedal",)
    assert returned(part_with(*moves)) == moves


def test_half_pedal_returns():
    moves = [(0.1, SUSTAIN, 100), (0.5, SUSTAIN, 80), (0.9, SUSTAIN, 40), (1.2, SUSTAIN, 0)]
    assert curves.moving(part_with(*moves)) == ("pedal", "half_pedal")
    assert returned(part_with(*moves)) == moves


@pytest.mark.parametrize("value", [1, 63])
def test_a_pedal_that_is_never_down_is_no_pedal(value):
    part = part_with((0.1, SUSTAIN, value), (1.0, SUSTAIN, 0))
    assert curves.moving(part) == ("half_pedal",)


def test_a_half_pedal_stays_on_its_side_of_the_middle():
    """Down or up is what the pedal says: rounding never lifts it."""
    part = part_with((0.1, SUSTAIN, 64), (0.5, SUSTAIN, 63), (1.0, SUSTAIN, 65), (1.5, SUSTAIN, 0))
    values = [value >= pianoroll.PEDAL_DOWN for _, _, value in returned(part)]
    assert values == [True, False, True, False]


def test_what_does_not_move_is_a_setting_and_stays_as_it_is():
    rows = [(0.0, 0, 3), (0.0, 32, 1), (0.0013, 7, 90), (0.0, 10, 30), (0.0, 101, 0), (0.0, 100, 0), (0.0, 6, 12)]
    rows += [(0.0, PROGRAM_CHANGE, 5), (0.7777, 91, 40), (0.9, 91, 41)]  # no curve, though it moves
    part = part_with(*rows, onset=0.5)
    assert curves.moving(part) == ()
    np.testing.assert_array_equal(curves.settings(part), part.controls)
    assert curves.sample_curves(part, STEPS, CLOCK) == {}


def test_values_set_before_the_first_note_are_settings():
    before = [(0.0, 7, 20), (0.2, 7, 100)]
    assert curves.moving(part_with(*before, onset=0.5)) == ()
    assert curves.moving(part_with(*before, (0.6, 7, 100), onset=0.5)) == ()  # the same once more
    moving = part_with(*before, (0.6, 7, 99), onset=0.5)
    assert curves.moving(moving) == ("volume",)
    assert len(curves.settings(moving)) == 0


@pytest.mark.parametrize("name", CURVES)
def test_values_before_the_first_event_are_those_of_a_reset_controller(name):
    values = np.full(STEPS, curves.rest(name))
    assert len(curves.to_controls({name: values}, CLOCK)) == 0  # nothing to be written
    assert {"volume": 100 / 127, "pan": 64 / 127, "expression": 1.0, "bend": 0.5}.get(name, 0.0) == curves.rest(name)


def test_bends_at_rest_are_exactly_0():
    """Else a channel would be out of tune: what was learned is only nearly at rest."""
    learned = np.array([0.5, 0.7, 0.7, 0.5013, 0.4988, 0.5])
    events = curves.to_controls({"bend": learned}, CLOCK)
    assert events["value"].tolist() == [3264, 0]
    np.testing.assert_allclose(events["time"], [STEP, 3 * STEP])


@pytest.mark.parametrize("value", [-8192, 8191])
def test_the_ends_of_a_bend_return(value):
    again = [event[2] for event in returned(part_with((0.1, PITCH_BEND, value), (0.5, PITCH_BEND, 0)))]
    assert again == [pytest.approx(value, abs=CURVES["bend"].change), 0]


def test_of_several_values_in_a_step_the_last_stays():
    moves = [(0.51, 1, 10), (0.515, 1, 20), (0.52, 1, 30)]
    assert returned(part_with(*moves)) == [(0.5, 1, 30)]


def test_a_clock_that_changes():
    clock = TempoMap.of_changes([0, 4], [0.6, 1.2])
    times = pianoroll.seconds_at(np.array([3, 40, 60, 71]), clock)
    moves = [(round(float(time), 6), 11, value) for time, value in zip(times, (0, 100, 50, 127), strict=True)]
    assert returned(part_with(*moves), clock) == moves


def test_the_curves_of_a_band():
    found = {part.name: curves.moving(part) for part in band().parts}
    assert found == {
        "Drums": (),
        "Bass": (),
        "Strings": ("pedal", "half_pedal"),
        "Lead": ("bend", "modulation", "expression"),
    }


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sampled_from(PLAIN),
    st.lists(st.tuples(st.integers(1, STEPS - 2), st.integers(0, 127)), min_size=1, max_size=20),
)
def test_whatever_moves_returns_within_a_step(name, moves):
    """The value in force at each step is that of the file, to the smallest change that is written."""
    curve = CURVES[name]
    scale = (curve.high - curve.low) // 127
    rows = sorted({step * STEP: curve.low + value * scale for step, value in moves}.items())
    part = part_with(*((time, curve.controller, value) for time, value in rows))
    again = curves.to_controls(curves.sample_curves(part, STEPS, CLOCK), CLOCK)
    at = np.arange(STEPS) * STEP + 1e-6
    for time in at if curves.moving(part) else ():
        was = part.controls["value"][part.controls["time"] < time][-1:]
        now = again["value"][again["time"] < time][-1:]
        assert abs(int(was[0] if len(was) else curve.first) - int(now[0] if len(now) else curve.first)) <= curve.change


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40))
def test_a_pedal_s_events_are_in_order_and_in_range(values):
    """Whatever a decoder says."""
    share, depth = np.array(values).T
    events = curves.to_controls({"pedal": share, "half_pedal": depth}, CLOCK)
    assert (np.diff(events["time"]) >= 0).all()
    assert ((events["value"] >= 0) & (events["value"] <= 127)).all()
    assert (np.diff(events["value"], prepend=0) != 0).all()
