"""Weights of songs, block by block."""

import numpy as np
import pytest

from nemui_jax.sampling.blend import latent_weights, morph_weights


def test_morph_weights_rest_at_each_song_and_move_evenly_between():
    weights = morph_weights(3, 101)
    assert weights.sum(0) == pytest.approx(np.ones(101))
    assert [weights[song, block] for song, block in ((0, 0), (0, 4), (1, 50), (1, 47), (2, 96), (2, 100))] == [1] * 6
    steps = np.abs(np.diff(weights[0]))
    assert steps.max() < 0.03


def test_eased_weights_keep_their_sum_and_songs_alone():
    weights = np.array([[1, 0.75, 0.5, 0], [0, 0.25, 0.5, 1]])
    eased = latent_weights(weights)
    assert eased.sum(0) == pytest.approx(np.ones(4))
    assert eased[:, [0, 2, 3]] == pytest.approx(weights[:, [0, 2, 3]])
    assert 0.25 < eased[1, 1] < 0.5
    beyond = np.array([[1.5], [-0.5]])
    assert latent_weights(beyond) is beyond
