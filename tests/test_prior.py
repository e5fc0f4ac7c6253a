"""New songs from learned ones, and the judges that choose among them."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_song

from nemui_jax.data.grid import GridSong, grid_song
from nemui_jax.evaluation import mixing, novelty
from nemui_jax.music import tunes
from nemui_jax.music.clock import choose_clock
from nemui_jax.music.key import estimate_key, shift_to_common
from nemui_jax.music.song import DRUM_CHANNEL, METER, NOTE, Part, Song
from nemui_jax.sampling import form, prior
from nemui_jax.sampling.analysis import AnalyzedSong
from nemui_jax.sampling.chain import find_chain
from nemui_jax.sampling.lookup import SHIFTS
from nemui_jax.sampling.mix import analyze
from nemui_jax.sampling.passages import merged
from nemui_jax.sampling.variation import vary

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
    drawn, sources = prior.draw(range(5), analyzed.__getitem__, 4, 15.0)
    again, _ = prior.draw(range(5), analyzed.__getitem__, 4, 15.0)
    other, _ = prior.draw(range(5), analyzed.__getitem__, 5, 15.0)
    assert drawn.notes.tolist() == again.notes.tolist() != other.notes.tolist()
    # No melody of these is a part of its own, so that one of them plays all.
    assert [(source.gave, source.share) for source in sources] == [
        ("form and harmony", 0),
        ("accompaniment and melody", 1),
    ]
    assert 12 < drawn.seconds < 15.001


def test_few_songs_of_many_are_read():
    read = set()
    songs = [_tune(name) for name in ("ode-to-joy", "minuet-in-g", "silent-night")]
    new = prior.draw(range(3000), lambda index: read.add(index) or songs[index % 3], 1, 10.0)
    assert {source.song for source in new.sources} <= read
    assert len(read) <= prior.SONGS_READ


def test_two_songs_are_enough_and_one_is_too_few(analyzed):
    new = prior.draw(range(2), analyzed.__getitem__, 0, 10.0)
    assert len(new.song.notes) > 10 and {source.song for source in new.sources} == {0, 1}
    with pytest.raises(ValueError, match="perturb"):
        prior.draw(range(1), analyzed.__getitem__, 0, 10.0)
    with pytest.raises(ValueError, match="there are 1"):
        novelty.rank(SONGS, SONGS[:1])
    with pytest.raises(ValueError, match="one at least"):
        novelty.nearest_passage(SONGS[0], [])


def _tune(name: str) -> AnalyzedSong:
    song = tunes.song(next(one for one in tunes.TUNES if one.name == name))
    return analyze(grid_song(song, choose_clock(song, "beats"), shift_to_common(estimate_key(song.notes)), name))


def _song_with_form(bars: list[tuple[int, ...]], program: int, seed: int) -> AnalyzedSong:
    """A melody and chords on channels of their own, and drums: one bar of 4/4 for each chord."""
    rng = np.random.default_rng(seed)
    tunes_of = {chord: rng.choice(chord, 4) + 12 for chord in sorted(set(bars))}
    lead, chords, drums = [], [], []
    for bar, chord in enumerate(bars):
        at = bar * 2.0
        lead += [(at + 0.5 * beat, at + 0.5 * beat + 0.4, int(pitch), 90) for beat, pitch in enumerate(tunes_of[chord])]
        chords += [(at + 1.0 * half, at + 1.0 * half + 0.9, tone - 12, 60) for half in (0, 1) for tone in chord]
        drums += [(at + 0.5 * beat, at + 0.5 * beat + 0.1, 36 + 2 * (beat % 2), 100) for beat in range(4)]
    parts = (
        Part(np.array(sorted(lead), NOTE), program, 0),
        Part(np.array(sorted(chords), NOTE), 48, 1),
        Part(np.array(sorted(drums), NOTE), 0, DRUM_CHANNEL),
    )
    song = Song(parts, meters=np.array([(0.0, 4, 4)], METER))
    return analyze(grid_song(song, choose_clock(song, "beats"), 0, f"band {seed}"))


C, D, E, F, G, A = (tuple(root + step for step in (0, 4, 7)) for root in (60, 62, 64, 65, 67, 69))
D_MINOR, E_MINOR, A_MINOR = (tuple(root + step for step in (0, 3, 7)) for root in (62, 64, 57))
THEME, BRIDGE = [C, F, D_MINOR, G], [A_MINOR, E_MINOR, F, G]


@pytest.fixture(scope="module")
def bands():
    forms = [THEME + BRIDGE + THEME + [A, D, E, C], BRIDGE + THEME + BRIDGE + [C, E, A, C]] * 2
    return [_song_with_form(bars, 73 + seed, seed) for seed, bars in enumerate(forms)]


def test_bars_that_return_are_found(bands):
    alike = form.likeness(form.onset_rolls(bands[0], np.ones(len(bands[0].voices), bool)))
    first = form.first_occurrences(alike)
    assert first.tolist() == [0, 1, 2, 3, 4, 5, 1, 3, 0, 1, 2, 3, 12, 13, 14, 0]
    assert form.share_returning(alike) == 11 / 16


@pytest.mark.parametrize("bars", [2, 7, 12, 16, 24, 60])
def test_a_form_begins_and_ends_as_its_song(bands, bars):
    order = form.whole_form(bands[0], bars, 0.5, np.random.default_rng(0))
    assert abs(len(order) - bars) <= form.BARS_NEAR
    assert order[0] == 0 and order[-1] == 15
    assert (np.diff(order) != 1).sum() <= max(1, bars // 8)


def test_a_form_returns_as_often_as_is_asked_for(bands):
    rolls = form.onset_rolls(bands[0], np.ones(len(bands[0].voices), bool))
    shares = []
    for returns in (0.0, 1.0):
        order = form.whole_form(bands[0], 12, returns, np.random.default_rng(0))
        shares.append(form.share_returning(form.likeness(rolls[order])))
    assert shares[0] < form.usual_returns(bands[0], 16) < shares[1]


def test_stretches_that_return_too_often_are_new():
    first, rng = np.array([0, 1, 2, 3, 0, 1, 2, 3, 8, 9, 10, 11, 0, 1, 2, 3]), np.random.default_rng(0)
    assert form.fewer_returns(first, 0.75, rng).tolist() == first.tolist()
    assert form.fewer_returns(first, 0.0, rng).tolist() == list(range(16))
    halved = form.fewer_returns(first, 0.5, rng).tolist()
    assert halved in ([*range(12), 0, 1, 2, 3], [0, 1, 2, 3, 0, 1, 2, 3, *range(8, 16)])


def test_a_new_song_has_the_form_and_the_band(bands):
    new = prior.draw(range(4), bands.__getitem__, 3, 32.0)
    gave = {source.gave: source for source in new.sources}
    assert set(gave) == {"form and harmony", "accompaniment", "melody"}
    assert gave["form and harmony"].share == 0
    assert sum(source.share for source in new.sources) == pytest.approx(1)
    programs = {part.program for part in new.song.parts if not part.is_drums}
    assert programs == {73 + gave["melody"].song, 48}
    assert sum(part.is_drums for part in new.song.parts) == 1
    assert new.song.seconds == pytest.approx(32, abs=1)
    model = bands[gave["form and harmony"].song].song.source
    assert mixing.returning(new.song, 64.0) == pytest.approx(mixing.returning(model, 64.0), abs=0.25)
    last = max(part.notes["onset"].max() for part in new.song.parts)
    ending = bands[gave["accompaniment"].song].song.parts[1].notes
    found = next(part.notes for part in new.song.parts if part.program == 48 and not part.is_drums)
    own = found["pitch"][found["onset"] > last - 1.9].astype(int)
    expected = ending["pitch"][ending["step"] >= 15 * 48].astype(int)
    assert len({*(own - own.min()).tolist()} ^ {*(expected - expected.min()).tolist()}) == 0


def test_a_band_beside_a_piano_keeps_its_melody(bands):
    lead, chords, _ = bands[1].song.parts
    both = replace(chords, notes=merged([lead.notes, chords.notes]))
    piano = analyze(replace(bands[1].song, parts=(both,)))
    assert prior.melody_of(piano).any() and not prior.own_melody(piano).any()
    for seed in range(6):
        new = prior.draw(range(2), [bands[0], piano].__getitem__, seed, 32.0)
        if new.sources[0].song == 1:
            break
    assert [(source.song, source.gave, source.share) for source in new.sources] == [
        (1, "form and harmony", 0),
        (0, "accompaniment and melody", 1),
    ]
    assert {part.program for part in new.song.parts if not part.is_drums} == {73, 48}


def test_a_new_song_is_as_loud_and_soft_as_its_form(bands):
    def swelling(song: AnalyzedSong, loud: int) -> AnalyzedSong:
        """Every other four bars are loud, the first or the second."""
        parts = [replace(part, notes=part.notes.copy()) for part in song.song.parts]
        for part in parts:
            part.notes["velocity"] = np.where(part.notes["step"] // (4 * 48) % 2 == loud, 100, 50)
        return analyze(replace(song.song, parts=tuple(parts)))

    songs = [swelling(song, index % 2) for index, song in enumerate(bands)]
    for seed in range(4):
        new = prior.draw(range(4), songs.__getitem__, seed, 32.0)
        loud = next(source.song for source in new.sources if "form" in source.gave) % 2
        bar = (new.song.notes["onset"] / 2 + 1e-3).astype(int)
        level = np.array([new.song.notes["velocity"][bar == number].mean() for number in range(16)])
        expected = np.where(np.arange(16) // 4 % 2 == loud, 100, 50)
        assert abs(level - expected).max() < 5


def test_no_song_is_heard_in_its_own_order_for_long(bands):
    song = bands[0]
    voices = np.ones(len(song.voices), bool)
    cost = np.ones((16, 16, len(SHIFTS)), np.float32)
    cost[np.arange(16), np.arange(16)] = 0  # all would stand where they are
    chain = find_chain(song, voices, cost, 2)
    same = form.likeness(form.onset_rolls(song, voices)) >= form.SAME_BAR
    place = chain.place
    follows = same[np.minimum(place[:-1] + 1, 15), place[1:]] & (np.diff(chain.shift) == 0)
    assert not (follows[1:] & follows[:-1]).any()
    assert follows.any()


def test_bars_that_do_not_return_are_other_bars(bands):
    song = bands[0]
    voices = np.ones(len(song.voices), bool)
    cost = np.ones((8, 16, len(SHIFTS)), np.float32)
    cost[:, 12] = 0  # all would be one bar
    place = find_chain(song, voices, cost, 2).place
    same = form.likeness(form.onset_rolls(song, voices)) >= form.SAME_BAR
    assert (same[np.ix_(place, place)].sum(1) == 1).all()


def test_sixteen_quarters_of_a_song_are_a_copy_in_any_key():
    song = mixing.in_beats(make_song([tuple(note) for note in piece(3)]))
    copy = song.copy()
    copy["pitch"] += 5
    assert mixing.copy_likeness(copy, [song], 32, 4).min() == pytest.approx(1)
    copy["pitch"][::4] += 1
    assert mixing.copy_likeness(copy, [song], 32, 4).max() < mixing.COPY_LIKENESS
    assert not len(mixing.copy_likeness(copy, [song], 8, 4))  # shorter than a window


@pytest.mark.parametrize("name", ["minuet-in-g", "the-entertainer"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_variations_rise_evenly(name, seed):
    song = _tune(name)
    source = _onsets(song.song)
    distance = np.array([_distance(source, _onsets(vary(song, noise, seed))) for noise in np.linspace(0, 1, 11)])
    assert distance[0] == 0
    assert distance[1] > 0
    assert distance[-1] > 0.4
    assert np.abs(distance - np.linspace(0, distance[-1], 11)).max() < 0.1


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_a_variation_ends_as_its_song_does(noise):
    song = _tune("the-entertainer")
    last = max(int(part.notes["step"].max()) for part in song.song.parts)
    start = song.units[song.units <= last][-1]
    for part, own in zip(vary(song, noise, 1).parts, song.song.parts, strict=True):
        kept, wanted = (one.notes[one.notes["step"] >= start] for one in (part, own))
        np.testing.assert_array_equal(kept, wanted)


def test_a_small_variation_keeps_the_melody_or_all_else(bands):
    kept = set()
    for seed in range(8):
        varied = vary(bands[0], 0.2, seed)
        same = [
            np.array_equal(one.notes, other.notes) for one, other in zip(varied.parts, bands[0].song.parts, strict=True)
        ]
        assert same[0] != (same[1] and same[2])
        kept.add(same[0])
    assert kept == {True, False}


def test_variations_differ_by_seed_and_hold_the_smaller_ones():
    song = _tune("the-entertainer")
    assert _onsets(vary(song, 0.0, 1)) == _onsets(song.song)
    assert _onsets(vary(song, 0.2, 1)) == _onsets(vary(song, 0.2, 1)) != _onsets(vary(song, 0.2, 2))
    source, small, large = (_onsets(vary(song, noise, 1)) for noise in (0.0, 0.2, 0.4))
    assert len((small - source) - large) <= 0.1 * len(small - source)


def _onsets(song: GridSong) -> set[tuple[int, int, int]]:
    return {(index, int(n["step"]), int(n["pitch"])) for index, part in enumerate(song.parts) for n in part.notes}


def _distance(first: set, second: set) -> float:
    return 1 - 2 * len(first & second) / (len(first) + len(second))


def test_bars_that_return_are_counted_in_quarters():
    bar = [(0.0, 0.4, 60), (0.5, 0.9, 64), (1.0, 1.4, 67)]
    other = [(0.0, 0.4, 62), (1.0, 1.4, 65), (1.5, 1.9, 69)]
    rows = [
        (at * 2 + on, at * 2 + end, pitch, 80)
        for at, bar_of in enumerate([bar, other, bar, bar[:1]])
        for on, end, pitch in bar_of
    ]
    song = make_song(rows)
    assert mixing.returning(song, 16.0) == 0.5
    assert mixing.returning(song, 8.0) == 0.0


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
