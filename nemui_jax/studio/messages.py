"""Songs as the page's messages: their parts, and the notes and controls of a stretch of time.

Lists of events are flat, event after event; times are whole milliseconds from the start of the piece.
"""

import math
from typing import Any

import numpy as np

from nemui_jax.music.instruments import family, instrument
from nemui_jax.music.song import EXPRESSION, PAN, PITCH_BEND, SUSTAIN, VOLUME, Song
from nemui_jax.outputs.playing import bend_at, channel_controls

CONTROLS = (SUSTAIN, VOLUME, PAN, EXPRESSION, PITCH_BEND)  # that the page plays


def page_parts(song: Song) -> list[dict[str, Any]]:
    """The parts of a song: number, name, instrument, program, whether it is drums, and the family of its sound."""
    return [
        {
            "number": number,
            "name": part.name,
            "instrument": instrument(part.program, part.is_drums),
            "program": part.program,
            "drums": part.is_drums,
            "family": family(part.program, part.is_drums),
        }
        for number, part in enumerate(song.parts)
    ]


def page_notes(song: Song, start: float = 0.0, end: float = math.inf) -> dict[str, list[int]]:
    """What begins from `start` to before `end` seconds, sorted by time.

    `notes`: onset, end, pitch, velocity and part of each note. `controls`: time, part, controller and value of each
    control in CONTROLS, with those that are in force at `start` at that time. Pitch bends are in cents. Every part has
    the controls of its channel.
    """
    notes, controls = [np.empty((0, 5), int)], [np.empty((0, 4), int)]
    by_channel = channel_controls(song.parts)
    for number, part in enumerate(song.parts):
        begun = part.notes[(part.notes["onset"] >= start) & (part.notes["onset"] < end)]
        columns = [_milliseconds(begun["onset"]), _milliseconds(begun["end"]), begun["pitch"], begun["velocity"]]
        notes.append(np.stack([*columns, np.full(len(begun), number)], 1).astype(int))
        moved = by_channel[part.channel]
        present = set(np.unique(moved["controller"]).tolist()).intersection(CONTROLS)
        controls += [_moves(moved, controller, number, start, end) for controller in CONTROLS if controller in present]
    return {"notes": _flat(notes), "controls": _flat(controls)}


def _moves(controls: np.ndarray, controller: int, number: int, start: float, end: float) -> np.ndarray:
    """A part's moves of one controller, `[move, (time, part, controller, value)]`."""
    events = controls[(controls["controller"] == controller) & (controls["time"] < end)]
    before = int(np.searchsorted(events["time"], start, side="right"))
    events = events[max(before - 1, 0) :]
    value = np.round(100 * bend_at(controls, events["time"])) if controller == PITCH_BEND else events["value"]
    times = _milliseconds(np.maximum(events["time"], start))
    return np.stack([times, np.full_like(times, number), np.full_like(times, controller), value.astype(int)], 1)


def _milliseconds(seconds: np.ndarray) -> np.ndarray:
    return np.round(seconds * 1000).astype(int)


def _flat(events: list[np.ndarray]) -> list[int]:
    merged = np.concatenate(events)
    return merged[np.argsort(merged[:, 0], kind="stable")].ravel().tolist()
