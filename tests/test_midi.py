import gzip
import io
import os
import random
import stat
import struct
from pathlib import Path

import mido
import numpy as np
import pytest
from conftest import make_song
from hypothesis import given, settings
from hypothesis import strategies as st
from midi_bytes import END, header, midi, notes, track

from nemui_jax.errors import MidiError
from nemui_jax.files import escape
from nemui_jax.music import midi_files, midi_reader, midi_writer
from nemui_jax.music.song import (
    CONTROL,
    DRUM_CHANNEL,
    KEY_SIGNATURE,
    NOTE,
    PITCH_BEND,
    PRESSURE,
    PROGRAM_CHANGE,
    Part,
    Song,
    Text,
)

EIGHT = range(60, 68)


def tempos(song: Song) -> list[tuple[float, float]]:
    """When each tempo begins, and how long a quarter note lasts from there on."""
    return list(zip(song.tempo_map.seconds.tolist(), song.tempo_map.beat_seconds.tolist(), strict=True))


def columns(song: Song, *names: str) -> list[tuple]:
    return [tuple(row) for row in song.notes[list(names)].tolist()]


def spans(song: Song) -> list[tuple]:
    return [
        (pytest.approx(onset), pytest.approx(end), pitch)
        for onset, end, pitch in columns(song, "onset", "end", "pitch")
    ]


def warned(song: Song, text: str) -> bool:
    return any(text in warning for warning in song.warnings)


# Notes


def test_plain_file():
    song = midi_reader.parse(midi(track(notes(*EIGHT))))
    assert columns(song, "pitch", "velocity", "channel", "program") == [(pitch, 80, 0, 0) for pitch in EIGHT]
    np.testing.assert_allclose(song.notes["onset"], np.arange(8) * 0.125)
    np.testing.assert_allclose(song.notes["end"], np.arange(1, 9) * 0.125)
    assert song.warnings == ()
    assert song.seconds == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("between", "warning"),
    [
        ("", None),
        ("00 ff 01 02 68 69", None),  # a text event
        ("00 f0 03 7d 01 f7", None),  # a sysex
        ("00 ff 60 01 00", None),  # an unknown meta event
        ("00 ff 00 00", None),  # a sequence number without data
        ("00 d0 40 00 90 3d 00", None),  # channel pressure has one data byte
        ("00 f8", "F8"),  # the real-time clock
        ("00 f4", "F4"),  # an undefined status
        ("00 f2 01 02", "F2"),  # a song position
    ],
)
def test_running_status_survives(between, warning):
    song = midi_reader.parse(midi(track("00 90 3c 50", between, "60 3c 00", "00 3e 50", "60 3e 00")))
    assert spans(song) == [(0.0, 0.1, 60), (0.1, 0.2, 62)]
    assert (song.warnings == ()) if warning is None else warned(song, warning)


def test_data_without_status_is_skipped():
    song = midi_reader.parse(midi(track("00 3c 50 60 90 3c 50", "60 3c 00")))  # goes on at the 90
    assert columns(song, "pitch") == [(60,)]
    assert warned(song, "without a status")


def test_note_off_ends_the_oldest():
    song = midi_reader.parse(midi(track("00 90 3c 50", "60 3c 40", "60 80 3c 00", "60 80 3c 00")))
    assert [(*row, velocity) for row, velocity in zip(spans(song), (80, 64), strict=True)] == [
        (0.0, 0.2, 60, 80),
        (0.1, 0.3, 60, 64),
    ]


def test_stray_note_offs_do_nothing():
    song = midi_reader.parse(midi(track("00 80 3c 00", notes(60), "00 80 3c 00", notes(60))))
    assert spans(song) == [(0.0, 0.125, 60), (0.125, 0.25, 60)]


def test_never_ended_notes():
    # The first two end at the next onset on their pitch, the third where the track does.
    song = midi_reader.parse(midi(track("00 90 3c 50", "60 3c 50", "60 3c 50", "60 b0 01 00")))
    assert spans(song) == [(0.0, 0.1, 60), (0.1, 0.2, 60), (0.2, 0.3, 60)]
    assert warned(song, "never ended (3 times)")


def test_late_end_of_track_does_not_stretch():
    late = "ff ff ff 7f ff 2f 00"
    assert midi_reader.parse(midi(track(notes(60), end=late))).seconds == pytest.approx(0.125)
    assert midi_reader.parse(midi(track("00 90 3c 50", end=late))).seconds == pytest.approx(
        2.0
    )  # a hanging note: at most 2 s


def test_no_note_is_empty():
    song = midi_reader.parse(midi(track("00 90 3c 50", "00 80 3c 00")))
    assert spans(song) == [(0.0, 0.001, 60)]


def test_events_after_end_of_track_are_ignored():
    assert columns(midi_reader.parse(midi(track(notes(60), END, notes(61)))), "pitch") == [(60,)]


def test_data_bytes_above_127():
    song = midi_reader.parse(midi(track("00 90 c8 50", "60 80 c8 00", notes(60))))
    assert columns(song, "pitch") == [(127,), (60,)]
    assert warned(song, "above 127")


def test_drums_are_counted():
    song = midi_reader.parse(midi(track(notes(36, 38, channel=9), notes(60))))
    assert (len(song.notes), song.drums) == (1, 2)
    with pytest.raises(MidiError, match=r"has only drums \(2 notes\)"):
        midi_reader.parse(midi(track(notes(36, 38, channel=9))))


def test_program_follows_ticks_across_tracks():
    # The second track changes the first one's channel half way through its notes.
    first = track("00 c0 05", notes(60, 61, 62, 63))
    second = track("81 70 c0 28", "00 c1 07", notes(70, channel=1))
    song = midi_reader.parse(midi(first, second))
    # A change at the tick of 62 stands in a later track, so it comes after that note.
    assert columns(song, "pitch", "program") == [(60, 5), (61, 5), (62, 5), (70, 7), (63, 40)]


# Time


def test_tempo_in_a_later_track_applies_to_all():
    tempo = track("81 70 ff 51 03 0f 42 40")  # 60 bpm from tick 240
    song = midi_reader.parse(midi(track(notes(60, 61, 62)), tempo))
    assert spans(song) == [(0.0, 0.125, 60), (0.125, 0.25, 61), (0.25, 0.5, 62)]
    assert tempos(song) == [(0.0, 0.5), (0.25, 1.0)]


def test_tempos_and_meters_that_change_nothing_are_dropped():
    tempo, other, meter = "ff 51 03 07 a1 20", "ff 51 03 07 00 00", "ff 58 04 03 02 18 08"
    events = f"00 {tempo} 00 {meter} 60 {tempo} 00 {meter} 60 {other} 00 {tempo}"
    song = midi_reader.parse(midi(track(events, notes(60))))
    assert tempos(song) == [(0.0, 0.5)]
    assert song.meters.tolist() == [(0.0, 3, 4)]


@pytest.mark.parametrize(("byte", "rate"), [(0xE8, 24), (0xE7, 25), (0xE3, 30000 / 1001), (0xE2, 30)])
def test_film_frames(byte, rate):
    tempo = "00 ff 51 03 0f 42 40"  # does not count: the division has seconds of its own
    song = midi_reader.parse(midi(track(tempo, notes(60)), division=byte << 8 | 40))
    assert spans(song) == [(0.0, 120 / (rate * 40), 60)]


@pytest.mark.parametrize("division", [0, 0xE800, 0xFF40])
def test_divisions_that_mean_nothing(division):
    with pytest.raises(MidiError, match="damaged header"):
        midi_reader.parse(midi(track(notes(60)), division=division))


def test_format_2_patterns_follow_each_other():
    slow = "00 ff 51 03 0f 42 40"
    song = midi_reader.parse(midi(track(slow, notes(60)), track(notes(61)), format_=2))
    assert spans(song) == [(0.0, 0.25, 60), (0.25, 0.375, 61)]  # the second pattern has a tempo of its own
    assert song.tempo_map.beat_seconds.tolist() == [1.0, 0.5]


def test_length_bound():
    gap = "ff ff ff 7f 90 3c 50 60 80 3c 00"
    with pytest.raises(MidiError, match=r"lasts 77\.7 h, more than the limit of 4 h; raise it with --max-seconds"):
        midi_reader.parse(midi(track(gap)))
    assert len(midi_reader.parse(midi(track(gap)), max_seconds=1e6).notes) == 1
    with pytest.raises(MidiError, match=r"more than the limit of 0\.1 s"):
        midi_reader.parse(midi(track(notes(60))), max_seconds=0.1)
    # A late tempo alone does not make a song long.
    late = midi_reader.parse(midi(track(notes(60), "ff ff ff 7f ff 51 03 0f 42 40")))
    assert late.seconds == 0.125


# Meta events and the pedal


@pytest.mark.parametrize(
    ("event", "warning"),
    [
        ("00 ff 59 02 08 00", "key signature"),
        ("00 ff 59 02 00 ff", "key signature"),
        ("00 ff 58 04 04 ff 18 08", "time signature"),
        ("00 ff 58 04 00 02 18 08", "time signature"),
        ("00 ff 51 03 00 00 00", "tempo"),
        ("00 ff 51 01 07", "tempo"),
        ("00 ff 20 01 c8", "channel prefix"),
    ],
)
def test_damaged_meta_events_are_ignored(event, warning):
    song = midi_reader.parse(midi(track(event, notes(*EIGHT))))
    assert song.seconds == pytest.approx(1.0)
    assert tempos(song) == [(0.0, 0.5)]
    assert len(song.meters) == 0
    assert song.warnings == (f"a damaged {warning} ignored",)


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b"  Nocturne\t in  E\r\n", "Nocturne in E"),
        ("Für Élise".encode(), "Für Élise"),
        ("Für Élise".encode("latin-1"), "Für Élise"),
        (b"\x1b[2J\x1b]0;x\x07\x00<b>", "[2J]0;x<b>"),
        ("\u202egnp.exe\u0085".encode(), "gnp.exe"),  # the mark that turns text around
        (b"x" * 100, "x" * 80),
        (b" \x00 ", "second"),  # not useful: the next one in the track counts
    ],
)
def test_name(payload, name):
    named = f"00 ff 03 {len(payload):02x} {payload.hex()} 00 ff 03 06 {b'second'.hex()}"
    assert midi_reader.parse(midi(track(named), track("00 ff 03 01 41", notes(60)))).name == name


def test_later_tracks_do_not_name_the_song():
    assert midi_reader.parse(midi(track(), track(f"00 ff 03 05 {b'Piano'.hex()}", notes(60)))).name == ""


def test_pedal_is_the_highest_over_channels():
    moves = "00 b0 40 7f  0a b1 40 40  0a b0 40 00  0a b0 40 00  0a b1 40 00  00 b9 40 7f"  # the last is the drums'
    song = midi_reader.parse(midi(track(moves, notes(60), notes(62, channel=1)), division=10))
    assert song.pedal.tolist() == [(0.0, 127), (1.0, 64), (2.0, 0)]


# Damaged and wrapped files

PLAIN = midi(track(notes(*EIGHT)))


def riff(data: bytes) -> bytes:
    return b"RIFF" + struct.pack("<L", len(data) + 12) + b"RMIDdata" + struct.pack("<L", len(data)) + data


@pytest.mark.parametrize(
    ("data", "warning"),
    [
        (riff(PLAIN), None),
        (PLAIN + bytes(777), None),
        (header(1, 2) + track(end="") + track(notes(*EIGHT)), None),
        (header(1, 2) + track() + b"XFIH\0\0\0\6abcdef" + track(notes(*EIGHT)), None),
        (PLAIN[:7] + b"\x08" + PLAIN[8:14] + b"\0\0" + PLAIN[14:], None),  # a header of 8 bytes
        (gzip.compress(PLAIN, mtime=0), "gzip"),
        (bytes(128) + PLAIN, "128 bytes before"),
        (PLAIN[:7] + b"\x00" + PLAIN[8:], "header gives its length"),
        (header(0, 0) + PLAIN[14:], "declares 0 tracks"),
        (header(0, 65535) + PLAIN[14:], "declares 65,535 tracks"),
        (header(9, 1) + PLAIN[14:], "unknown format 9"),
        (header() + track(notes(*EIGHT), length=10**6), "length is wrong"),
        (header() + track(notes(*EIGHT), length=9), "length is wrong"),
        (header(1, 2) + track(notes(*EIGHT), length=75) + track(), "length is wrong"),
        (PLAIN[:-4], "length is wrong"),
        (midi(track(notes(*EIGHT), "00 f0 83 d4 60 7d", end="")), "cut short"),
        (midi(track(notes(*EIGHT), "00 ff 01 7f 7d", end="")), "cut short"),
        (midi(track(notes(*EIGHT), "80 80 80 80 80 80 00 90 3c 50", end="")), "cut short"),  # a delta without end
        (midi(track(notes(*EIGHT), "80 80", end="")), "cut short"),
    ],
)
def test_survivable_damage(data, warning):
    song = midi_reader.parse(data)
    assert song.notes["pitch"].tolist() == list(EIGHT)
    assert song.seconds == pytest.approx(1.0)
    assert (song.warnings == ()) if warning is None else warned(song, warning)


def test_tracks_behind_a_cut_one_are_read():
    song = midi_reader.parse(header(1, 2) + track("00 90 3c", end="") + track(notes(*EIGHT)))
    assert len(song.notes) == 8


def test_line_ends_damaged_by_a_transfer_are_repaired():
    data = midi(track(notes(10, 13, 60), "0a 90 0d 0a 0a 80 0d 00"))
    song = midi_reader.parse(data.replace(b"\n", b"\r\n"))
    np.testing.assert_array_equal(song.notes, midi_reader.parse(data).notes)
    assert warned(song, "repaired")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"MThd", "cut short"),
        (b"\x89PNG\r\n" * 20, "not a MIDI file"),
        (header() + random.Random(1).randbytes(500), "no tracks"),
        (midi(track()), "has no notes"),
        (midi(track("00 3c 50 60 3c 00")), "has no notes; data without a status"),
        (PLAIN[:4] + b"\x7f" + PLAIN[5:], "damaged header"),
        (gzip.compress(bytes(9 * 2**20), mtime=0), "unpacks to more than"),
        (gzip.compress(PLAIN, mtime=0)[:12] + b"\xff" * 40, "damaged gzip"),
    ],
)
def test_unusable_data(data, message):
    with pytest.raises(MidiError, match=message) as caught:
        midi_reader.parse(data)
    assert "\n" not in str(caught.value)


def survives(data: bytes) -> bool:
    """Any bytes give a sound song or MidiError; a song can be written and read again. Returns whether it is one."""
    try:
        song = midi_reader.parse(data)
    except MidiError:
        return False
    assert np.isfinite(song.notes["end"]).all()
    assert (song.notes["onset"] >= 0).all()
    assert (song.notes["end"] > song.notes["onset"]).all()
    assert song.notes["velocity"].min() >= 1
    assert max(song.notes["pitch"].max(), song.notes["velocity"].max()) <= 127
    assert 9 not in song.notes["channel"]
    assert (np.diff(song.notes["onset"]) >= 0).all()
    for events in (song.pedal, song.meters):
        assert (np.diff(events["time"]) >= 0).all()
    assert len(midi_reader.parse(midi_writer.encode(song), max_seconds=2 * song.seconds + 1).notes) == len(song.notes)
    return True


def test_mutations():
    moves = "00 ff 51 03 07 a1 20 00 ff 58 04 04 02 18 08 00 c0 05 00 b0 40 7f 60 40 00 "
    data = midi(track(moves, notes(*EIGHT)), track("00 ff 03 02 68 69 00 f0 02 01 f7", notes(*EIGHT, channel=9)))
    rng, songs = random.Random(0), 0
    for _ in range(200):
        mutant = bytearray(data)
        mutant[rng.randrange(len(data))] = rng.randrange(256)
        songs += survives(bytes(mutant))
    assert 0 < 200 - songs < 100  # some are refused, most are songs


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=200), st.sampled_from([0, 1, 2]), st.sampled_from([1, 480, 0xE728]), st.booleans())
def test_any_bytes(data, format_, division, in_track):
    survives(header(format_, 1, division) + (b"MTrk" + struct.pack(">L", len(data)) if in_track else b"") + data)


# Writing

RICH = make_song(
    [
        (0.1234, 0.5678, 60, 1),
        (0.5678, 0.9, 60, 127),  # begins where the last one ends
        (1.0, 1.3, 62, 64, 3, 40),
        (1.01, 1.2, 64, 64, 3, 41),  # two programs on one channel, sounding together
        (1.02, 1.4, 65, 64, 3, 40),
        (100.0, 107.7777, 0, 80),
        (500.0, 500.2, 127, 80),
    ],
    pedal=[(0.2, 127), (0.9, 50), (1.1, 0), (400.0, 3)],
    tempos=[(0.0, 0.61234), (0.7, 0.25), (50.0, 2.5), (90.0, 0.3)],  # 2.5: needs more ticks
    meters=[(0.0, 3, 4), (50.0, 7, 8)],
    name="Prélude № 1",
)


def assert_same(song: Song, other: Song) -> None:
    assert columns(song, "pitch", "velocity", "channel", "program") == columns(
        other, "pitch", "velocity", "channel", "program"
    )
    for name in ("onset", "end"):
        np.testing.assert_allclose(song.notes[name], other.notes[name], rtol=0, atol=1e-3)
    for events, others, value in (
        (song.pedal, other.pedal, "value"),
        (song.meters, other.meters, "denominator"),
    ):
        np.testing.assert_allclose(events["time"], others["time"], rtol=0, atol=1e-3)
        np.testing.assert_allclose(events[value], others[value], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(song.meters["numerator"], other.meters["numerator"])
    count = int((other.tempo_map.seconds <= other.seconds).sum())  # what changes later is not kept
    np.testing.assert_allclose(song.tempo_map.seconds, other.tempo_map.seconds[:count], rtol=0, atol=1e-3)
    np.testing.assert_allclose(song.tempo_map.beat_seconds, other.tempo_map.beat_seconds[:count], rtol=0, atol=1e-6)
    assert song.name == other.name


def test_round_trip(tmp_path):
    midi_writer.write(RICH, tmp_path / "song.mid", "recipe № 2")
    song = midi_reader.read(tmp_path / "song.mid")
    assert_same(song, RICH)
    assert song.warnings == ()
    assert (tmp_path / "song.mid").read_bytes() == midi_writer.encode(RICH, "recipe № 2")


BAND = Song(
    parts=(
        Part(
            np.array([(0.0, 0.5, 60, 80), (2.0, 2.5, 62, 80)], NOTE),
            program=33,
            channel=1,
            name="Bass",
            controls=np.array(
                [
                    (0.0, 7, 100),
                    (0.0, 10, 20),
                    (0.25, PITCH_BEND, -8192),
                    (0.5, PITCH_BEND, 8191),
                    (1.0, PRESSURE, 9),
                ],
                CONTROL,
            ),
        ),
        Part(np.array([(1.0, 1.5, 64, 80)], NOTE), program=40, channel=1, name="Bass"),
        Part(np.array([(0.0, 0.1, 36, 90), (0.5, 0.6, 38, 91)], NOTE), program=8, channel=DRUM_CHANNEL, name="Kit"),
    ),
    key_signatures=np.array([(0.0, -3, True), (2.0, 7, False)], KEY_SIGNATURE),
    texts=(Text(0.0, "marker", "Verse"), Text(1.0, "lyrics", "wörd")),
)


def test_a_band_returns_part_by_part():
    again = midi_reader.parse(midi_writer.encode(BAND))
    assert len(again.parts) == 3
    for part, other in zip(again.parts, BAND.parts, strict=True):
        assert (part.program, part.channel, part.name) == (other.program, other.channel, other.name)
        for name in NOTE.names or ():
            np.testing.assert_allclose(part.notes[name], other.notes[name], rtol=0, atol=1e-3)
        is_change = part.controls["controller"] == PROGRAM_CHANGE
        assert set(part.controls["value"][is_change].tolist()) <= {part.program}
        controls = part.controls[~is_change]
        assert controls[["controller", "value"]].tolist() == other.controls[["controller", "value"]].tolist()
        np.testing.assert_allclose(controls["time"], other.controls["time"], rtol=0, atol=1e-3)
    assert again.key_signatures.tolist() == BAND.key_signatures.tolist()
    assert again.texts == BAND.texts
    assert midi_writer.encode(again) == midi_writer.encode(midi_reader.parse(midi_writer.encode(again)))


def test_a_control_before_the_first_program_belongs_to_what_is_played():
    song = midi_reader.parse(midi(track("00 b0 07 32  00 c0 05  00 90 3c 50  60 80 3c 00")))
    controls = [(0.0, 7, 50), (0.0, PROGRAM_CHANGE, 5)]  # written again in this order
    assert [(part.program, part.controls.tolist()) for part in song.parts] == [(5, controls)]
    assert midi_reader.parse(midi_writer.encode(song)).parts[0].controls.tolist() == controls


def test_what_midi_cannot_say_is_written_as_the_nearest():
    song = midi_reader.parse(
        midi_writer.encode(make_song([(0.0, 0.5, 60, 0)], name="a\udc80b"))
    )  # velocity 0 would be a note-off
    assert columns(song, "velocity") == [(1,)]
    assert song.name == "a\\udc80b"


def test_tempo_default_is_written():
    assert midi_reader.parse(midi_writer.encode(make_song([(0.0, 0.5, 60)]))).tempo_map.beat_seconds.tolist() == [0.5]


def test_slowest_and_fastest_tempo_together():
    song = make_song([(10.0, 10.1, 60), (51.0, 52.0, 61), (9000.0, 9000.5, 62)], tempos=[(0.0, 16.7), (50.0, 0.02)])
    data = midi_writer.encode(song)
    assert_same(midi_reader.parse(data), song)
    deltas = [message.time for part in mido.MidiFile(file=io.BytesIO(data)).tracks for message in part]
    assert max(deltas) < 2**28  # what a variable-length number may hold


def test_ten_thousand_tempos_do_not_add_up():
    rng = np.random.default_rng(0)
    changes = list(zip(np.arange(10_000) * 0.0501, rng.uniform(0.2, 2.0, 10_000), strict=True))
    song = make_song([(time, time + 0.1, 60) for time in np.arange(0, 500, 7.7)], tempos=changes)
    assert_same(midi_reader.parse(midi_writer.encode(song)), song)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.floats(0, 60), st.floats(0.002, 5), st.integers(0, 127), st.integers(1, 127), st.integers(0, 8)),
        min_size=1,
        max_size=30,
    )
)
def test_round_trip_of_any_notes(rows):
    # One note a pitch and channel, so that none is cut.
    unique = {(pitch, channel): (onset, onset + length, velocity) for onset, length, pitch, velocity, channel in rows}
    song = make_song([(*row[:2], pitch, row[2], channel) for (pitch, channel), row in unique.items()])
    again = midi_reader.parse(midi_writer.encode(song))
    keys = ["pitch", "channel"]
    before, after = np.sort(song.notes, order=keys), np.sort(again.notes, order=keys)
    np.testing.assert_array_equal(before[[*keys, "velocity"]], after[[*keys, "velocity"]])
    for name in ("onset", "end"):
        np.testing.assert_allclose(before[name], after[name], rtol=0, atol=1e-3)


OVERLAPS = make_song(
    [
        (0.0, 2.0, 60),  # cut at 1.0
        (1.0, 1.5, 60),
        (3.0, 3.5, 62),  # twice the same note: one tick, then the longer one
        (3.0, 4.0, 62),
        (5.0, 9.0, 64),  # spans two others
        (6.0, 6.1, 64),
        (7.0, 7.1, 64),
    ]
)


def test_overlaps_are_cut():
    song = midi_reader.parse(midi_writer.encode(OVERLAPS))
    expected = [(0, 1, 60), (1, 1.5, 60), (3, 3.001, 62), (3, 4, 62), (5, 6, 64), (6, 6.1, 64), (7, 7.1, 64)]
    np.testing.assert_allclose(np.array(columns(song, "onset", "end", "pitch")), expected, rtol=0, atol=1e-3)
    assert song.warnings == ()
    assert len(midi_reader.parse(midi_writer.encode(song)).notes) == len(song.notes)


@pytest.mark.parametrize("song", [RICH, OVERLAPS], ids=["rich", "overlaps"])
def test_mido_reads_what_we_write(song):
    file = mido.MidiFile(file=io.BytesIO(midi_writer.encode(song, "recipe")), charset="utf-8")
    assert file.type == 1
    assert [message.text for message in file.tracks[0] if message.type == "text"] == ["recipe"]
    ons, seconds, sounding = [], 0.0, set()
    for message in file:
        seconds += message.time
        if message.type == "note_on":
            assert (message.channel, message.note) not in sounding
            sounding.add((message.channel, message.note))
            ons.append((seconds, message.note, message.velocity))
        elif message.type == "note_off":
            sounding.remove((message.channel, message.note))
    assert not sounding
    expected = columns(song, "onset", "pitch", "velocity")
    np.testing.assert_allclose(sorted(ons), sorted(expected), rtol=0, atol=1e-3)


@pytest.mark.parametrize("song", [RICH, OVERLAPS], ids=["rich", "overlaps"])
@pytest.mark.parametrize("library", ["pretty_midi", "symusic"])
def test_other_libraries_read_the_same_notes(song, library, tmp_path):
    module = pytest.importorskip(library)
    midi_writer.write(song, tmp_path / "song.mid")
    if library == "pretty_midi":
        instruments = module.PrettyMIDI(str(tmp_path / "song.mid")).instruments
        theirs = [
            (note.start, note.end, note.pitch, note.velocity, instrument.program)
            for instrument in instruments
            for note in instrument.notes
        ]
    else:
        theirs = [
            (note.time, note.time + note.duration, note.pitch, note.velocity, part.program)
            for part in module.Score(tmp_path / "song.mid").to("second").tracks
            for note in part.notes
        ]
    ours = columns(midi_reader.parse(midi_writer.encode(song)), "onset", "end", "pitch", "velocity", "program")
    np.testing.assert_allclose(sorted(theirs), sorted(ours), rtol=0, atol=1e-3)


def test_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    (tmp_path / "song.mid").write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            midi_writer.write(RICH, tmp_path / "song.mid")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
    midi_writer.write(RICH, tmp_path / "song.mid")
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1  # the same rights as any new file


@pytest.mark.parametrize(
    "rows", [[(float("nan"), 1.0, 60)], [(0.0, float("inf"), 60)], [(0.0, 1.0, 60), (1e9, 2e9, 60)]]
)
def test_times_that_cannot_be_written(rows):
    with pytest.raises(MidiError):
        midi_writer.encode(make_song(rows))


# Files and names


def test_find(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "folder.mid").mkdir()
    names = [
        "a.mid",
        "Z.mid",
        "b/c.MIDI",
        "b/d.kar",
        "folder.mid/e.rmi",
        "z.Mid",
        "notes.txt",
        os.fsdecode(b"\xff.mid"),
    ]
    for name in names:
        (tmp_path / name).write_bytes(PLAIN)
    os.mkfifo(tmp_path / "pipe.mid")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "link.mid").symlink_to(tmp_path / "a.mid")
    (tmp_path / "broken.mid").symlink_to(tmp_path / "nowhere")
    files, problems = midi_files.find(tmp_path)
    expected = [
        "Z.mid",
        "a.mid",
        "b/c.MIDI",
        "b/d.kar",
        "folder.mid/e.rmi",
        "link.mid",
        "z.Mid",
        os.fsdecode(b"\xff.mid"),
    ]
    assert files == [tmp_path / name for name in expected]
    assert problems == [
        (tmp_path / "broken.mid", "cannot be read: No such file or directory"),
        (tmp_path / "folder.mid", "is a folder, not a file"),
        (tmp_path / "pipe.mid", "is a named pipe, not a file"),
    ]
    assert all(len(midi_reader.read(path).notes) == 8 for path in files)
    assert midi_files.find(tmp_path / "none") == (
        [],
        [(tmp_path / "none", "cannot be listed: No such file or directory")],
    )


def test_read_refuses_what_is_not_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.mid")
    (tmp_path / "large.mid").write_bytes(PLAIN)
    for path, message in (
        (tmp_path / "pipe.mid", "is a named pipe"),
        (tmp_path, "is a folder"),
        (Path("/dev/zero"), "is a device"),
        (tmp_path / "none.mid", "cannot be read: No such file"),
        (tmp_path / "nul\0.mid", "cannot be read: embedded null"),
    ):
        with pytest.raises(MidiError, match=message):
            midi_reader.read(path)
    with pytest.raises(MidiError, match="larger than the limit"):
        midi_reader.read(tmp_path / "large.mid", max_bytes=len(PLAIN) - 1)
    assert len(midi_reader.read(tmp_path / "large.mid", max_bytes=len(PLAIN)).notes) == 8


def test_escape():
    assert escape("Für Élise.mid") == "Für Élise.mid"
    assert escape("a\x1b[2J\nb\u202e\x85") == r"a\x1b[2J\nb\u202e\x85"
    assert escape(Path(os.fsdecode(b"\x80.mid"))) == r"\udc80.mid"
    assert escape("it's \\ fine") == "it's \\ fine"
    escape(os.fsdecode(bytes(range(1, 256)))).encode("utf-8")


def test_linked_folders_are_searched_once(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/far.mid").write_bytes(PLAIN)
    folder = tmp_path / "songs"
    (folder / "real").mkdir(parents=True)
    (folder / "real/near.mid").write_bytes(PLAIN)
    for name, target in (("a-link", folder / "real"), ("loop", folder), ("out", tmp_path / "elsewhere"), ("z", "out")):
        (folder / name).symlink_to(target)
    assert midi_files.find(folder) == ([folder / "out/far.mid", folder / "real/near.mid"], [])
