"""New songs from learned ones, and the judges that choose among them."""

import numpy as np
import pytest
from conftest import make_song

from nemui_jax.data.grid import grid_song
from nemui_jax.evaluation import novelty
from nemui_jax.music.clock import choose_clock
from nemui_jax.music.song import NOTE
from nemui_jax.sampling import prior
from nemui_jax.sampling.mix import analyze

SCALE = (0, 2, 4, 5, 7, 9, 11)


def piece(seed: int, seconds: float = 40.0, shift: int = 0) -> np.ndarray:
    """A walk up and down a major scale over held fifths, in a steady rhythm."""
    rng = np.random.default_rng(seed)
    degree, rows = 14, []
    beat = rng.uniform(0.23, 0.28)
    for index, onset in enumerate(np.arange(0, seconds, beat)):
        degree = int(np.clip(degree + rng.choice([-1, 1, 1, 2, -2, -1]), 7, 28))
        length = beat * rng.choice([0.9, 0.5])
        rows.append((onset, onset + length, 36 + 12 * (degree // 7) + SCALE[degree % 7] + shift, rng.integers(50, 90)))
        if index % 4 == 0:
            bass = 36 + SCALE[rng.choice([0, 3, 4])] + shift
            rows += [(onset, onset + 3.9 * beat, bass, 60), (onset, onset + 3.9 * beat, bass + 7, 55)]
    return make_song(rows).notes


SONGS = [piece(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def analyzed():
    songs = [make_song([tuple(note) for note in piece(seed)]) for seed in range(5)]
    return [analyze(grid_song(song, choose_clock(song), 0, f"song {index}")) for index, song in enumerate(songs)]


def test_a_new_song_is_drawn_by_its_seed_alone(analyzed):
    drawn, used = prior.draw(5, analyzed.__getitem__, 4, 15.0)
    again, _ = prior.draw(5, analyzed.__getitem__, 4, 15.0)
    other, _ = prior.draw(5, analyzed.__getitem__, 5, 15.0)
    assert drawn.notes.tolist() == again.notes.tolist() != other.notes.tolist()
    assert len(used) == 3 and set(used) <= set(range(5))
    assert drawn.seconds > 14


def test_only_the_songs_that_are_drawn_are_read(analyzed):
    read = []
    _, used = prior.draw(3000, lambda index: read.append(index) or analyzed[index % 5], 1, 10.0)
    assert read == used and len(set(used)) == 3


def test_two_songs_are_enough_and_one_is_too_few(analyzed):
    drawn, used = prior.draw(2, analyzed.__getitem__, 0, 10.0)
    assert len(drawn.notes) > 10 and set(used) == {0, 1}
    with pytest.raises(ValueError, match="perturb"):
        prior.draw(1, analyzed.__getitem__, 0, 10.0)
    with pytest.raises(ValueError, match="there are 1"):
        novelty.rank(SONGS, SONGS[:1])
    with pytest.raises(ValueError, match="one at least"):
        novelty.nearest_passage(SONGS[0], [])


def test_a_song_ranks_above_its_ruins():
    rng = np.random.default_rng(3)
    real = piece(20)
    pitches, onsets, noise = real.copy(), real.copy(), real.copy()
    pitches["pitch"] = rng.permutation(real["pitch"])
    onsets["onset"] = np.sort(rng.uniform(0, 40, len(real)))
    onsets["end"] = onsets["onset"] + rng.permutation(real["end"] - real["onset"])
    noise["pitch"] = np.clip(real["pitch"] + rng.integers(-2, 3, len(real)), 0, 127)
    candidates = [pitches, onsets, real, noise, np.empty(0, NOTE)]
    order = novelty.rank(candidates, SONGS)
    assert order[0] == 2
    assert order[-1] == 4  # silence
    assert sorted(order) == list(range(5))
    assert novelty.scores(candidates, SONGS)[2] > -1


def test_rank_does_not_hear_the_key():
    here, there = novelty.scores([piece(20), piece(20, shift=3)], SONGS)
    assert here == pytest.approx(there)


@pytest.mark.parametrize("shift", [0, 4, -6, 11])
def test_a_copied_passage_is_found_wherever_it_stands(shift):
    copy = SONGS[3][(SONGS[3]["onset"] >= 20) & (SONGS[3]["onset"] < 32)].copy()
    copy["onset"] -= 10
    copy["end"] -= 10
    copy["pitch"] += shift % 256
    own = piece(30, seconds=10)
    near = novelty.nearest_passage(np.concatenate([own, copy]), SONGS)
    assert near.too_close
    assert near.song == 3
    assert near.likeness > 0.95
    assert near.song_start - near.start == pytest.approx(10, abs=0.11)


def test_a_copy_of_a_song_is_found_in_a_sample_of_its_stretches():
    everything = novelty.nearest_passage(SONGS[3], SONGS)
    assert everything == (3, 1.0, 0.0, 0.0)
    sample = novelty.nearest_passage(SONGS[3], SONGS, max_comparisons=4e7)
    assert sample.song == 3 and sample.likeness == 1.0 and sample.start > 0
    assert sample == novelty.nearest_passage(SONGS[3], SONGS, max_comparisons=4e7)
    assert novelty.nearest_passage(SONGS[3], SONGS, max_comparisons=0.0).likeness == 0


def test_a_long_song_is_measured_at_a_bounded_number_of_stretches(monkeypatch):
    measured, measure = [], novelty.style.style
    monkeypatch.setattr(novelty.style, "style", lambda *stretch: measured.append(stretch) or measure(*stretch))
    monkeypatch.setattr(novelty, "RANK_EXCERPTS", 8)
    long = np.concatenate([SONGS[0]] * 50)
    long["onset"] += np.repeat(np.arange(50) * 40.0, len(SONGS[0]))
    long["end"] += np.repeat(np.arange(50) * 40.0, len(SONGS[0]))
    novelty.scores([piece(20, seconds=2)], [long, SONGS[1]])
    assert len(measured) <= 8 + 1
    assert max(start for _, start, _ in measured) < novelty.RANK_SONG_SECONDS


def test_another_piece_is_no_copy():
    near = novelty.nearest_passage(piece(31), [SONGS[1], piece(32)])
    assert 0 < near.likeness <= novelty.COPY_LIKENESS
    assert not near.too_close


def test_a_few_notes_are_no_copy():
    assert novelty.nearest_passage(SONGS[0][:5], SONGS) == (0, 0.0, 0.0, 0.0)
    assert novelty.nearest_passage(np.empty(0, NOTE), SONGS).likeness == 0
    assert novelty.nearest_passage(SONGS[0], [np.empty(0, NOTE)]).likeness == 0
