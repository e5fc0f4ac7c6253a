"""New songs from learned ones, and the judges that choose among them."""

import dataclasses

import numpy as np
import pytest
from conftest import TINY, make_song

from nemui_jax.config import Config
from nemui_jax.data import layout, pianoroll
from nemui_jax.evaluation import novelty
from nemui_jax.model import decoder
from nemui_jax.music.clock import steady_clock
from nemui_jax.music.song import NOTE
from nemui_jax.sampling import prior
from nemui_jax.sampling.decode import LatentTrack
from nemui_jax.sampling.play import play

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


def track(seed: int, settings: Config = TINY, seconds: float = 40.0) -> LatentTrack:
    song = make_song([tuple(note) for note in piece(seed, seconds)])
    clock = steady_clock()
    steps = pianoroll.count_steps(seconds, clock) - 1
    rows = np.random.default_rng(seed).normal(size=(layout.count_song_rows(steps, settings.model), 24))
    return LatentTrack(f"song {seed}", rows.astype(np.float32), steps, seed % 3, song, clock)


TRACKS = [track(seed) for seed in range(5)]
SONGS = [piece(seed) for seed in range(6)]


def test_a_draw_is_made_of_learned_rows_at_weights_of_sum_1():
    drawn, weights = prior.draw_song(TRACKS, TINY, 101, 0)
    assert len(drawn) == len(weights) == prior.SONGS_PER_DRAW
    assert weights.shape[1] == 101
    assert (weights > 0).all()
    np.testing.assert_allclose(weights.sum(0), 1)
    learned = {one.name: {row.tobytes() for row in one.rows} for one in TRACKS}
    for voice in drawn:
        assert voice.steps == 101 * TINY.model.block_steps
        assert len(voice.rows) == layout.count_song_rows(voice.steps, TINY.model)
        assert {row.tobytes() for row in voice.rows} <= learned[voice.name]
    assert len({voice.name for voice in drawn}) == len(drawn)
    assert len({voice.shift for voice in drawn}) == 1  # one key


def test_a_draw_depends_on_its_seed_alone():
    first, again, other = (prior.draw_song(TRACKS, TINY, 60, seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first[1], again[1])
    for voice, same in zip(first[0], again[0], strict=True):
        assert voice.name == same.name
        np.testing.assert_array_equal(voice.rows, same.rows)
    assert not np.array_equal(first[1], other[1])
    assert not all(np.array_equal(a.rows, b.rows) for a, b in zip(first[0], other[0], strict=True))


@pytest.mark.parametrize("blocks", [1, 2, 3, 300])
def test_any_length_is_drawn_even_from_short_songs(blocks):
    short = [track(seed, seconds=3.0) for seed in range(2)]
    drawn, weights = prior.draw_song(short, TINY, blocks, 1)
    assert weights.shape == (2, blocks)
    assert [len(voice.rows) for voice in drawn] == [layout.count_song_rows(4 * blocks, TINY.model)] * 2


def test_a_draw_can_be_played():
    import jax

    drawn, weights = prior.draw_song(TRACKS, TINY, 50, 2)
    song = play(decoder.init(jax.random.key(0), TINY), drawn, weights, TINY)
    assert song.seconds <= pianoroll.seconds_at(51 * TINY.model.block_steps, drawn[0].clock)


def test_songs_of_one_row_are_mixed_as_they_stand():
    settings = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, knot_steps=0))
    known = [track(seed, settings) for seed in range(3)]
    drawn, weights = prior.draw_song(known, settings, 40, 0)
    assert {voice.name for voice in drawn} == {one.name for one in known}
    assert all(voice.rows.shape == (1, 24) for voice in drawn)
    np.testing.assert_allclose(weights.sum(0), 1)


def test_one_song_is_too_few():
    with pytest.raises(ValueError, match="perturb"):
        prior.draw_song(TRACKS[:1], TINY, 10, 0)
    with pytest.raises(ValueError, match="there are 1"):
        novelty.rank(SONGS, SONGS[:1])
    with pytest.raises(ValueError, match="one at least"):
        novelty.nearest_passage(SONGS[0], [])


def test_smooth_has_variance_1_and_its_length_scale():
    found = prior.smooth_noise(np.random.default_rng(0), 400, 60, 5.0)
    assert found.shape == (400, 60)
    assert found.var() == pytest.approx(1, abs=0.05)
    assert (found[:, :-5] * found[:, 5:]).mean() == pytest.approx(np.exp(-0.5), abs=0.06)


def test_a_voice_jumps_to_where_the_harmony_is():
    chroma = np.eye(12)[np.arange(48) % 12]
    harmony = np.eye(12)[(np.arange(8) + 7) % 12]
    found = prior.passages(np.random.default_rng(0), np.arange(8.0), chroma, harmony, 8)
    assert found[0] % 12 == 7
    assert (found % 12 == (np.arange(8) + 7) % 12).all()


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
