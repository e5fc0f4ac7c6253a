"""Notes to the time grid and back, and the key a song is in.

The grid has a time of its own: seconds, or beats drawn out as if a quarter note always lasted BEAT_STEPS steps.
`on_grid` and `off_grid` go there and back; all that lies between them knows grid time alone.

Conventions: step `s` stands for the `step_seconds` around `s * step_seconds`, so an onset is
rounded to the nearest step and `timing` (in steps, -0.5 to 0.5) says how far it was from it.
A dense roll is `[step, channel, pitch]` in float32 with the channels below; its pitch axis runs
over `low` to `high`, in the common key (source pitch plus the song's `shift`).
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from nemui_jax.config import BEAT_STEPS, RollConfig
from nemui_jax.music.song import NOTE, PEDAL, Song

ONSET, FRAME, VELOCITY, TIMING = range(4)
CHANNELS = ("onset", "frame", "velocity", "timing")
PEDAL_DOWN = 64  # controller values from here on hold the dampers up
LEAST_QUARTER_SECONDS = 0.02  # 3,000 bpm: a faster tempo means nothing, and would make a grid of beats endless
GRID = np.dtype([("step", "i4"), ("end", "i4"), ("pitch", "i2"), ("velocity", "u1"), ("timing", "f4")])


def step_times(song: Song, steps: int, config: RollConfig) -> Float[np.ndarray, " step_and_one"]:
    """When each step of the grid begins in a song, in seconds, for its first `steps` steps and the end of the last."""
    step = np.arange(steps + 1)
    if config.grid == "seconds":
        return step * config.step_seconds
    time = np.concatenate([[0.0], song.tempos["time"]])
    quarter = np.concatenate([[0.5], song.tempos["quarter_seconds"]])  # 120 bpm where a file says nothing
    quarter = np.maximum(quarter, LEAST_QUARTER_SECONDS)
    beat = np.concatenate([[0.0], np.cumsum(np.diff(time) / quarter[:-1])])
    wanted = step / BEAT_STEPS
    place = np.searchsorted(beat, wanted, side="right") - 1
    return time[place] + (wanted - beat[place]) * quarter[place]


def on_grid(song: Song, config: RollConfig) -> Song:
    """A song with its notes and pedal in the time of the grid."""
    if config.grid == "seconds":
        return song
    last = max(song.seconds, float(song.pedal["time"].max(initial=0)))
    steps = BEAT_STEPS
    while (seconds := step_times(song, steps, config))[-1] < last:
        steps = 2 * steps
    return _moved(song, seconds, np.arange(steps + 1) * config.step_seconds)


def off_grid(song: Song, seconds: Float[np.ndarray, " step_and_one"], config: RollConfig) -> Song:
    """A song in the time of the grid, in seconds by a clock that tells when each step begins."""
    if config.grid == "seconds":
        return song
    return _moved(song, np.arange(len(seconds)) * config.step_seconds, seconds)


def _moved(song: Song, before: Float[np.ndarray, " time"], after: Float[np.ndarray, " time"]) -> Song:
    """A song with its notes and pedal where a piecewise linear map takes them; past its end time runs on as before."""
    notes, pedal = song.notes.copy(), song.pedal.copy()
    for events, name in ((notes, "onset"), (notes, "end"), (pedal, "time")):
        past = np.maximum(events[name] - before[-1], 0)
        events[name] = np.interp(events[name], before, after) + past
    return dataclasses.replace(song, notes=notes, pedal=pedal)


def off_the_beat(notes: np.ndarray, config: RollConfig) -> float:
    """How far onsets (in grid time) lie from a step, on average, in steps: 0 for a score, about 0.25 for a performance
    whose file has a tempo that nobody played by."""
    place = notes["onset"] / config.step_seconds
    return float(np.abs(place - np.round(place)).mean()) if len(notes) else 0.0


def quantize(notes: np.ndarray, step_seconds: float, shift: int = 0) -> np.ndarray:
    """NOTE events to GRID notes, sorted by step and pitch: one note a cell, one voice a pitch.

    Of several notes that fall on one cell the loudest stays; a note ends where the next on its pitch
    begins; every note lasts a step at least.
    """
    grid = np.empty(len(notes), GRID)
    onset = notes["onset"] / step_seconds
    grid["step"] = np.round(onset)
    grid["timing"] = onset - grid["step"]
    grid["end"] = np.maximum(np.round(notes["end"] / step_seconds), grid["step"] + 1)
    grid["pitch"] = notes["pitch"].astype(np.int16) + shift
    grid["velocity"] = notes["velocity"]

    grid = grid[np.lexsort((-grid["velocity"].astype(int), grid["step"], grid["pitch"]))]
    same_pitch = grid["pitch"][1:] == grid["pitch"][:-1]
    same_cell = same_pitch & (grid["step"][1:] == grid["step"][:-1])
    grid = grid[np.concatenate([[True], ~same_cell])] if len(grid) else grid
    next_step = np.where(grid["pitch"][1:] == grid["pitch"][:-1], grid["step"][1:], np.iinfo(np.int32).max)
    grid["end"][:-1] = np.minimum(grid["end"][:-1], next_step)
    return grid[np.lexsort((grid["pitch"], grid["step"]))]


def to_notes(grid: np.ndarray, step_seconds: float, shift: Any = 0, program: int = 0) -> np.ndarray:
    """GRID notes back to NOTE events in seconds and in the song's own key; `shift` may differ from note to note.

    A pitch that leaves 0 to 127 is moved by octaves. Onsets are never negative and ends never come before them.
    """
    notes = np.zeros(len(grid), NOTE)
    notes["onset"] = np.maximum((grid["step"] + grid["timing"].astype(float)) * step_seconds, 0)
    notes["end"] = np.maximum(grid["end"] * step_seconds, notes["onset"] + step_seconds / 4)
    pitch = grid["pitch"].astype(int) - shift
    pitch = np.where(pitch < 0, pitch % 12, np.where(pitch > 127, 116 + (pitch - 116) % 12, pitch))
    notes["pitch"], notes["velocity"], notes["program"] = pitch, grid["velocity"], program
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
    """A dense roll to GRID notes: a note starts at each onset cell and lasts while its frame cells do.

    Onset and frame cells above 0.5 count. A note ends at the latest where its pitch is struck again.
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


def quantize_pedal(pedal: np.ndarray, steps: int, step_seconds: float) -> Float[np.ndarray, " step"]:
    """The share of each step, 0 to 1, during which the sustain pedal is down."""
    edges = (np.arange(steps + 1) - 0.5) * step_seconds
    times = np.concatenate([[edges[0]], pedal["time"], [max(edges[-1], pedal["time"].max(initial=0))]])
    down = np.concatenate([[False], pedal["value"] >= PEDAL_DOWN])
    down_before = np.concatenate([[0], np.cumsum(np.diff(times) * down)])  # seconds down until each time
    return np.clip(np.diff(np.interp(edges, times, down_before)) / step_seconds, 0, 1)


def to_pedal(share: Float[np.ndarray, " step"], step_seconds: float) -> np.ndarray:
    """Shares of steps with the pedal down to PEDAL events.

    The pedal is down over steps with a share above 0.5. It moves within the two steps where that changes, at the moment
    that leaves it down for the sum of their shares.
    """
    change = np.flatnonzero(np.diff(share > 0.5, prepend=False))
    goes_down = share[change] > 0.5
    both = share[change] + np.where(change > 0, share[change - 1], 0)
    pedal = np.empty(len(change), PEDAL)
    pedal["time"] = np.maximum((change + np.where(goes_down, 0.5 - both, both - 1.5)) * step_seconds, 0)
    pedal["value"] = np.where(goes_down, 127, 0)
    return pedal


def pack_bits(grid: np.ndarray, steps: int, low: int, high: int) -> UInt8[np.ndarray, "step 2 byte"]:
    """Onset and frame cells of GRID notes as bits, least significant first: what the device keeps of a roll."""
    cells = np.zeros((steps + 1, 2, high - low + 1), np.int8)
    column = grid["pitch"] - low
    cells[grid["step"], 0, column] = 1
    np.add.at(cells[:, 1], (grid["step"], column), 1)
    np.add.at(cells[:, 1], (grid["end"], column), -1)
    np.cumsum(cells[:, 1], axis=0, dtype=np.int8, out=cells[:, 1])
    return np.packbits(cells[:-1].astype(bool), axis=-1, bitorder="little")


def count_steps(song: Song, step_seconds: float) -> int:
    """The number of steps that hold every note of a song in grid time."""
    return int(np.round(song.seconds / step_seconds)) + 1
