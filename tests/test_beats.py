"""Beats tracked from notes: of built-in tunes played with rubato, and of what is hardly music."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_song

from nemui_jax.config import Config
from nemui_jax.data import cache, dataset
from nemui_jax.music import beats, midi_writer, tunes
from nemui_jax.music.beats import Beats, track_beats
from nemui_jax.music.clock import LEAST_CONFIDENCE
from nemui_jax.music.song import NOTE, Song, TempoMap, retime

TUNES = {tune.name: tune for tune in tunes.TUNES}


def performed(name: str, depth: float = 0.15) -> tuple[Song, np.ndarray]:
    """A tune as a pianist might record it, and the seconds of its quarters.

    They swing by a share of their length over 16 quarters; the file's own tempo says nothing of it.
    """
    song = tunes.song(TUNES[name])
    quarters = np.arange(int(song.tempo_map.beats_at(song.seconds)) + 2)
    lengths = np.diff(song.tempo_map.seconds_at(np.append(quarters, len(quarters))))
    rubato = TempoMap.of_changes(quarters, lengths * np.exp(depth * np.sin(2 * np.pi * quarters / 16)))
    played = replace(retime(song, song.tempo_map, rubato), tempo_map=TempoMap.steady(), meters=song.meters[:0])
    return played, rubato.seconds_at(quarters)[:-1]


def notes_at(onset) -> np.ndarray:
    """A note of 0.3 s on each onset."""
    notes = np.zeros(len(onset), NOTE)
    notes["onset"], notes["pitch"], notes["velocity"] = onset, 60, 70
    notes["end"] = notes["onset"] + 0.3
    return notes


def scattered(notes: int, seconds: float = 60.0) -> np.ndarray:
    """Notes at random times."""
    rng = np.random.default_rng(0)
    found = notes_at(np.sort(rng.uniform(0, seconds, notes)))
    found["pitch"], found["velocity"] = rng.integers(36, 90, notes), rng.integers(30, 100, notes)
    return found


def share_hit(true: np.ndarray, found: np.ndarray) -> float:
    """The F-measure of beats within 70 ms of each other."""
    hits = (np.abs(true[:, None] - found[None]) <= 0.07).any(1).sum()
    return 2 * hits / (len(true) + len(found))


def check(found: Beats, notes: np.ndarray) -> None:
    assert np.isfinite(found.times).all() and (np.diff(found.times) > 0).all()
    assert len(found.times) == len(found.downbeats) < 30_000
    assert 0 <= found.confidence <= 1
    if len(found.times):
        assert found.times[0] <= notes["onset"][0] and found.times[-1] > notes["onset"][-1]


@pytest.mark.parametrize("name", ["prelude-in-c", "minuet-in-g", "sonata-in-c", "lullaby"])
@pytest.mark.parametrize("depth", [0.0, 0.2])
def test_beats_of_a_tune_played_with_rubato(name, depth):
    song, quarters = performed(name, depth)
    found = track_beats(song.notes)
    check(found, song.notes)
    assert share_hit(quarters, found.times) > 0.9
    assert found.confidence > 0.8


def test_downbeats_of_a_minuet():
    song, quarters = performed("minuet-in-g")
    found = track_beats(song.notes)
    assert share_hit(quarters[::3], found.times[found.downbeats]) > 0.9


def test_onsets_at_random_earn_less_confidence_than_a_tune():
    notes = scattered(600)
    found = track_beats(notes)
    check(found, notes)
    assert found.confidence < LEAST_CONFIDENCE < 0.8 < track_beats(performed("lullaby")[0].notes).confidence


def test_beats_move_with_the_music():
    notes = performed("lullaby")[0].notes
    later = notes.copy()
    later["onset"] += 100
    later["end"] += 100
    np.testing.assert_allclose(track_beats(later).times, track_beats(notes).times + 100, atol=1e-3)


def test_a_long_song_is_weighed_in_windows_with_the_same_result(monkeypatch):
    notes = performed("prelude-in-c")[0].notes
    whole = track_beats(notes)
    monkeypatch.setattr(beats, "_WINDOW", 150)
    found = track_beats(notes)
    check(found, notes)
    assert share_hit(whole.times, found.times) > 0.97


def test_a_silence_of_minutes_is_filled_with_beats():
    song, quarters = performed("lullaby")
    notes = np.concatenate([song.notes, song.notes])
    for name in ("onset", "end"):
        notes[name][len(song.notes) :] += 300
    found = track_beats(notes)
    check(found, notes)
    assert np.diff(found.times).max() < 4
    second = found.times[found.times > 300 + quarters[0] - 0.1] - 300
    assert share_hit(quarters, second) > 0.9


@pytest.mark.parametrize(
    "onset",
    [
        [],
        [3.0],
        [0.0, 0.4],
        [1.0] * 50,
        [0.0, 0.5, 1.0],
        [0.0, 600.0],
        [0.0, 1e6],
        [*range(5), *range(10**6, 10**6 + 5)],
    ],
)
def test_hardly_any_notes(onset):
    check(track_beats(notes_at(onset)), notes_at(onset))


def test_notes_that_are_not_music():
    """Ends before onsets, every pitch and velocity, hundreds of notes a second."""
    rng = np.random.default_rng(2)
    notes = scattered(4000, seconds=8)
    notes["end"] = notes["onset"] + rng.normal(0, 1, 4000)
    notes["pitch"], notes["velocity"] = rng.integers(0, 128, 4000), rng.integers(0, 128, 4000)
    before = notes.copy()
    check(track_beats(notes), notes)
    np.testing.assert_array_equal(notes, before)


def test_a_song_is_tracked_once(tmp_path, monkeypatch):
    """Its beats are stored with it, and a folder read again has the same."""
    monkeypatch.setenv("NEMUI_CACHE", str(tmp_path / "cache"))
    (tmp_path / "songs").mkdir()
    midi_writer.write(performed("lullaby")[0], tmp_path / "songs" / "lullaby.mid")
    first, reports = dataset.load(tmp_path / "songs", Config())
    monkeypatch.setattr("nemui_jax.music.clock.track_beats", None)
    again, _ = dataset.load(tmp_path / "songs", Config())
    assert len(first.songs[0].beats) > 60
    np.testing.assert_array_equal(first.songs[0].beats, again.songs[0].beats)
    assert first.entries == again.entries
    assert first.entries[0].clock == "tracked"
    assert reports[0].remarks == ("its notes do not follow its tempo, so its beats were tracked from them",)
    cache.save_song(tmp_path / "copy.song", first.songs[0], "abc")
    stored = cache.load_song(tmp_path / "copy.song", "abc")
    np.testing.assert_array_equal(first.songs[0].beats, stored.beats)


def test_songs_from_memory_are_tracked_too():
    song, quarters = performed("minuet-in-g")
    score = tunes.song(TUNES["minuet-in-g"])
    free = make_song([(note["onset"], note["end"], note["pitch"]) for note in scattered(1200)])
    entries = dataset.from_songs([song, score, free], Config()).entries
    assert [entry.clock for entry in entries] == ["tracked", "file", "steady"]
    assert entries[0].tempo == pytest.approx(60 * len(quarters) / song.seconds, rel=0.03)
    assert entries[2].tempo is None
