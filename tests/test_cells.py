"""Cells: equal ones share a row, silent ones have none, and all that is in them is packed."""

import dataclasses

import numpy as np
import pytest
from conftest import band, controls, make_song, transposed
from hypothesis import given, settings
from hypothesis import strategies as st

from nemui_jax.config import Config, ModelConfig
from nemui_jax.data import cells, layout, pianoroll
from nemui_jax.data.grid import GridPart, GridSong, grid_song, with_layers
from nemui_jax.music.clock import choose_clock
from nemui_jax.music.song import Part, Song, TempoMap
from nemui_jax.sampling.arrange import to_song

CONFIG = ModelConfig(block_steps=4, knot_steps=8)
QUIET_AND_LOUD = make_song([(0.0, 0.5, 60, 1), (0.0, 0.5, 62, 127)]).parts[0]  # velocities are learned between these


def grid_part(*notes: tuple, source: Part = QUIET_AND_LOUD, **curves: list[float]) -> GridPart:
    """A part of notes (step, end, pitch[, velocity, timing])."""
    default = (0, 1, 60, 64, 0.0)
    rows = np.array([(*note, *default[len(note) :]) for note in notes], pianoroll.GRID)
    return GridPart(rows, source, {name: np.array(values, float) for name, values in curves.items()})


def score_of(*parts: GridPart, steps: int = 24) -> list[list[int]]:
    """The row of each cell of each part."""
    song = GridSong("", parts, steps, 0, TempoMap.steady(), 1.0, np.zeros(1, np.int64), Song(()))
    return cells.make_score(song, CONFIG).tolist()


def test_equal_cells_share_a_row_and_silent_ones_have_none():
    part = grid_part((1, 3, 60), (2, 5, 64), (17, 19, 60), (18, 21, 64))
    assert score_of(part) == [[0, -1, 0]]


def test_equal_cells_of_two_parts_share_a_row():
    """Whatever their instruments, and wherever in the song."""
    first = grid_part((0, 2, 60), (8, 10, 62))
    second = grid_part((8, 10, 60), (16, 18, 65), source=dataclasses.replace(QUIET_AND_LOUD, program=40, channel=3))
    assert score_of(first, second) == [[0, 1, -1], [-1, 0, 2]]


def test_notes_that_double_others_of_their_part_are_a_layer_of_their_own():
    """Where two voices of a score meet on a pitch, both notes come back; a third one is left out."""
    rows = [(0.0, 1.0, 60, 80, 0), (0.0, 2.0, 60, 70, 0), (0.0, 3.0, 60, 60, 0), (1.0, 2.0, 64, 80, 1)]
    grid = on_grid(make_song([(0.0, 1.0, 72, 90, 2), *rows]))
    assert [layer.source.channel for layer in grid.layers] == [0, 1, 2, 0]
    assert [len(layer.notes) for layer in grid.layers] == [1, 1, 1, 1]
    assert len(cells.make_score(grid, CONFIG)) == 4
    again = with_layers(grid, grid.layers)
    played = to_song(again).parts[0].notes
    assert played[["pitch", "velocity"]].tolist() == [(60, 80), (60, 70)]
    np.testing.assert_allclose(played["end"], [1.0, 2.0])
    assert [len(part.doubled) for part in again.parts] == [1, 0, 0]


@pytest.mark.parametrize(
    "other",
    [
        [(8, 10, 61), (9, 12, 64)],
        [(8, 11, 60), (9, 12, 64)],
        [(8, 10, 60), (10, 12, 64)],
        [(8, 10, 60, 66), (9, 12, 64)],
        [(8, 10, 60, 64, 0.02), (9, 12, 64)],
        [(8, 10, 60)],
        [(8, 10, 60), (9, 12, 64), (9, 12, 67)],
        [(8, 10, 60), (9, 17, 64)],
    ],
    ids=["pitch", "length", "step", "velocity", "timing", "a note less", "a note more", "held on"],
)
def test_cells_that_differ_have_rows_of_their_own(other):
    assert score_of(grid_part((0, 2, 60), (1, 4, 64), *other))[0][:2] == [0, 1]


def test_what_cannot_be_heard_makes_no_difference():
    """Times closer than a 128th of a step, and the order of notes."""
    first, second = [(0, 2, 60, 64, 0.25), (1, 4, 64)], [(9, 12, 64), (8, 10, 60, 64, 0.2505)]
    assert score_of(grid_part(*first, *second))[0][:2] == [0, 0]


def test_velocities_count_between_the_lowest_and_the_highest_of_the_part():
    soft = make_song([(0.0, 0.5, 60, 30), (0.0, 0.5, 62, 40)]).parts[0]
    loud = make_song([(0.0, 0.5, 60, 90), (0.0, 0.5, 62, 110)]).parts[0]
    parts = [
        grid_part((0, 2, 60, low), (1, 2, 62, high), source=source)
        for source, low, high in ((soft, 30, 40), (loud, 90, 110), (loud, 90, 100))
    ]
    assert [row[0] for row in score_of(*parts)] == [0, 0, 1]


def test_a_note_that_is_held_over_the_border_is_in_both_cells():
    held, struck = grid_part((4, 12, 60)), grid_part((4, 8, 60), (8, 12, 60))
    assert score_of(held, struck) == [[0, 1, -1], [0, 2, -1]]  # the first cell sounds the same
    assert score_of(grid_part((0, 28, 60)), steps=32) == [[0, 1, 1, 2]]  # its beginning, its middle, its end


def test_a_cell_differs_by_a_curve():
    notes = [(0, 2, 60), (8, 10, 60), (16, 18, 60)]
    steady = score_of(grid_part(*notes, expression=[0.5] * 24))
    assert steady == [[0, 0, 0]]
    assert score_of(grid_part(*notes, expression=[0.5] * 12 + [0.6] * 12)) == [[0, 1, 2]]
    other = score_of(grid_part(*notes, pan=[0.7] * 24), grid_part(*notes, expression=[0.7] * 24))
    assert other == [[0, 0, 0], [1, 1, 1]]


def test_a_curve_at_rest_is_as_none():
    notes = [(0, 2, 60), (8, 10, 60), (16, 18, 60)]
    assert score_of(grid_part(*notes, bend=[0.5] * 16 + [0.7] * 8), grid_part(*notes)) == [[0, 0, 1], [0, 0, 0]]


def test_a_cell_in_which_a_curve_moves_is_not_silent():
    moved = grid_part((0, 2, 60), bend=[0.5] * 9 + [0.7] * 15)
    assert score_of(moved) == [[0, 1, -1]]  # where it stays as it is the cell is silent
    at_border = grid_part((0, 2, 60), bend=[0.5] * 8 + [0.7] * 16)
    assert score_of(at_border) == [[0, 1, -1]]
    away_from_rest = grid_part((8, 10, 60), bend=[0.7] * 24)
    assert score_of(away_from_rest) == [[0, 1, -1]]  # it moves there at the beginning


def test_rows_are_in_the_order_of_the_parts_cells():
    first, second = grid_part((8, 9, 60), (16, 17, 61)), grid_part((0, 1, 70), (8, 9, 61), (16, 17, 71))
    assert score_of(first, second) == [[-1, 0, 1], [2, 1, 3]]


def test_one_row_a_part():
    settings_of_one = dataclasses.replace(CONFIG, knot_steps=0)
    song = on_grid(band())
    np.testing.assert_array_equal(cells.make_score(song, settings_of_one), [[0], [1], [2], [3]])


# Songs


def on_grid(song: Song, shift: int = 0) -> GridSong:
    return grid_song(song, choose_clock(song), shift)


def test_cells_of_a_band():
    """Four bars of six cells each: bass and drums repeat bars, the strings rest in two."""
    lead, bass, strings, drums = cells.make_score(on_grid(band()), CONFIG).reshape(4, 4, 6)
    np.testing.assert_array_equal(drums, drums[:1].repeat(4, 0))
    np.testing.assert_array_equal(bass[0], bass[1])
    assert not set(bass[1]) & set(bass[2])
    assert (strings[:2] == layout.SILENT).all()
    assert (strings[2:] != layout.SILENT).all()
    assert len(np.unique(lead)) == 24  # each louder than the one before


def test_drums_are_not_transposed_and_last_a_step():
    song = band()
    for shift in (0, 5):
        grid = on_grid(song, shift)
        assert [part.is_drums for part in grid.parts] == [False, False, False, True]
        for part, source in zip(grid.parts, song.parts, strict=True):
            moved = 0 if part.is_drums else shift
            assert sorted(part.notes["pitch"]) == sorted(source.notes["pitch"].astype(int) + moved)
        drums = grid.parts[3].notes
        np.testing.assert_array_equal(drums["end"], drums["step"] + 1)


def test_a_song_in_another_key_has_the_same_cells_in_the_common_key():
    config = Config(model=CONFIG)
    first, second = (
        cells.pack_song(on_grid(band(), 5), config),
        cells.pack_song(on_grid(transposed(band(), 2), 3), config),
    )
    for column, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(column, other)


ROWS = st.lists(
    st.tuples(st.floats(0, 4), st.floats(0.02, 2), st.integers(40, 44), st.sampled_from([40, 90]), st.integers(0, 2)),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(ROWS, st.lists(st.tuples(st.floats(0, 4), st.integers(0, 127)), max_size=5), st.booleans())
def test_packed_songs_return(rows, expression, on_beats):
    """Each part is what its score says of the rows; no two rows are equal, and none is silent."""
    onsets = [round(row[0] * 4) / 4 if on_beats else row[0] for row in rows]  # with equal cells, or mostly without
    song = make_song([(on, on + row[1], *row[2:]) for on, row in zip(onsets, rows, strict=True)])
    moves = controls([(time, 11, value) for time, value in expression])
    song = dataclasses.replace(song, parts=(dataclasses.replace(song.parts[0], controls=moves), *song.parts[1:]))
    heads = (*CONFIG.heads, "expression")
    config = Config(model=dataclasses.replace(CONFIG, heads=heads))
    grid = on_grid(song)
    packed, score = cells.pack_song(grid, config), cells.make_score(grid, config.model)
    count = score.max() + 1
    assert len(packed.bits) == len(packed.curves) == count * 8
    found = np.unpackbits(packed.bits, axis=-1, count=88, bitorder="little")
    for part, row in zip(grid.layers, score, strict=True):
        step = np.where(row[:, None] < 0, -1, row[:, None] * 8 + np.arange(8)).reshape(-1)
        roll = pianoroll.to_roll(part.notes, len(step), config.roll.low, config.roll.high)
        np.testing.assert_array_equal(
            found[step] * (step >= 0)[:, None, None], roll[:, [pianoroll.ONSET, pianoroll.FRAME]]
        )
    begun = np.bincount(packed.notes["step"] // 8, minlength=count)
    assert begun[score[score >= 0]].sum() == sum(len(part.notes) for part in grid.layers)
    music = [tuple(column.tobytes() for column in _row_of(packed, row)) for row in range(count)]
    assert len(set(music)) == count


def _row_of(packed: cells.SongRolls, row: int) -> list[np.ndarray]:
    steps, notes = slice(row * 8, row * 8 + 8), packed.notes[packed.notes["step"] // 8 == row]
    timing = np.round(notes["timing"] * cells.TIMING_LEVELS)
    return [packed.bits[steps], packed.curves[steps], notes["step"] % 8, notes["pitch"], notes["velocity"], timing]
