"""Where rows stand, and how tracks are read, joined and mixed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemui_jax.config import ModelConfig
from nemui_jax.data import layout
from nemui_jax.model import latents

CONFIG = ModelConfig(block_steps=4, knot_steps=8)
LAYOUTS = st.tuples(st.integers(1, 16), st.integers(1, 5))  # steps a block, blocks a cell


def model_config(sizes: tuple[int, int]) -> ModelConfig:
    return ModelConfig(block_steps=sizes[0], knot_steps=sizes[0] * sizes[1])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 500), LAYOUTS)
def test_queries_cover_a_song_and_use_its_rows(steps, sizes):
    config = model_config(sizes)
    found = layout.song_queries(steps, config)
    count, rows = layout.count_blocks(steps, config), layout.count_song_rows(steps, config)
    covered = (found.step[:, None] + np.arange(config.block_steps)).reshape(-1)
    np.testing.assert_array_equal(covered, np.arange(count * config.block_steps))  # each step once, in order
    assert steps <= len(covered) < max(steps, 1) + config.knot_steps
    assert set(found.row) == set(range(rows))  # no row that nothing is read from
    np.testing.assert_allclose((found.row + found.time) * config.knot_steps, found.step, rtol=1e-5, atol=1e-4)


def test_queries_of_a_short_song():
    found = layout.song_queries(19, CONFIG)  # two whole cells of two blocks, and a part of a third
    assert [column.tolist() for column in found] == [
        [0, 4, 8, 12, 16, 20],
        [0, 0, 1, 1, 2, 2],
        [0, 0.5] * 3,
    ]
    assert [column.dtype for column in found] == [np.int32, np.int32, np.float32]
    assert layout.count_song_rows(19, CONFIG) == 3


def test_a_song_shorter_than_a_cell_has_one():
    assert layout.count_cells(0, CONFIG) == layout.count_cells(3, CONFIG) == 1
    assert layout.count_blocks(0, CONFIG) == layout.count_blocks(3, CONFIG) == 2
    np.testing.assert_array_equal(layout.song_queries(0, CONFIG), layout.song_queries(8, CONFIG))


@pytest.mark.parametrize("block", [1, 4])
def test_one_row_a_song(block):
    config = ModelConfig(block_steps=block, knot_steps=0)
    for steps in (1, 10, 999):
        found = layout.song_queries(steps, config)
        assert len(found.step) == -(-steps // block)
        assert layout.count_song_rows(steps, config) == 1
        assert not found.row.any()
        np.testing.assert_allclose(found.time, np.arange(len(found.step)) / len(found.step), rtol=1e-6)


def test_rows_are_read_through_the_table_of_cells(monkeypatch):
    """Cells may share a row: nothing but `cell_rows` says which row is whose."""
    monkeypatch.setattr(layout, "cell_rows", lambda *_: np.array([1, 0, 1], np.int32))
    track = np.array([[0.0], [1.0]])
    assert layout.count_song_rows(19, CONFIG) == 2
    assert layout.song_queries(19, CONFIG).row.tolist() == [1, 1, 0, 0, 1, 1]
    assert latents.read_track(track, 19, 6, CONFIG)[:, 0].tolist() == [1, 1, 0, 0, 1, 1]


def test_a_song_that_ends_starts_again_at_a_whole_cell():
    track = np.arange(3.0)[:, None]
    found = latents.read_track(track, 17, 14, CONFIG)[:, 0]
    assert found.tolist() == [0, 0, 1, 1, 2, 2] * 2 + [0, 0]
    np.testing.assert_array_equal(latents.read_track(track, 17, 4, CONFIG)[:, 0], found[:4])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 200), st.integers(1, 150), LAYOUTS)
def test_times_are_those_of_any_song(steps, count, sizes):
    """However often a song has begun again, its blocks are decoded at the time that they were learned at."""
    config = model_config(sizes)
    own = layout.song_queries(steps, config).time
    np.testing.assert_array_equal(layout.block_times(count, config), own[np.arange(count) % len(own)])


def test_a_song_of_one_row_is_that_row():
    config = ModelConfig(block_steps=2, knot_steps=0)
    track = np.array([[3.0, 4.0]], np.float32)
    np.testing.assert_array_equal(latents.read_track(track, 10, 12, config), np.repeat(track, 12, 0))


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
