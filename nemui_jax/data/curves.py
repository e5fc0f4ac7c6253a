"""Controllers that move during a part, as curves over the steps of its clock, and back.

A curve has one value a step, 0 to 1 over the controller's range, in force from half a step before the step to half a
step after it. The sustain pedal has two: `pedal` is the share of a step during which it is down, so that its times are
finer than a step, and `half_pedal` how far it is down, where a part uses more than up and down. A controller that does
not move is a setting, and stays as it is in the file.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from nemui_jax.data import pianoroll
from nemui_jax.music.song import (
    CONTROL,
    EXPRESSION,
    FIRST_VALUES,
    MODULATION,
    PAN,
    PEDAL,
    PITCH_BEND,
    PRESSURE,
    SOFT_PEDAL,
    SUSTAIN,
    VOLUME,
    Part,
    TempoMap,
    control_events,
    pedal_controls,
)


class Curve(NamedTuple):
    """A controller, its range, and the smallest change that is written."""

    controller: int
    low: int = 0
    high: int = 127
    change: int = 1

    @property
    def first(self) -> int:
        """Its value before any event."""
        return FIRST_VALUES[self.controller]


CURVES = {
    "pedal": Curve(SUSTAIN),
    "half_pedal": Curve(SUSTAIN, change=2),
    "bend": Curve(PITCH_BEND, -8192, 8192, change=64),
    "modulation": Curve(MODULATION),
    "volume": Curve(VOLUME),
    "pan": Curve(PAN),
    "expression": Curve(EXPRESSION),
    "soft_pedal": Curve(SOFT_PEDAL),
    "pressure": Curve(PRESSURE),
}
Curves = Mapping[str, Float[np.ndarray, " step"]]


def rest(name: str) -> float:
    """The value of a curve before its first event, 0 to 1."""
    curve = CURVES[name]
    return (curve.first - curve.low) / (curve.high - curve.low)


def moving(part: Part) -> tuple[str, ...]:
    """The names of the curves of a part, in the order of CURVES."""
    first = part.notes["onset"][0] if len(part.notes) else np.inf
    names = []
    for name, curve in CURVES.items():
        events = part.controls[part.controls["controller"] == curve.controller]
        if name == "pedal":
            moves = bool((events["value"] >= pianoroll.PEDAL_DOWN).any())
        elif name == "half_pedal":
            moves = bool(((events["value"] > 0) & (events["value"] < 127)).any())
        else:
            later = events["time"] > first
            before = events["value"][~later][-1:] if (~later).any() else [curve.first]
            moves = bool((events["value"][later] != before).any())
        names += [name] * moves
    return tuple(names)


def settings(part: Part) -> np.ndarray:
    """CONTROL: the controls of a part that are no curves."""
    curves = [CURVES[name].controller for name in moving(part)]
    return part.controls[~np.isin(part.controls["controller"], curves)]


def sample_curves(part: Part, steps: int, clock: TempoMap) -> dict[str, Float[np.ndarray, " step"]]:
    """The curves of a part."""
    found = {}
    edges = pianoroll.seconds_at(np.arange(steps) + 0.5, clock) - 1e-9
    for name in moving(part):
        curve = CURVES[name]
        events = part.controls[part.controls["controller"] == curve.controller]
        if name == "pedal":
            pedal = np.empty(len(events), PEDAL)
            pedal["time"], pedal["value"] = events["time"], events["value"]
            found[name] = pianoroll.quantize_pedal(pedal, steps, clock)
        else:
            values = np.append(curve.first, events["value"])[np.searchsorted(events["time"], edges, side="right")]
            found[name] = (values - curve.low) / (curve.high - curve.low)
    return found


def to_controls(curves: Curves, clock: TempoMap) -> np.ndarray:
    """Curves as CONTROL events, sorted by time: one where a value changes enough to be written."""
    found = [np.empty(0, CONTROL)]
    for name, values in curves.items():
        if name == "pedal":
            found.append(_pedal_controls(values, curves.get("half_pedal"), clock))
        elif name != "half_pedal":
            found.append(_controls(CURVES[name], np.asarray(values, float), clock))
    controls = np.concatenate(found)
    return controls[np.argsort(controls["time"], kind="stable")]


def _controls(curve: Curve, values: Float[np.ndarray, " step"], clock: TempoMap) -> np.ndarray:
    numbers = np.round((curve.low + values * (curve.high - curve.low)) / curve.change).astype(int) * curve.change
    numbers = np.clip(numbers, curve.low, min(curve.high, 8191))
    step = np.flatnonzero(np.diff(numbers, prepend=curve.first))
    return control_events(pianoroll.seconds_at(step, clock), curve.controller, numbers[step])


def _pedal_controls(
    share: Float[np.ndarray, " step"], depth: Float[np.ndarray, " step"] | None, clock: TempoMap
) -> np.ndarray:
    """Down and up at their times, and with `half_pedal` how far between them, on the same side of the middle."""
    pedal = pianoroll.to_pedal(share, clock)
    if depth is None:
        return pedal_controls(pedal)
    curve = CURVES["half_pedal"]
    times = pianoroll.seconds_at(np.arange(len(depth)), clock)
    values = np.round(np.asarray(depth, float) * 127 / curve.change).astype(int) * curve.change
    down = np.append(0, pedal["value"])[np.searchsorted(pedal["time"], times, side="right")] > 0
    values = _on_side(values, down)
    at_change = np.clip(np.searchsorted(times, pedal["time"]), 0, len(values) - 1)
    first_values = _on_side(values[at_change], pedal["value"] > 0)
    step = np.flatnonzero(np.diff(values, prepend=0))
    both = np.concatenate(
        [control_events(pedal["time"], SUSTAIN, first_values), control_events(times[step], SUSTAIN, values[step])]
    )
    both = both[np.argsort(both["time"], kind="stable")]
    return both[np.diff(both["value"], prepend=0) != 0]


def _on_side(values: np.ndarray, down: Bool[np.ndarray, " event"]) -> np.ndarray:
    middle = pianoroll.PEDAL_DOWN
    return np.where(down, np.clip(values, middle, 127), np.clip(values, 0, middle - 1))
