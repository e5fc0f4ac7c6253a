"""Where rows and their music stand, and how latents are mixed."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemui_jax.config import ModelConfig
from nemui_jax.data import layout
from nemui_jax.model import latents

LAYOUTS = st.tuples(st.integers(1, 16), st.integers(1, 5))  # steps a block, blocks a cell


class Placed(NamedTuple):
    """A song, as far as the layout knows it."""

    steps: int
    rows: int


SONGS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 20)).map(lambda sizes: Placed(*sizes)), min_size=1)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(SONGS, LAYOUTS)
def test_queries_cover_the_rows_of_all_songs(songs, sizes):
    config = ModelConfig(block_steps=sizes[0], knot_steps=sizes[0] * sizes[1])
    found = layout.corpus_queries(songs, config)
    rows = sum(song.rows for song in songs)
    assert layout.count_rows(songs) == rows
    assert layout.count_blocks(songs, config) == len(found.step) == rows * sizes[1]
    covered = (found.step[:, None] + np.arange(config.block_steps)).reshape(-1)
    np.testing.assert_array_equal(covered, np.arange(rows * config.knot_steps))  # each step once, in order
    np.testing.assert_array_equal(found.row, np.arange(rows).repeat(sizes[1]))
    np.testing.assert_allclose((found.row + found.time) * config.knot_steps, found.step, rtol=1e-5, atol=1e-4)
    starts = layout.row_starts(songs)
    assert [end - start for start, end in itertools.pairwise(starts)] == [song.rows for song in songs]


def test_queries_of_two_songs():
    found = layout.corpus_queries([Placed(19, 1), Placed(99, 2)], ModelConfig(block_steps=4, knot_steps=8))
    assert [column.tolist() for column in found] == [
        [0, 4, 8, 12, 16, 20],
        [0, 0, 1, 1, 2, 2],
        [0, 0.5] * 3,
    ]
    assert [column.dtype for column in found] == [np.int32, np.int32, np.float32]


@pytest.mark.parametrize(("steps", "cells"), [(0, 1), (3, 1), (8, 1), (9, 2), (19, 3)])
def test_the_last_cell_is_filled_up(steps, cells):
    config = ModelConfig(block_steps=4, knot_steps=8)
    assert layout.count_cells(steps, config) == cells
    assert (layout.cell_steps(steps, config), layout.count_cell_blocks(steps, config)) == (8, 2)


@pytest.mark.parametrize("block", [1, 4])
def test_one_row_a_part(block):
    config = ModelConfig(block_steps=block, knot_steps=0)
    for steps in (1, 10, 999):
        assert layout.count_cells(steps, config) == 1
        found = layout.corpus_queries([Placed(steps, 1)], config)
        assert len(found.step) == layout.count_cell_blocks(steps, config) == -(-steps // block)
        assert not found.row.any()
        np.testing.assert_allclose(found.time, np.arange(len(found.step)) / len(found.step), rtol=1e-6)
    of_two_lengths = layout.corpus_queries([Placed(10, 2), Placed(5, 1)], config)
    assert of_two_lengths.row.tolist() == sorted(of_two_lengths.row.tolist())
    np.testing.assert_array_equal(of_two_lengths.step, np.arange(len(of_two_lengths.step)) * block)


def stretches(songs: int, count: int = 6) -> np.ndarray:
    return np.random.default_rng(songs).normal(size=(songs, count, 8))


@pytest.mark.parametrize("path", latents.PATHS)
def test_a_song_of_weight_1_is_itself(path):
    songs = stretches(2)
    weights = np.zeros((2, 6))
    weights[1] = 1
    np.testing.assert_allclose(latents.mix_latents(songs, weights, path), songs[1], rtol=1e-6)


def test_mix_is_the_weighted_sum_query_by_query():
    songs = stretches(2)
    weights = np.stack([np.linspace(0, 1, 6), np.linspace(1, 0, 6)])
    expected = np.array([weights[0, i] * songs[0, i] + weights[1, i] * songs[1, i] for i in range(6)])
    np.testing.assert_allclose(latents.mix_latents(songs, weights), expected)
    kept = latents.mix_latents(songs, weights, "norm")
    cosine = (kept * expected).sum(-1) / np.linalg.norm(kept, axis=-1) / np.linalg.norm(expected, axis=-1)
    np.testing.assert_allclose(cosine, 1)  # the same direction
    norms = np.linalg.norm(songs, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(kept, axis=-1), (weights * norms).sum(0), rtol=1e-6)
    assert (np.linalg.norm(expected[1:-1], axis=-1) < (weights * norms).sum(0)[1:-1]).all()  # else nothing was kept


def test_a_sphere_is_walked_evenly():
    first, second = stretches(2)
    weights = np.stack([np.linspace(1, 0, 6), np.linspace(0, 1, 6)])
    walk = latents.mix_latents(np.stack([np.repeat(song[:1], 6, 0) for song in (first, second)]), weights, "sphere")
    norms = np.linalg.norm(walk, axis=-1)
    np.testing.assert_allclose(np.diff(norms), (norms[-1] - norms[0]) / 5, atol=1e-9)
    ways = walk / norms[:, None]
    turns = np.arccos((ways[1:] * ways[:-1]).sum(-1))
    np.testing.assert_allclose(turns, turns.sum() / 5, rtol=1e-5)  # the same angle each time, all of it in one plane
    angle = np.arccos((first[0] * second[0]).sum() / np.linalg.norm(first[0]) / np.linalg.norm(second[0]))
    assert turns.sum() == pytest.approx(angle, rel=1e-5)


def test_wrong_paths_are_named():
    weights = np.full((3, 6), 1 / 3)
    with pytest.raises(ValueError, match="two songs"):
        latents.mix_latents(stretches(3), weights, "sphere")
    with pytest.raises(ValueError, match="line, norm, sphere"):
        latents.mix_latents(stretches(3), weights, "tunnel")


def test_mix_of_opposites_is_finite():
    songs = np.stack([stretches(1)[0], -stretches(1)[0]])
    for path in latents.PATHS:
        assert np.isfinite(latents.mix_latents(songs, np.full((2, 6), 0.5), path)).all()


def test_spread():
    table = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    np.testing.assert_allclose(latents.spread(table), [np.sqrt(8 / 3), 0])
