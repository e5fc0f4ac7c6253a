"""Chords by beat, on built-in tunes whose chords are known."""

import numpy as np
import pytest

from nemui_jax.music import tunes
from nemui_jax.music.harmony import NO_CHORD, TRIADS, chords, triad

NAMES = {name: index for index, name in enumerate(["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"])}


def chord_number(name: str) -> int:
    return NAMES[name.removesuffix("m")] + 12 * name.endswith("m")


def chords_of(tune: str, beats: int) -> np.ndarray:
    song = tunes.song(next(one for one in tunes.TUNES if one.name == tune))
    notes, clock = song.notes, song.tempo_map
    onset, end = np.maximum(clock.beats_at(notes["onset"]), 0), clock.beats_at(notes["end"])
    return chords(np.round(onset * 4) / 4, np.round(end * 4) / 4, notes["pitch"].astype(int), beats)


def test_triads():
    assert triad(0) == (0, 4, 7)
    assert triad(chord_number("Am")) == (9, 0, 4)
    assert set(np.flatnonzero(TRIADS[chord_number("G")])) == {7, 11, 2}


def test_canon():
    """Pachelbel's ground bass: D A Bm F#m G D G A, two beats each, over and over."""
    ground = np.array([chord_number(name) for name in ["D", "A", "Bm", "F#m", "G", "D", "G", "A"]])
    found = chords_of("canon-in-d", 64)
    bars = found.reshape(-1, 8, 2)
    assert (bars == ground[None, :, None]).mean() > 0.85


def test_prelude():
    """The triads among the first bars of the Prelude in C; its sevenths are left aside."""
    found = chords_of("prelude-in-c", 11 * 4).reshape(-1, 4)
    for bar, name in ((0, "C"), (3, "C"), (4, "Am"), (6, "G"), (10, "G")):
        assert (found[bar] == chord_number(name)).mean() >= 0.75, (bar, name, found[bar])


def test_rests_and_noise():
    none = np.empty(0)
    assert len(chords(none, none, none.astype(int), 0)) == 0
    assert len(chords(none, none, none.astype(int), 4)) == 4
    onset = np.repeat(np.arange(8.0), 12)
    cluster = chords(onset, onset + 1, np.tile(np.arange(60, 72), 8), 8)
    assert (cluster == NO_CHORD).all()


@pytest.mark.parametrize("shift", [1, 5])
def test_transposed(shift):
    """A transposed song has transposed chords."""
    song = tunes.song(tunes.TUNES[0])
    notes = song.notes
    onset, end = song.tempo_map.beats_at(notes["onset"]), song.tempo_map.beats_at(notes["end"])
    onset = np.maximum(onset, 0)
    pitch = notes["pitch"].astype(int)
    found = chords(onset, end, pitch, 40)
    moved = chords(onset, end, pitch + shift, 40)
    expected = np.where(found < NO_CHORD, (found + shift) % 12 + found // 12 * 12, NO_CHORD)
    np.testing.assert_array_equal(moved, expected)
