"""Every file that is written is read by other programs' readers, strictly, as the same notes."""

from pathlib import Path

import mido
import numpy as np
import pretty_midi
import pytest
import symusic
from conftest import call, make_song
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from nemui_jax.music import midi_reader, midi_writer

pretty_midi.pretty_midi.MAX_TICK = 10**9  # it refuses files of more than 1e7
TICK = 1.1e-3  # seconds: times are kept to less than a millisecond


def by_mido(path: Path) -> list[tuple]:
    """Notes as (onset, end, pitch, velocity), from a reader that refuses data bytes above 127."""
    sounding, notes, seconds = {}, [], 0.0
    for message in mido.MidiFile(path, clip=False):
        seconds += message.time
        if message.type in ("note_on", "note_off"):
            key = message.channel, message.note
            if message.type == "note_on" and message.velocity:
                assert key not in sounding
                sounding[key] = seconds, message.velocity
            else:
                onset, velocity = sounding.pop(key)
                notes.append((onset, seconds, message.note, velocity))
    assert not sounding
    return notes


pretty_midi.pretty_midi.MAX_TICK = 10**9  # our tempos may be slow


def by_pretty_midi(path: Path) -> list[tuple]:
    instruments = pretty_midi.PrettyMIDI(str(path)).instruments
    return [(note.start, note.end, note.pitch, note.velocity) for part in instruments for note in part.notes]


def by_symusic(path: Path) -> list[tuple]:
    parts = symusic.Score(path).to("second").tracks
    return [(note.time, note.end, note.pitch, note.velocity) for part in parts for note in part.notes]


def by_us(path: Path) -> list[tuple]:
    song = midi_reader.read(path)
    assert song.warnings == ()
    return song.notes[["onset", "end", "pitch", "velocity"]].tolist()


def in_order(notes: list[tuple]) -> np.ndarray:
    """Rows by pitch, then onset, so that times that differ by a hair do not change their places."""
    return np.array(sorted(notes, key=lambda note: (note[2], note[0])))


def assert_read_alike(path: Path) -> None:
    ours = in_order(by_us(path))
    assert len(ours)
    for reader in (by_mido, by_pretty_midi, by_symusic):
        theirs = in_order(reader(path))
        assert theirs.shape == ours.shape, reader
        np.testing.assert_array_equal(theirs[:, 2:], ours[:, 2:])
        np.testing.assert_allclose(theirs[:, :2], ours[:, :2], rtol=0, atol=TICK)


@pytest.mark.parametrize(
    "recipe",
    [
        ["--song", "all"],
        ["--song", "0", "--seconds", "9", "--program", "127", "--key", "F#m"],
        ["--mix", "0:0.5,1:0.5"],
        ["--mix", "0:0.7,2:0.3", "--melody", "2", "--tempo", "0:1,2:1"],
        ["--morph", "0,1,2"],
        ["--perturb", "1:1", "--count", "3"],
        ["--mix", "0:1,1:1,2:1", "--temperature", "3"],
    ],
    ids=" ".join,
)
def test_outputs(trained, tmp_path, recipe):
    answer = call("sample", "--run", trained.path, "--out", tmp_path / "out", *recipe)
    assert answer.code == 0, answer
    files = list((tmp_path / "out").iterdir())
    assert files
    for path in files:
        assert_read_alike(path)


times = st.floats(0, 60)
channels = st.integers(0, 15).filter(lambda channel: channel != 9)


@settings(max_examples=60, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(
    rows=st.lists(
        st.tuples(times, st.floats(0.002, 5), st.integers(0, 127), st.integers(1, 127), channels),
        min_size=1,
        max_size=40,
    ),
    pedal=st.lists(st.tuples(times, st.integers(0, 127)), max_size=5),
    tempos=st.lists(st.tuples(times, st.floats(0.02, 16)), max_size=5),
    meters=st.lists(st.tuples(times, st.integers(1, 32), st.sampled_from([1, 2, 4, 8, 16])), max_size=3),
)
def test_any_song(tmp_path_factory, rows, pedal, tempos, meters):
    path = tmp_path_factory.getbasetemp() / "any.mid"
    song = make_song(
        [(onset, onset + length, *others, 8 * others[-1]) for onset, length, *others in rows],  # a program a channel
        pedal=sorted(pedal),
        tempos=sorted(tempos),
        meters=sorted(meters),
    )
    midi_writer.write(song, path, "of any notes")
    assert_read_alike(path)
    assert len(by_us(path)) == len(song.notes)
