import dataclasses
import itertools
import os
import struct
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from conftest import group_parts

from nemui_jax.errors import SoundfontError
from nemui_jax.music import instruments
from nemui_jax.music.song import (
    CONTROL,
    DRUM_CHANNEL,
    NOTE,
    PEDAL,
    PITCH_BEND,
    SONG_NOTE,
    Part,
    Song,
    pedal_controls,
)
from nemui_jax.outputs import audio, playing, tones

RATE = 22050


@pytest.fixture(autouse=True)
def no_fonts(monkeypatch):
    """The built-in tones unless a test names a font, whatever this machine has."""
    monkeypatch.setattr(audio, "FOLDERS", ())
    monkeypatch.delenv("SOUNDFONT", raising=False)


def make_song(*rows: tuple, pedal: list[tuple] | None = None) -> Song:
    """A song from rows (onset, end, pitch[, velocity, channel, program])."""
    default = (0.0, 0.5, 60, 80, 0, 0)
    parts = group_parts(np.array([(*row, *default[len(row) :]) for row in rows], SONG_NOTE))
    controls = pedal_controls(np.array(pedal or [], PEDAL))
    return Song((dataclasses.replace(parts[0], controls=controls), *parts[1:]) if parts else ())


def make_part(
    *rows: tuple[float, float, int], program: int = 0, channel: int = 0, controls: list[tuple] | None = None
) -> Part:
    """A part from rows (onset, end, pitch)."""
    notes = np.array([(*row, 80) for row in rows], NOTE)
    return Part(notes, program, channel, controls=np.array(controls or [], CONTROL))


def level(samples: np.ndarray, start: float, end: float) -> float:
    """Root mean square of a stretch in seconds."""
    return float(np.sqrt((samples[round(start * RATE) : round(end * RATE)] ** 2).mean()))


def strongest(samples: np.ndarray) -> float:
    """The frequency in hertz where the spectrum of the first second is highest."""
    mono = samples[:RATE].sum(axis=1)
    return float(np.abs(np.fft.rfft(mono * np.hanning(len(mono)))).argmax() * RATE / len(mono))


# The sound of a song


def test_shape_level_and_peak():
    rng = np.random.default_rng(0)
    onset = np.sort(rng.uniform(0, 10, 200))
    rows = [
        (time, time + 0.4, int(pitch), int(velocity))
        for time, pitch, velocity in zip(onset, rng.integers(30, 100, 200), rng.integers(1, 128, 200), strict=True)
    ]
    song = make_song(*rows)
    samples = audio.render(song, rate=RATE)
    assert samples.dtype == np.float32
    assert samples.shape == (round((song.seconds + playing.TAIL_SECONDS) * RATE), 2)
    assert np.isfinite(samples).all()
    assert 0.3 < np.abs(samples).max() <= audio.PEAK
    assert audio.loudness(samples.T, RATE) == pytest.approx(audio.LOUDNESS_DB, abs=0.5)
    assert level(samples[-RATE // 10 :], 0, 1) < 1e-3
    np.testing.assert_array_equal(samples, audio.render(song, rate=RATE))


@pytest.mark.parametrize("velocity", [1, 127])
def test_loudness_does_not_depend_on_velocity_or_clip(velocity):
    samples = audio.render(make_song(*[(0.0, 0.05, pitch, velocity) for pitch in range(21, 109)]), rate=RATE)
    assert audio.loudness(samples.T, RATE) == pytest.approx(audio.LOUDNESS_DB, abs=1)
    assert np.abs(samples).max() <= audio.PEAK


@pytest.mark.parametrize("pitch", [45, 60, 69, 90])
def test_pitch(pitch):
    base = 440 * 2 ** ((pitch - 69) / 12)
    found = strongest(audio.render(make_song((0.0, 1.0, pitch)), rate=RATE))
    partial = max(round(found / base), 1)
    assert found / partial == pytest.approx(base, rel=0.01)
    assert partial <= 2


@pytest.mark.parametrize("rate", [8000, 44100])
def test_every_pitch_at_any_rate(rate):
    samples = audio.render(make_song(*[(0.01 * pitch, 0.01 * pitch + 0.1, pitch) for pitch in range(128)]), rate=rate)
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() > 0.1


def test_velocity_is_heard():
    samples = audio.render(make_song((0.0, 0.5, 60, 30), (2.0, 2.5, 60, 120)), rate=RATE)
    assert level(samples, 2, 2.5) / level(samples, 0, 0.5) == pytest.approx((120 / 30) ** 2, rel=0.1)


def test_dies_away_sooner_when_high():
    low, high = (audio.render(make_song((0.0, 4.0, pitch)), rate=RATE) for pitch in (40, 88))
    low_left, high_left = (level(samples, 2.5, 3) / level(samples, 0, 0.5) for samples in (low, high))
    assert high_left < low_left / 4
    assert low_left < 0.7


def test_low_is_left():
    low, high = (audio.render(make_song((0.0, 1.0, pitch)), rate=RATE) for pitch in (30, 100))
    assert level(low[:, :1], 0, 1) > 1.2 * level(low[:, 1:], 0, 1)
    assert level(high[:, 1:], 0, 1) > 1.2 * level(high[:, :1], 0, 1)


@pytest.mark.parametrize("song", [make_song(), make_song((0.0, 1.0, 127, 1))], ids=["empty", "above the rate"])
def test_silence(song):
    samples = audio.render(song, rate=8000)
    assert samples.shape == (round((song.seconds + playing.TAIL_SECONDS) * 8000), 2)
    assert not samples.any()


def test_unusable_rate():
    with pytest.raises(ValueError, match="8000 to 192000"):
        audio.render(make_song(), rate=100)


# The pedal


def test_pedal_is_heard():
    dry, held = (
        audio.render(make_song((0.0, 0.5, 60), (2.5, 3.0, 72), pedal=pedal), rate=RATE)
        for pedal in ([], [(0.2, 127), (2.0, 0)])
    )
    assert level(held, 1.0, 1.9) > 20 * level(dry, 1.0, 1.9)
    assert level(held, 2.35, 2.49) < level(held, 1.5, 1.9) / 10


@pytest.mark.parametrize(
    ("pedal", "end"),
    [
        ([], 1.0),
        ([(0.5, 127), (2.0, 0)], 2.0),
        ([(0.5, 64), (0.8, 100), (2.0, 63)], 2.0),  # on the way down it is down
        ([(0.5, 127), (0.9, 0), (1.1, 127)], 1.0),  # too late to catch the note
        ([(0.5, 127), (1.0, 0)], 1.0),
        ([(1.0, 127), (1.5, 0)], 1.5),
        ([(0.5, 127)], 5.0 + playing.RING_SECONDS),
        ([(0.5, 127), (900.0, 0)], 5.0 + playing.RING_SECONDS),
    ],
)
def test_sustained(pedal, end):
    notes = np.array([(0.0, 1.0, 60, 80), (4.5, 5.0, 90, 80)], NOTE)
    controls = pedal_controls(np.array(pedal, PEDAL))
    assert playing.sustained(notes, controls, 5.0 + playing.RING_SECONDS)["end"][0] == end


def test_sustained_ends_where_the_string_is_struck_again():
    notes = np.array([(0.0, 1.0, 60, 80), (0.5, 2.0, 62, 80), (3.0, 3.5, 60, 80)], NOTE)
    controls = pedal_controls(np.array([(0.0, 127), (6.0, 0)], PEDAL))
    assert playing.sustained(notes, controls, 9.5)["end"].tolist() == [3.0, 6.0, 6.0]
    assert notes["end"].tolist() == [1.0, 2.0, 3.5]


def test_a_pedal_is_for_its_channel():
    held = make_part((0.0, 0.5, 60), (5.0, 5.5, 60), controls=[(0.1, 64, 127), (4.0, 64, 0)])
    beside, above = make_part((0.0, 0.5, 60), channel=1), make_part((0.0, 0.5, 72), program=20)
    alone = audio.render(Song((held,)), rate=RATE)
    assert level(audio.render(Song((held, beside)), rate=RATE), 2, 3) < 1.2 * level(alone, 2, 3)
    assert level(audio.render(Song((held, above)), rate=RATE), 2, 3) > 1.5 * level(alone, 2, 3)  # on the same channel


# Bands


def test_families_sound_different_and_none_drowns_the_others():
    spectra = []
    for program in (0, 25, 33, 48, 62):
        samples = audio.render(Song((make_part((0.0, 1.5, 48), program=program),)), rate=RATE)
        spectrum = np.abs(np.fft.rfft(samples[: 2 * RATE].sum(axis=1)))
        spectra.append(spectrum / np.linalg.norm(spectrum))
        alone = playing.play(Song((make_part((0.0, 0.4, 48), program=program),)), tones.tone_generator(RATE), RATE)
        assert 0.04 < level(alone.T, 0, 0.4) < 0.12
    alike = np.array(spectra) @ np.array(spectra).T
    assert (alike[~np.eye(5, dtype=bool)] < 0.97).all()


def test_strings_last_and_guitars_die_away():
    bowed, plucked = (
        audio.render(Song((make_part((0.0, 4.0, 64), program=program),)), rate=RATE) for program in (48, 25)
    )
    assert level(bowed, 3, 3.9) > 0.7 * level(bowed, 0.5, 1.4)
    assert level(plucked, 3, 3.9) < 0.3 * level(plucked, 0.5, 1.4)


def test_drums_are_heard_whatever_their_length():
    short, long = (
        audio.render(Song((make_part((0.0, end, 38), (1.0, 1.0 + end, 42), channel=DRUM_CHANNEL),)), rate=RATE)
        for end in (0.001, 0.9)
    )
    np.testing.assert_array_equal(short, long)
    assert len(short) == round((1.0 + playing.TAIL_SECONDS) * RATE)


@pytest.mark.parametrize("pitch", instruments.DRUMS)
def test_every_drum_sounds_and_ends(pitch):
    drum = Song((make_part((0.0, 0.01, pitch), channel=DRUM_CHANNEL),))
    samples = playing.play(drum, tones.tone_generator(RATE), RATE)
    assert 0.02 < np.abs(samples[:, : RATE // 4]).max() < 2
    assert np.abs(samples[:, -RATE // 20 :]).max() < 1e-4


def test_drums_differ_in_pitch():
    kick, snare, hat = (
        audio.render(Song((make_part((0.0, 0.1, pitch), channel=DRUM_CHANNEL),)), rate=44100) for pitch in (36, 38, 42)
    )
    centres = []
    for samples in (kick, snare, hat):
        power = np.abs(np.fft.rfft(samples.sum(axis=1))) ** 2
        centres.append((power * np.fft.rfftfreq(len(samples), 1 / 44100)).sum() / power.sum())
    assert centres[0] < 300 < centres[1] < 5000 < centres[2]


def test_a_closed_hat_ends_an_open_one():
    open_hat, closed = (
        playing.play(
            Song((make_part((0.0, 0.1, 46), *more, channel=DRUM_CHANNEL),)), tones.tone_generator(RATE), RATE
        ).T
        for more in ([], [(0.05, 0.06, 42)])
    )
    assert level(closed, 0.3, 0.4) < 0.1 * level(open_hat, 0.3, 0.4)


def levels_of(*controls: tuple) -> tuple[np.ndarray, np.ndarray]:
    """The levels of a part with controls, and of the same part without, left and right, at 0.1 and 2.1 s."""
    rows = (0.0, 1.0, 60), (2.0, 3.0, 60)
    found = []
    for moves in (list(controls), []):
        played = playing.play(Song((make_part(*rows, controls=moves),)), tones.tone_generator(RATE), RATE)
        found.append(np.array([[level(side[:, None], at, at + 0.8) for side in played] for at in (0.1, 2.1)]))
    return found[0], found[1]


@pytest.mark.parametrize("controller", [playing.VOLUME, playing.EXPRESSION])
def test_volume_and_expression(controller):
    first = 100 if controller == playing.VOLUME else 127
    heard, without = levels_of((0.0, controller, first), (1.5, controller, first // 2))
    np.testing.assert_allclose(heard[0], without[0], rtol=0.01)
    np.testing.assert_allclose(heard[1], without[1] * (first // 2 / first) ** 2, rtol=0.01)


def test_a_crescendo_within_a_note():
    steps = [(0.1 + 0.005 * step, playing.EXPRESSION, 10 + step) for step in range(118)]
    part = make_part((0.0, 1.0, 60), program=48, controls=[(0.0, playing.EXPRESSION, 10), *steps])
    samples = playing.play(Song((part,)), tones.tone_generator(RATE), RATE).T
    levels = [level(samples, at, at + 0.1) for at in (0.1, 0.3, 0.5, 0.7)]
    assert all(later > 1.5 * earlier for earlier, later in itertools.pairwise(levels))


def test_pan():
    heard, without = levels_of((0.0, playing.PAN, 0), (1.5, playing.PAN, 127))
    assert heard[0, 1] < 0.01 * heard[0, 0]
    assert heard[1, 0] < 0.01 * heard[1, 1]
    np.testing.assert_allclose(heard[0, 0], np.sqrt(2) * without[0, 0], rtol=0.01)


RANGE_OF_TWELVE = [(0.0, playing.PARAMETER, 0), (0.0, playing.PARAMETER_FINE, 0), (0.0, playing.DATA, 12)]


@pytest.mark.parametrize("program", [0, 48])
@pytest.mark.parametrize(
    ("controls", "semitones"),
    [
        ([], 0),
        ([(0.0, PITCH_BEND, 8191)], 2),
        ([(0.0, PITCH_BEND, -8192)], -2),
        ([*RANGE_OF_TWELVE, (0.0, PITCH_BEND, 4096)], 6),
        ([*RANGE_OF_TWELVE, (0.0, playing.PARAMETER, 127), (0.0, playing.DATA, 1), (0.0, PITCH_BEND, 4096)], 6),
    ],
)
def test_bend(program, controls, semitones):
    samples = audio.render(Song((make_part((0.0, 1.2, 69), program=program, controls=controls),)), rate=RATE)
    found, base = strongest(samples), 440 * 2 ** (semitones / 12)
    assert found / max(round(found / base), 1) == pytest.approx(base, rel=0.01)


def test_a_bend_within_a_note():
    controls = [(0.5, PITCH_BEND, 8191)]
    samples = audio.render(Song((make_part((0.0, 1.5, 69), program=62, controls=controls),)), rate=RATE)
    for start, base in ((0.05, 440.0), (0.6, 440 * 2 ** (2 / 12))):
        found = strongest(np.pad(samples[round(start * RATE) : round((start + 0.4) * RATE)], ((0, RATE), (0, 0))))
        assert found / max(round(found / base), 1) == pytest.approx(base, rel=0.01)


# Files


def test_write_wav(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"what was there before")
    audio.write_wav(path, np.array([[0.0, 1.0], [-1.0, 0.5], [2.0, -2.0]], np.float32), 8000)
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (2, 2, 8000, 3)
        values = np.frombuffer(file.readframes(3), "<i2")
    assert values.tolist() == [0, 32767, -32767, 16384, 32767, -32767]
    assert list(tmp_path.iterdir()) == [path]


def test_write_wav_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.wav").mkdir()
    with pytest.raises(OSError, match="directory"):
        audio.write_wav(tmp_path / "a.wav", np.zeros((1, 2), np.float32))
    assert [item.name for item in tmp_path.iterdir()] == ["a.wav"]


# Soundfonts


def make_font(path: Path) -> Path:
    """A soundfont of a sine of 441 Hz on pitch 69, looped, for all pitches, as program 0; an octave higher as drums."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    def generators(*pairs: tuple[int, int]) -> bytes:
        return b"".join(struct.pack("<HH", *pair) for pair in (*pairs, (0, 0)))

    def preset(name: bytes, bank: int, bag: int) -> bytes:
        return struct.pack("<20sHHHIII", name, 0, bank, bag, 0, 0, 0)

    sine = (20000 * np.sin(2 * np.pi * np.arange(44100) / 100)).astype("<i2")
    samples = np.concatenate([sine, np.zeros(46, "<i2")]).tobytes()
    header = b"".join(
        struct.pack("<20sIIIIIBbHH", b"sine", 0, 44100, 1000, 43000, 44100, root, 0, 0, 1) for root in (69, 57)
    )
    info = chunk(b"ifil", struct.pack("<HH", 2, 1)) + chunk(b"isng", b"EMU8000\0") + chunk(b"INAM", b"sine\0\0")
    articles = (
        chunk(b"phdr", preset(b"sine", 0, 0) + preset(b"kit", 128, 1) + preset(b"EOP", 0, 2))
        + chunk(b"pbag", struct.pack("<HHHHHH", 0, 0, 1, 0, 2, 0))
        + chunk(b"pmod", bytes(10))
        + chunk(b"pgen", generators((41, 0), (41, 1)))  # instruments 0 and 1
        + chunk(b"inst", struct.pack("<20sH20sH20sH", b"sine", 0, b"kit", 1, b"EOI", 2))
        + chunk(b"ibag", struct.pack("<HHHHHH", 0, 0, 2, 0, 4, 0))
        + chunk(b"imod", bytes(10))
        + chunk(b"igen", generators((54, 1), (53, 0), (54, 1), (53, 1)))  # looped; samples 0 and 1
        + chunk(b"shdr", header + struct.pack("<20sIIIIIBbHH", b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0))
    )
    lists = [b"INFO" + info, b"sdta" + chunk(b"smpl", samples), b"pdta" + articles]
    path.write_bytes(chunk(b"RIFF", b"sfbk" + b"".join(chunk(b"LIST", part) for part in lists)))
    return path


@pytest.fixture
def font(tmp_path) -> Path:
    pytest.importorskip("symusic")
    return make_font(tmp_path / "sine.sf2")


def test_soundfont(font):
    song = make_song((0.0, 0.5, 69, 30), (2.5, 3.0, 57, 120), pedal=[(0.2, 127), (1.5, 0)])
    samples = audio.render(song, font, rate=RATE)
    assert samples.shape == (5 * RATE, 2)
    assert strongest(samples) == pytest.approx(441, abs=1.5)
    assert strongest(samples[round(2.5 * RATE) :]) == pytest.approx(220.5, abs=2.5)
    assert level(samples, 2.5, 3) / level(samples, 0, 0.5) == pytest.approx((120 / 30) ** 2, rel=0.1)
    assert level(samples, 1.0, 1.4) == pytest.approx(level(samples, 0.1, 0.5), rel=0.1)  # the pedal, on a looped tone
    assert level(samples, 2.0, 2.4) < level(samples, 1.0, 1.4) / 20
    assert audio.loudness(samples.T, RATE) == pytest.approx(audio.LOUDNESS_DB, abs=0.5)


def test_soundfont_without_the_program(font):
    samples = audio.render(make_song((0.0, 0.5, 69, 80, 0, 40)), font, rate=RATE)
    assert strongest(samples) == pytest.approx(441, abs=1.5)


def test_soundfont_plays_a_band(font):
    tune = make_part((0.0, 1.2, 69), controls=[(0.0, PITCH_BEND, -8192), (0.0, playing.PAN, 0)])
    drums = make_part((0.0, 0.001, 69), channel=DRUM_CHANNEL, controls=[(0.0, playing.PAN, 127)])
    samples = audio.render(Song((tune, drums)), font, rate=RATE)
    assert strongest(samples[:, :1]) == pytest.approx(441 * 2 ** (-2 / 12), abs=1.5)
    assert strongest(samples[:, 1:]) == pytest.approx(882, abs=1.5)


def test_find_soundfont(font, monkeypatch):
    assert audio.find_soundfont() is None
    monkeypatch.setattr(audio, "FOLDERS", (font.parent / "none", font.parent))
    assert audio.find_soundfont() == font
    make_font(font.with_name("FluidR3_GM.sf2"))
    make_font(font.with_name("aaa.SF2"))
    assert audio.find_soundfont() == font.with_name("FluidR3_GM.sf2")
    monkeypatch.setenv("SOUNDFONT", str(font))
    assert audio.find_soundfont() == font
    monkeypatch.setenv("SOUNDFONT", str(font.with_name("gone.sf2")))
    with pytest.raises(ValueError, match=r"gone\.sf2: no such file; .*SOUNDFONT"):
        audio.find_soundfont()


def test_found_soundfont_is_played(font, monkeypatch):
    monkeypatch.setenv("SOUNDFONT", str(font))
    assert strongest(audio.render(make_song((0.0, 1.0, 69)), rate=RATE)) == pytest.approx(441, abs=1.5)


def test_without_symusic(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "symusic", None)
    monkeypatch.setattr(audio, "FOLDERS", (tmp_path,))
    font = make_font(tmp_path / "sine.sf2")
    song = make_song((0.0, 0.5, 69))
    assert audio.find_soundfont() is None
    assert audio.render(song, rate=RATE).any()
    with pytest.raises(ImportError, match=r"-m pip install -e '?\S*\[audio\]"):
        audio.render(song, font, rate=RATE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is not a soundfont"),
        (b"MThd\0\0\0\6\0\1\0\1", "is not a soundfont"),
        (b"RIFF\x10\0\0\0sfbk" + b"x" * 16, "is a damaged soundfont"),
    ],
)
def test_no_soundfont(data, message, tmp_path):
    pytest.importorskip("symusic")
    path = tmp_path / "odd.sf2"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"odd\.sf2: {message}") as caught:
        audio.render(make_song((0.0, 0.5, 60)), path)
    assert "\n" not in str(caught.value)


def test_cut_soundfont(font):
    whole = font.read_bytes()
    for size in (len(whole) - 1, len(whole) - 100, len(whole) // 2):
        font.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged"):
            audio.render(make_song((0.0, 0.5, 60)), font, rate=RATE)


@pytest.mark.parametrize("field", [20, 24], ids=["a start that crashes it", "an end that hangs it"])
def test_a_soundfont_that_crashes_or_hangs_symusic_is_refused(font, monkeypatch, field):
    monkeypatch.setattr(audio, "LIMIT_SECONDS", 2.0)
    whole = font.read_bytes()
    place = whole.rindex(b"sine".ljust(20, b"\0")) - 46 + field  # in the first of two headers of 46 bytes
    font.write_bytes(whole[:place] + b"\xff" * 4 + whole[place + 4 :])
    reason = "symusic crashed with SIG[A-Z]+|no sound after 2 s"
    with pytest.raises(SoundfontError, match=rf"sine\.sf2: is a damaged soundfont \(({reason})\); use another"):
        audio.render(make_song((0.0, 0.5, 60)), font, rate=8000)


def test_a_pipe_is_no_soundfont(tmp_path):
    os.mkfifo(tmp_path / "pipe.sf2")
    with pytest.raises(SoundfontError, match=r"pipe\.sf2: is not a file"):
        audio.render(make_song((0.0, 0.5, 60)), tmp_path / "pipe.sf2")
