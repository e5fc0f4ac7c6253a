"""Songs written as Standard MIDI Files."""

import io
import os
from typing import Any

import numpy as np

from nemui_jax.errors import MidiError
from nemui_jax.files import write_bytes
from nemui_jax.music.song import DEFAULT_TEMPO, FASTEST_TEMPO, Song, TickClock, changes, make_tick_clock


def write(song: Song, path: str | os.PathLike, text: str = "") -> None:
    """Writes `encode(song, text)` to a file, which appears whole or not at all. Raises OSError and as `encode`."""
    write_bytes(path, encode(song, text))


_TICKS_PER_BEAT = 960
_LONGEST_DELTA = 2**28 - 1  # ticks: four bytes of a variable-length number
_LONGEST_SECONDS = 1e6
_Timed = tuple[int, int, Any]  # tick, rank among the events of one tick, mido message
_OFF, _PROGRAM, _PEDAL, _ON = range(4)  # a note ends before the next one on its pitch begins


def encode(song: Song, text: str = "") -> bytes:
    """The song as a Standard MIDI File of format 1, always the same bytes for the same song.

    The first track holds name, tempos (120 bpm if none stands at 0), meters and `text`; then comes a track per
    channel and program, with the pedal on every channel. Seconds survive to less than a millisecond, except where
    notes on one pitch and channel overlap: there a note is cut at the next one's onset, because readers disagree
    about which of two sounding notes a note-off ends. Every note keeps at least one tick, so of notes that begin
    together on one pitch the later ones move by a tick each. Tempos above 3,000 bpm are written as 3,000 bpm.
    Raises MidiError for times that are not finite or beyond 1,000,000 s; ValueError for values
    that MIDI does not have, such as a pitch above 127.
    """
    import mido  # here, because reading does without it and it costs 50 ms

    notes = song.notes[np.lexsort((song.notes["end"], song.notes["onset"]))]
    times = [notes["onset"], notes["end"], song.tempos["quarter_seconds"]]
    times += [events["time"] for events in (song.pedal, song.tempos, song.meters)]
    if not all((np.abs(column) < _LONGEST_SECONDS).all() for column in times):
        raise MidiError(f"a time is not a number of seconds below {_LONGEST_SECONDS:,.0f}")
    clock, tempos, ticks_per_beat = _plan_tempos(song.tempos)

    head: list[_Timed] = [(0, 0, mido.MetaMessage("track_name", name=_as_latin(song.name)))]
    if text:
        head.append((0, 0, mido.MetaMessage("text", text=_as_latin(text))))
    head += [(tick, 1, mido.MetaMessage("set_tempo", tempo=tempo)) for tick, tempo in tempos]
    for tick, meter in zip(clock.ticks_at(song.meters["time"]).tolist(), song.meters, strict=True):
        numerator, denominator = int(meter["numerator"]), int(meter["denominator"])
        head.append((tick, 1, mido.MetaMessage("time_signature", numerator=numerator, denominator=denominator)))

    file = mido.MidiFile(type=1, ticks_per_beat=ticks_per_beat)
    for events in [head, *_note_tracks(notes, song.pedal, clock)]:
        file.tracks.append(mido.MidiTrack(_with_deltas(events)))
    buffer = io.BytesIO()
    file.save(file=buffer)
    return buffer.getvalue()


def _as_latin(text: str) -> str:
    """UTF-8 in the guise of latin-1, mido's default: its charset option is a global that threads would share."""
    return text.encode("utf-8", "backslashreplace").decode("latin-1")


def _plan_tempos(tempos: np.ndarray) -> tuple[TickClock, list[tuple[int, int]], int]:
    """The clock to write by, its tempo events (tick, microseconds per quarter), and the ticks per quarter.

    A tick is at most a millisecond long, so slow tempos get more of them. Tempos outside what the format can say,
    or so fast that ticks would run out, are written as the nearest that is not; seconds hold all the same.
    """
    micros = np.clip(np.rint(tempos["quarter_seconds"] * 1e6), FASTEST_TEMPO, 2**24 - 1).astype(np.int64).tolist()
    slowest = max([DEFAULT_TEMPO, *micros])
    ticks_per_beat = _TICKS_PER_BEAT * -(-slowest // (1000 * _TICKS_PER_BEAT))
    events = [(0, DEFAULT_TEMPO)]
    second = 0.0
    for time, tempo in zip(tempos["time"].tolist(), micros, strict=True):
        tick_seconds = events[-1][1] * 1e-6 / ticks_per_beat
        passed = max(round((time - second) / tick_seconds), 0)
        second += passed * tick_seconds  # where the event will stand, so that roundings do not add up
        events.append((events[-1][0] + passed, tempo))
    events = changes(events)
    return make_tick_clock(events, ticks_per_beat), events, ticks_per_beat


def _note_tracks(notes: np.ndarray, pedal: np.ndarray, clock: TickClock) -> list[list[_Timed]]:
    """The events of a track per channel and program; `notes` are sorted by onset, then end."""
    from mido import Message

    moves = list(zip(clock.ticks_at(pedal["time"]).tolist(), pedal["value"].tolist(), strict=True))
    pairs = sorted(set(zip(notes["channel"].tolist(), notes["program"].tolist(), strict=True))) or [(0, 0)]
    tracks: dict[tuple[int, int], list[_Timed]] = {pair: [] for pair in pairs}
    for channel, program in dict(pairs).items():  # one track of each channel is enough
        for tick, value in moves:
            move = Message("control_change", channel=channel, control=64, value=value)
            tracks[channel, program].append((tick, _PEDAL, move))
    on_ticks, off_ticks = _separate(notes, clock)
    in_force: dict[int, int] = {}  # channel -> program, over all tracks, as a player hears them
    # Notes in the order a player meets them: by tick, then by track.
    order = np.lexsort((notes["program"], notes["channel"], np.array(on_ticks)))
    for index in order.tolist():
        _, _, pitch, velocity, channel, program = notes[index].item()
        track = tracks[channel, program]
        if in_force.get(channel) != program:
            tick = on_ticks[index] if channel in in_force else 0
            track.append((tick, _PROGRAM, Message("program_change", channel=channel, program=program)))
            in_force[channel] = program
        velocity = max(velocity, 1)  # 0 would be a note-off
        track.append((on_ticks[index], _ON, Message("note_on", channel=channel, note=pitch, velocity=velocity)))
        track.append((off_ticks[index], _OFF, Message("note_off", channel=channel, note=pitch, velocity=0)))
    return list(tracks.values())


def _separate(notes: np.ndarray, clock: TickClock) -> tuple[list[int], list[int]]:
    """Ticks of onsets and ends such that no two notes on one pitch and channel sound at once."""
    on_ticks, off_ticks = clock.ticks_at(notes["onset"]).tolist(), clock.ticks_at(notes["end"]).tolist()
    last: dict[tuple[int, int], int] = {}
    for index, key in enumerate(zip(notes["channel"].tolist(), notes["pitch"].tolist(), strict=True)):
        if key in last:
            on_ticks[index] = max(on_ticks[index], on_ticks[last[key]] + 1)
            off_ticks[last[key]] = min(off_ticks[last[key]], on_ticks[index])
        off_ticks[index] = max(off_ticks[index], on_ticks[index] + 1)
        last[key] = index
    return on_ticks, off_ticks


def _with_deltas(events: list[_Timed]) -> list[Any]:
    """The messages in order, each with the ticks since the one before it."""
    from mido import MetaMessage

    messages, now = [], 0
    for tick, _, message in sorted(events, key=lambda event: event[:2]):
        while tick - now > _LONGEST_DELTA:
            messages.append(MetaMessage("text", time=_LONGEST_DELTA))
            now += _LONGEST_DELTA
        message.time, now = tick - now, tick
        messages.append(message)
    return messages
