"""The cells of a song: which of them are equal or silent, and their music packed for the device."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8, UInt16, UInt64

from nemui_jax.config import Config, ModelConfig
from nemui_jax.data import curves, layout, pianoroll
from nemui_jax.data.grid import GridPart, GridSong

TIMING_LEVELS = 128  # a step: timings closer than that are equal
CURVE_LEVELS, VELOCITY_LEVELS = 2**16 - 1, 2**8 - 1


class Rolls(NamedTuple):
    """The music of all latent rows, one after another, as it is on the device: that of the first cell of each.

    Onsets and frames are bits (`pianoroll.pack_bits`). The arrays over notes are sorted by step and pitch;
    `note_start[s]` is the first note at or after step `s`.
    """

    bits: UInt8[Any, "step 2 byte"]
    curves: UInt16[Any, "step curve"]  # 0 to 1 as 0 to CURVE_LEVELS, in the order of `curve_names`
    note_start: Int32[Any, " step_and_one"]
    note_velocity: UInt8[Any, " note"]  # from the part's lowest to its highest, as 0 to VELOCITY_LEVELS
    note_timing: Float32[Any, " note"]  # steps from the step to the onset, -0.5 to 0.5


def curve_names(config: ModelConfig) -> tuple[str, ...]:
    """The curves among the heads of the decoder, in their order."""
    return tuple(name for name in config.heads if name in curves.CURVES)


def make_score(song: GridSong, config: ModelConfig) -> layout.Score:
    """The row of each cell of each layer. Rows are in the order in which their cells come first, layer by layer.

    Cells are equal if they have the same notes, with lengths, timings and velocities (from the lowest to the highest of
    the part), and the same curves. A cell is silent if nothing sounds in it and no curve moves.
    """
    count = layout.count_cells(song.steps, config)
    if not config.knot_steps:
        return np.arange(len(song.layers), dtype=np.int32)[:, None]
    keys, silent = zip(*(_cell_keys(layer, count, config.knot_steps) for layer in song.layers), strict=True)
    flat, heard = np.concatenate(keys), ~np.concatenate(silent)
    _, first, same = np.unique(flat[heard], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first))
    score = np.full(len(flat), layout.SILENT, np.int32)
    score[heard] = rank[same]
    return score.reshape(len(song.layers), count)


def _cell_keys(part: GridPart, count: int, steps: int) -> tuple[UInt64[np.ndarray, " cell"], np.ndarray]:
    """A number for each cell that is the same for equal cells, and whether it is silent.

    The number is the sum, modulo 2^64, of the hashes of all that is in the cell, so that order does not matter.
    """
    notes, keys = part.notes, np.zeros(count, np.uint64)
    first = notes["step"] // steps
    spanned = np.minimum((notes["end"] - 1) // steps, count - 1) - first + 1  # a note counts wherever it sounds
    index = np.repeat(np.arange(len(notes)), spanned)
    place = np.arange(len(index)) - np.repeat(np.cumsum(spanned) - spanned, spanned)
    cell, begins = first[index] + place, place == 0
    start = np.where(begins, notes["step"][index] - cell * steps, -1)
    end = np.minimum(notes["end"][index] - cell * steps, steps)
    velocity = np.where(begins, _velocity_levels(part)[index], 0)
    timing = np.where(begins, np.round(notes["timing"][index] * TIMING_LEVELS), 0)
    np.add.at(keys, cell, _hash(start, end, notes["pitch"][index], velocity, timing))
    silent = np.ones(count, bool)
    silent[cell] = False
    for number, name in enumerate(curves.CURVES):
        if name in part.curves:
            levels = _levels(np.append(curves.rest(name), part.curves[name]), count * steps + 1)
            step = np.flatnonzero(levels[1:] != levels[0])  # at rest it is as in a part without this curve
            np.add.at(keys, step // steps, _hash(np.full(len(step), number), step % steps, levels[1:][step]))
            silent[np.flatnonzero(np.diff(levels)) // steps] = False
    return keys, silent


def _velocity_levels(part: GridPart) -> UInt8[np.ndarray, " note"]:
    low, high = part.velocities
    return np.round((part.notes["velocity"].astype(float) - low) / max(high - low, 1) * VELOCITY_LEVELS).astype(
        np.uint8
    )


def _hash(*columns: np.ndarray) -> UInt64[np.ndarray, " item"]:
    """A hash of each tuple of whole numbers (the finaliser of SplitMix64: Steele et al., 2014)."""
    found = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        found += np.asarray(column).astype(np.int64).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        found ^= found >> np.uint64(31)
    return found


def _levels(values: np.ndarray, steps: int) -> UInt16[np.ndarray, " step"]:
    """A curve as whole numbers, its last value held to the end of the last cell."""
    levels = np.round(np.asarray(values, float) * CURVE_LEVELS).astype(np.uint16)
    return np.append(levels, np.full(steps - len(levels), levels[-1]))


class SongRolls(NamedTuple):
    """The music of a song's rows, one after another."""

    bits: UInt8[np.ndarray, "step 2 byte"]
    curves: UInt16[np.ndarray, "step curve"]
    notes: np.ndarray  # GRID, sorted by step and pitch; velocities as in Rolls


def pack_song(song: GridSong, config: Config) -> SongRolls:
    """The music of the rows of a song; notes outside the pitches of the grid are left out."""
    score, steps = make_score(song, config.model), layout.cell_steps(song.steps, config.model)
    starts = np.append(0, np.maximum.accumulate(score.max(1)) + 1)  # the first row that is new in each part
    packed = [
        _pack_part(part, cells, int(start), steps, config)
        for part, cells, start in zip(song.layers, score, starts[:-1], strict=True)
    ]
    bits, levels, notes = (np.concatenate(column) for column in zip(*packed, strict=True))
    return SongRolls(bits, levels, notes[np.lexsort((notes["pitch"], notes["step"]))])


def _pack_part(part: GridPart, score: Int32[np.ndarray, " cell"], start: int, steps: int, config: Config) -> SongRolls:
    """The music of the rows that are new in a part, from row `start` on."""
    rows, cells = np.unique(score, return_index=True)  # of each row its first cell
    rows, cells = rows[rows >= start], cells[rows >= start]
    total, names, roll = len(score) * steps, curve_names(config.model), config.roll
    notes = part.notes.copy()
    notes["velocity"] = _velocity_levels(part)
    notes = notes[(notes["pitch"] >= roll.low) & (notes["pitch"] <= roll.high)]
    bits = pianoroll.pack_bits(notes, total, roll.low, roll.high)
    levels = np.zeros((total, len(names)), np.uint16)
    for column, name in enumerate(names):
        levels[:, column] = _levels(part.curves.get(name, np.array([curves.rest(name)])), total)
    row_of_cell = np.full(len(score), layout.SILENT)
    row_of_cell[cells] = rows
    row = row_of_cell[notes["step"] // steps]
    notes, row = notes[row >= start], row[row >= start]
    notes["step"] = row * steps + notes["step"] % steps
    chosen = (cells[:, None] * steps + np.arange(steps)).reshape(-1)
    return SongRolls(bits[chosen], levels[chosen], notes)
