"""Songs written as Standard MIDI Files."""

import io
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nemui_jax.errors import MidiError
from nemui_jax.files import write_bytes
from nemui_jax.music.song import (
    DEFAULT_QUARTER_SECONDS,
    PITCH_BEND,
    PRESSURE,
    PROGRAM_CHANGE,
    Part,
    Song,
    TempoMap,
    merge_notes,
)

_TICKS_PER_QUARTER = 960
_LONGEST_DELTA = 2**28 - 1  # ticks: four bytes of a variable-length number
_LONGEST_SECONDS = 1e6
_MICROS = (20_000, 2**24 - 1)  # microseconds a quarter note: 3,000 bpm, and the slowest tempo of the format
_Timed = tuple[int, int, Any]  # tick, rank among the events of one tick, mido message
_KEYS = (  # major and minor, from seven flats to seven sharps
    ["Cb", "Gb", "Db", "Ab", "Eb", "Bb", "F", "C", "G", "D", "A", "E", "B", "F#", "C#"],
    ["Abm", "Ebm", "Bbm", "Fm", "Cm", "Gm", "Dm", "Am", "Em", "Bm", "F#m", "C#m", "G#m", "D#m", "A#m"],
)
_OFF, _PROGRAM, _CONTROL, _ON = range(4)  # ranks: a note ends before the next one on its pitch begins
_Ticks = Callable[[np.ndarray], np.ndarray]  # seconds to ticks


def write(song: Song, path: str | os.PathLike, text: str = "") -> None:
    """Writes `encode(song, text)` to a file, atomically. Raises OSError, and what `encode` raises."""
    write_bytes(path, encode(song, text))


def encode(song: Song, text: str = "") -> bytes:
    """The song as a Standard MIDI File of format 1, always the same bytes for the same song.

    The first track holds name, tempos, meters, key signatures, words and `text`; then comes a track for each part.
    Times are exact to less than a millisecond, except where notes on one pitch and channel overlap: there a note is cut
    at the next one's onset, because readers differ in which of two overlapping notes a note-off ends. Every note
    lasts at least one tick, so of notes that begin together on one pitch each is a tick later than the one before.
    Tempos above 3,000 bpm are written as 3,000 bpm. Raises MidiError for times that are not finite or beyond
    1,000,000 s, ValueError for values that MIDI does not have, such as a pitch above 127.
    """
    import mido  # not at the top: it takes 50 ms, and reading does not need it

    _check_times(song)
    ticks_at, tempos, ticks_per_quarter = _plan_tempos(song.tempo_map)

    head: list[_Timed] = [(0, 0, mido.MetaMessage("track_name", name=_as_latin(song.name)))]
    if text:
        head.append((0, 0, mido.MetaMessage("text", text=_as_latin(text))))
    head += [(tick, 1, mido.MetaMessage("set_tempo", tempo=micros)) for tick, micros in tempos]
    for tick, meter in zip(ticks_at(song.meters["time"]).tolist(), song.meters, strict=True):
        numerator, denominator = int(meter["numerator"]), int(meter["denominator"])
        head.append((tick, 1, mido.MetaMessage("time_signature", numerator=numerator, denominator=denominator)))
    for tick, key in zip(ticks_at(song.key_signatures["time"]).tolist(), song.key_signatures, strict=True):
        name = _KEYS[bool(key["minor"])][7 + int(key["sharps"])]
        head.append((tick, 1, mido.MetaMessage("key_signature", key=name)))
    for words in song.texts:
        tick = int(ticks_at(np.array([words.time]))[0])
        head.append((tick, 2, mido.MetaMessage(words.kind, text=_as_latin(words.text))))

    file = mido.MidiFile(type=1, ticks_per_beat=ticks_per_quarter)
    for events in [head, *_part_tracks(song.parts, ticks_at)]:
        file.tracks.append(mido.MidiTrack(_with_deltas(events)))
    buffer = io.BytesIO()
    file.save(file=buffer)
    return buffer.getvalue()


def _check_times(song: Song) -> None:
    times = [song.tempo_map.beat_seconds, song.meters["time"], song.key_signatures["time"]]
    times += [np.array([words.time for words in song.texts])]
    for part in song.parts:
        times += [part.notes["onset"], part.notes["end"], part.controls["time"]]
    if not all((np.abs(column) < _LONGEST_SECONDS).all() for column in times):
        raise MidiError(f"a time is not a number of seconds below {_LONGEST_SECONDS:,.0f}")


def _as_latin(text: str) -> str:
    """The text whose latin-1 bytes are the UTF-8 of `text`: mido writes latin-1 unless a global says otherwise."""
    return text.encode("utf-8", "backslashreplace").decode("latin-1")


def _plan_tempos(tempo_map: TempoMap) -> tuple[_Ticks, list[tuple[int, int]], int]:
    """The function from seconds to ticks, the tempo events (tick, microseconds per quarter), the ticks per quarter.

    A tick is at most a millisecond long, so slow tempos need more ticks a quarter. Tempos outside _MICROS are written
    as the nearest inside; times in seconds stay right.
    """
    micros = np.clip(np.rint(tempo_map.beat_seconds * 1e6), *_MICROS).astype(np.int64).tolist()
    slowest = max([round(DEFAULT_QUARTER_SECONDS * 1e6), *micros])
    ticks_per_quarter = _TICKS_PER_QUARTER * -(-slowest // (1000 * _TICKS_PER_QUARTER))
    events: list[tuple[int, int]] = []
    second = 0.0
    for time, tempo in zip(np.maximum(tempo_map.seconds, 0).tolist(), micros, strict=True):
        if events and events[-1][1] == tempo:
            continue
        passed = 0
        if events:
            tick_seconds = events[-1][1] * 1e-6 / ticks_per_quarter
            passed = max(round((time - second) / tick_seconds), 0)
            second += passed * tick_seconds  # the event's time on the tick grid, so that rounding errors do not add up
        tick = (events[-1][0] if events else 0) + passed
        if events and events[-1][0] == tick:
            events.pop()
        events.append((tick, tempo))
    ticks, written = np.array(events).T
    clock = TempoMap.of_changes(ticks / ticks_per_quarter, written * 1e-6)

    def ticks_at(seconds: np.ndarray) -> np.ndarray:
        return np.rint(clock.beats_at(np.maximum(seconds, 0.0)) * ticks_per_quarter).astype(np.int64)

    return ticks_at, events, ticks_per_quarter


def _part_tracks(parts: Sequence[Part], ticks_at: _Ticks) -> list[list[_Timed]]:
    """The events of a track for each part, with its name if it has one.

    A program change is written where the controls of a channel's first part have one, or else first of all, and then
    wherever the channel's notes go on in another part.
    """
    from mido import Message, MetaMessage

    tracks: list[list[_Timed]] = []
    for part in parts:
        named = [(0, 0, MetaMessage("track_name", name=_as_latin(part.name)))] if part.name else []
        is_change, first = part.controls["controller"] == PROGRAM_CHANGE, part.notes["onset"].min(initial=np.inf)
        times = np.where(is_change, np.minimum(part.controls["time"], first), part.controls["time"])
        moves = zip(ticks_at(times).tolist(), part.controls.tolist(), strict=True)
        tracks.append(named + [(tick, _CONTROL, _control(part, *move[1:])) for tick, move in moves])
    notes = merge_notes(parts)
    notes = notes[np.lexsort((notes["end"], notes["onset"]))]
    places = {(part.channel, part.program): place for place, part in enumerate(parts)}
    on_ticks, off_ticks = _separate(notes, ticks_at)
    in_force = {  # channel -> program, over all tracks
        part.channel: part.program for part in parts if (part.controls["controller"] == PROGRAM_CHANGE).any()
    }
    # In the order of playback: by tick, then by track.
    order = np.lexsort((notes["program"], notes["channel"], np.array(on_ticks)))
    for index in order.tolist():
        _, _, pitch, velocity, channel, program = notes[index].item()
        track = tracks[places[channel, program]]
        if in_force.get(channel) != program:
            tick = on_ticks[index] if channel in in_force else 0
            track.append((tick, _PROGRAM, Message("program_change", channel=channel, program=program)))
            in_force[channel] = program
        velocity = max(velocity, 1)  # 0 would be a note-off
        track.append((on_ticks[index], _ON, Message("note_on", channel=channel, note=pitch, velocity=velocity)))
        track.append((off_ticks[index], _OFF, Message("note_off", channel=channel, note=pitch, velocity=0)))
    return tracks or [[]]


def _control(part: Part, controller: int, value: int) -> Any:
    from mido import Message

    channel = part.channel
    if controller == PROGRAM_CHANGE:
        return Message("program_change", channel=channel, program=part.program)
    if controller == PITCH_BEND:
        return Message("pitchwheel", channel=channel, pitch=value)
    if controller == PRESSURE:
        return Message("aftertouch", channel=channel, value=value)
    return Message("control_change", channel=channel, control=controller, value=value)


def _separate(notes: np.ndarray, ticks_at: _Ticks) -> tuple[list[int], list[int]]:
    """Ticks of onsets and ends such that no two notes on one pitch and channel overlap."""
    on_ticks, off_ticks = ticks_at(notes["onset"]).tolist(), ticks_at(notes["end"]).tolist()
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
