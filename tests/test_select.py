"""Which cells of a decoded stretch become notes, and how these are played."""

import numpy as np
import pytest

from nemui_jax import config
from nemui_jax.sampling.blend import mix_weights
from nemui_jax.sampling.decode import Decoded
from nemui_jax.sampling.select import (
    RESTRIKE_STEPS,
    WINDOW_BLOCKS,
    DecodedSong,
    Density,
    held_probability,
    measure_density,
    mix_expression,
    select_by_density,
    select_by_threshold,
    top_k_per_window,
)


def test_likeliest_takes_the_counted_cells_of_each_window():
    values = np.random.default_rng(0).random((2 * WINDOW_BLOCKS, 5))
    counts = np.zeros(2 * WINDOW_BLOCKS)
    counts[[0, 3, WINDOW_BLOCKS]] = 2, 1, 7
    chosen = top_k_per_window(values, counts, WINDOW_BLOCKS)
    first, second = chosen[:WINDOW_BLOCKS], chosen[WINDOW_BLOCKS:]
    assert (first.sum(), second.sum()) == (3, 7)
    assert values[:WINDOW_BLOCKS][first].min() > values[:WINDOW_BLOCKS][~first].max()


def test_a_note_sounds_as_long_as_its_frames_have_since_its_onset():
    frame = np.array([[0.9], [0.2], [0.8], [0.7], [0.9]])
    struck = np.array([[True], [False], [False], [True], [False]])
    assert held_probability(struck, frame)[:, 0] == pytest.approx([1, 0.2, 0.2, 1, 0.9])


def flat(config_: config.Config, blocks: int, **cells: float) -> Decoded:
    shape = (blocks * config_.model.block_steps, config_.roll.high - config_.roll.low + 1)
    parts = {name: np.full(shape, cells.get(name, 0.0)) for name in ("onset", "frame", "velocity", "timing")}
    return Decoded(**parts, pedal=np.full(shape[0], cells.get("pedal", 0.0)))


def test_flat_probabilities_give_the_parents_density_and_no_restrikes():
    """The rest collapse: nothing is over 0.5, and there must be as many notes as the songs have."""
    settings = config.Config()
    rng = np.random.default_rng(3)
    mixed = flat(settings, 16)
    mixed = mixed._replace(onset=0.3 * rng.random(mixed.onset.shape), frame=0.3 * rng.random(mixed.frame.shape))
    parents = []
    for every in (4, 8):
        one = flat(settings, 16, velocity=0.5)
        one.onset[::every, 30:33] = 0.99
        one.frame[:, 30:33] = 0.99
        parents.append(one)
    assert len(select_by_threshold(mixed, settings)[0]) == 0
    weights = mix_weights([0.5, 0.5], 16)
    voices = [DecodedSong(parent, measure_density(parent, settings)) for parent in parents]
    grid, _ = select_by_density(mixed, voices, weights, np.zeros(16, bool), settings)
    onsets = [measure_density(parent, settings).onsets.sum() for parent in parents]
    assert len(grid) == pytest.approx(np.mean(onsets), rel=0.05)
    for pitch in np.unique(grid["pitch"]):
        steps = np.sort(grid["step"][grid["pitch"] == pitch])
        assert (np.diff(steps) > RESTRIKE_STEPS).all()


def test_density_counts_onsets_sounding_cells_and_pedal():
    settings = config.Config()
    one = flat(settings, 2)
    one.onset[3, 10] = one.onset[20, 10] = 1
    one.frame[3:7, 10] = 1
    one.pedal[:5] = 0.8
    found = measure_density(one, settings)
    expected = Density(np.array([1, 1]), np.array([4, 1]), np.array([5, 0]))
    for column, wanted in zip(found, expected, strict=True):
        assert column.tolist() == wanted.tolist()


def test_a_mixed_note_is_played_as_its_song_plays_it_at_the_loudness_of_both():
    settings = config.Config()
    loud, soft = flat(settings, 4, velocity=0.8), flat(settings, 4, velocity=0.4)
    loud.onset[::8, 5] = soft.onset[::8, 9] = 1
    loud.velocity[0, 5] = 0.9
    velocity, _ = mix_expression([loud, soft], np.full((2, len(loud.pedal), 1), 0.5), 128)
    assert velocity[8, 9] == pytest.approx(0.6, abs=0.02)
    assert velocity[0, 5] == pytest.approx(velocity[8, 5] + 0.1, abs=0.01)
    assert velocity[8, 20] == pytest.approx(0.6, abs=0.02)
