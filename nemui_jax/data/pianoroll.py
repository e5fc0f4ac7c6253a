"""Notes to steps of a song's clock, and back.

Conventions: a clock (TempoMap) gives the times of beats, and a beat has STEPS_PER_BEAT steps. An onset is rounded to
the nearest step; `timing` is its distance from that step, in steps (-0.5 to 0.5). A dense roll is
`[step, channel, pitch]` in float32 with the channels below; its pitch axis runs from `low` to `high`, in the common key
(source pitch plus the song's `shift`). Only this module converts steps to seconds and back.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from nemui_jax.music.clock import STEPS_PER_BEAT
from nemui_jax.music.song import NOTE, PEDAL, TempoMap

ONSET, FRAME, VELOCITY, TIMING = range(4)
CHANNELS = ("onset", "frame", "velocity", "timing")
PEDAL_DOWN = 64  # controller values from which the pedal is down
SHORTEST_STEPS = 0.25  # of a note

GRID = np.dtype([("step", "i4"), ("end", "i4"), ("pitch", "i2"), ("velocity", "u1"), ("timing", "f4")])


def steps_at(seconds: Any, clock: TempoMap) -> Any:
    """Times in seconds as steps, with fractions."""
    return clock.beats_at(seconds) * STEPS_PER_BEAT


def seconds_at(steps: Any, clock: TempoMap) -> Any:
    """Steps, with fractions, as times in seconds."""
    return clock.seconds_at(np.asarray(steps, float) / STEPS_PER_BEAT)


def count_steps(seconds: float, clock: TempoMap) -> int:
    """The number of steps of a song that lasts so long."""
    return int(np.round(steps_at(np.float64(seconds), clock))) + 1


def quantize(notes: np.ndarray, clock: TempoMap, shift: int = 0) -> np.ndarray:
    """NOTE or SONG_NOTE notes to GRID notes, sorted by step and pitch: at most one note a step and pitch.

    Of several notes on one step and pitch the loudest stays; a note ends where the next on its pitch begins; every
    note lasts at least a step.
    """
    return quantize_doubled(notes, clock, shift)[0]


def quantize_doubled(notes: np.ndarray, clock: TempoMap, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """As `quantize`, and in the same way the second loudest notes of those that share a step and pitch."""
    grid = np.empty(len(notes), GRID)
    onset = steps_at(notes["onset"], clock)
    grid["step"] = np.round(onset)
    grid["timing"] = onset - grid["step"]
    grid["end"] = np.maximum(np.round(steps_at(notes["end"], clock)), grid["step"] + 1)
    grid["pitch"] = notes["pitch"].astype(np.int16) + shift
    grid["velocity"] = notes["velocity"]

    grid = grid[np.lexsort((-grid["velocity"].astype(int), grid["step"], grid["pitch"]))]
    place = np.array([grid["pitch"], grid["step"]])
    repeats = np.append(False, (place[:, 1:] == place[:, :-1]).all(0))[: len(grid)]
    third = repeats & np.append(False, repeats[:-1])[: len(grid)]
    return _one_at_a_time(grid[~repeats]), _one_at_a_time(grid[repeats & ~third])


def _one_at_a_time(grid: np.ndarray) -> np.ndarray:
    """GRID notes, sorted by pitch and step, so that each ends where the next on its pitch begins; sorted by step."""
    next_step = np.where(grid["pitch"][1:] == grid["pitch"][:-1], grid["step"][1:], np.iinfo(np.int32).max)
    grid["end"][:-1] = np.minimum(grid["end"][:-1], next_step)
    return grid[np.lexsort((grid["pitch"], grid["step"]))]


def to_notes(grid: np.ndarray, clock: TempoMap, shift: Any = 0) -> np.ndarray:
    """GRID notes to NOTE events in seconds and in the song's key; `shift` is one number or one for each note.

    A pitch outside 0 to 127 is moved by octaves. Onsets are not negative, and every note ends after its onset: one of a
    single step, which may have been shorter, at most a step after it.
    """
    notes = np.zeros(len(grid), NOTE)
    onset = grid["step"] + grid["timing"].astype(float)
    notes["onset"] = np.maximum(seconds_at(onset, clock), 0)
    single = grid["end"] == grid["step"] + 1
    end = np.where(single, np.minimum(grid["end"], onset + 1), grid["end"])
    end = seconds_at(np.maximum(end, np.maximum(onset, 0) + SHORTEST_STEPS), clock)
    notes["end"] = np.maximum(end, np.nextafter(notes["onset"], np.inf))
    pitch = grid["pitch"].astype(int) - shift
    pitch = np.where(pitch < 0, pitch % 12, np.where(pitch > 127, 116 + (pitch - 116) % 12, pitch))
    notes["pitch"], notes["velocity"] = pitch, grid["velocity"]
    return notes[np.lexsort((notes["pitch"], notes["onset"]))]


def to_roll(grid: np.ndarray, steps: int, low: int, high: int) -> Float[np.ndarray, "step channel pitch"]:
    """GRID notes as a dense roll of `steps` steps; velocity as a share of 127, timing in steps."""
    roll = np.zeros((steps, len(CHANNELS), high - low + 1), np.float32)
    column = grid["pitch"] - low
    for start, end, pitch in zip(grid["step"], grid["end"], column, strict=True):
        roll[start:end, FRAME, pitch] = 1
    roll[grid["step"], ONSET, column] = 1
    roll[grid["step"], VELOCITY, column] = grid["velocity"] / 127
    roll[grid["step"], TIMING, column] = grid["timing"]
    return roll


def from_roll(roll: Float[np.ndarray, "step channel pitch"], low: int, minimum_steps: int = 1) -> np.ndarray:
    """A dense roll to GRID notes: one begins at each onset above 0.5 and lasts while its frames are above 0.5.

    A note ends at the latest where the next one on its pitch begins.
    """
    onset, frame = roll[:, ONSET] > 0.5, roll[:, FRAME] > 0.5
    steps = len(roll)
    stop = np.where(onset | ~frame, np.arange(steps, dtype=np.int32)[:, None], np.int32(steps))
    next_stop = np.minimum.accumulate(stop[::-1])[::-1]
    next_stop = np.concatenate([next_stop[1:], np.full_like(next_stop[:1], steps)])
    step, column = np.nonzero(onset)
    grid = np.empty(len(step), GRID)
    grid["step"], grid["pitch"] = step, column + low
    grid["end"] = np.maximum(next_stop[step, column], step + minimum_steps)
    grid["velocity"] = np.clip(np.round(roll[step, VELOCITY, column] * 127), 1, 127)
    grid["timing"] = np.clip(roll[step, TIMING, column], -0.5, 0.5)
    return grid


def quantize_pedal(pedal: np.ndarray, steps: int, clock: TempoMap) -> Float[np.ndarray, " step"]:
    """The share of each step, 0 to 1, during which the sustain pedal is down."""
    edges = np.arange(steps + 1) - 0.5
    changes = steps_at(pedal["time"], clock)
    times = np.concatenate([[edges[0]], changes, [max(edges[-1], changes.max(initial=0))]])
    down = np.concatenate([[False], pedal["value"] >= PEDAL_DOWN])
    down_before = np.concatenate([[0], np.cumsum(np.diff(times) * down)])  # steps down until each time
    return np.clip(np.diff(np.interp(edges, times, down_before)), 0, 1)


def to_pedal(share: Float[np.ndarray, " step"], clock: TempoMap) -> np.ndarray:
    """Shares of steps with the pedal down to PEDAL events.

    The pedal is down in steps with a share above 0.5. Where that changes between two steps, it moves at the time that
    leaves it down for the sum of their two shares.
    """
    change = np.flatnonzero(np.diff(share > 0.5, prepend=False))
    goes_down = share[change] > 0.5
    both = share[change] + np.where(change > 0, share[change - 1], 0)
    pedal = np.empty(len(change), PEDAL)
    pedal["time"] = np.maximum(seconds_at(change + np.where(goes_down, 0.5 - both, both - 1.5), clock), 0)
    pedal["value"] = np.where(goes_down, 127, 0)
    return pedal


def pack_bits(grid: np.ndarray, steps: int, low: int, high: int) -> UInt8[np.ndarray, "step 2 byte"]:
    """Onsets (0) and frames (1) of GRID notes as bits over pitches, least significant bit first."""
    cells = np.zeros((steps + 1, 2, high - low + 1), np.int8)
    column = grid["pitch"] - low
    cells[grid["step"], 0, column] = 1
    np.add.at(cells[:, 1], (grid["step"], column), 1)
    np.add.at(cells[:, 1], (grid["end"], column), -1)
    np.cumsum(cells[:, 1], axis=0, dtype=np.int8, out=cells[:, 1])
    return np.packbits(cells[:-1].astype(bool), axis=-1, bitorder="little")
