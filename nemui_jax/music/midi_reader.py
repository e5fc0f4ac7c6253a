"""Songs read from Standard MIDI Files, however damaged.

Conventions: as in `song`; times here are ticks, and the names say so. Messages of MidiError never name the file: the
caller does, through `escape`.

Rules of the reader where the format leaves a choice:
- A note-off ends the oldest note that sounds on its pitch, channel and track.
- A note without a note-off lasts to the next note on its pitch, or to the end of its track.
- No note is shorter than MIN_NOTE_SECONDS, so that `end > onset` always holds.
- Running status survives meta, sysex and system events; data bytes above 127 are read as 127.
- A part is what is played on a channel with a program. A control belongs to the part whose program is in force on its
  channel, or to the one that plays there next.
"""

import os
import re
import unicodedata
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nemui_jax.errors import MidiError
from nemui_jax.music import midi_chunks
from nemui_jax.music.midi_chunks import Header
from nemui_jax.music.midi_files import MAX_BYTES, read_bytes
from nemui_jax.music.song import (
    CONTROL,
    DEFAULT_QUARTER_SECONDS,
    DRUM_CHANNEL,
    KEY_SIGNATURE,
    MAX_SECONDS,
    METER,
    MIN_NOTE_SECONDS,
    NOTE,
    PITCH_BEND,
    PRESSURE,
    PROGRAM_CHANGE,
    Part,
    Song,
    TempoMap,
    Text,
)

_NAME_LETTERS = 80
_TEXT_LETTERS = 200
_DEFAULT_MICROS = round(DEFAULT_QUARTER_SECONDS * 1e6)
_FASTEST_MICROS = 20_000  # microseconds a quarter note: 3,000 bpm
_CONTROLLERS = 120  # from here on they are modes of the channel, such as "all notes off"
_TEXTS = {0x01: "text", 0x05: "lyrics", 0x06: "marker", 0x07: "cue_marker"}


def read(path: str | os.PathLike, max_seconds: float = MAX_SECONDS, max_bytes: int = MAX_BYTES) -> Song:
    """The song in a file; see `parse`. Raises MidiError, also for what cannot be opened or is too large."""
    return parse(read_bytes(path, max_bytes), max_seconds)


@dataclass
class _Events:
    """The events of all tracks of one file, as flattened tables, which are fast and take little memory.

    A place is an event's offset in the file: it orders events of one tick, first by track.
    """

    notes: array = field(default_factory=lambda: array("q"))  # tick, place, channel * 128 + pitch, velocity
    ends: array = field(default_factory=lambda: array("q"))  # tick, one per note; -1 until its note-off
    controls: array = field(default_factory=lambda: array("q"))  # tick, place, channel * 256 + controller, value
    programs: array = field(default_factory=lambda: array("q"))  # tick, place, channel, program
    tempos: array = field(default_factory=lambda: array("q"))  # tick, microseconds per quarter
    meters: array = field(default_factory=lambda: array("q"))  # tick, numerator, denominator
    keys: array = field(default_factory=lambda: array("q"))  # tick, sharps, minor
    texts: list[tuple[int, str, str]] = field(default_factory=list)  # tick, kind, text
    name: str = ""
    tracks: int = 0
    track_names: dict[int, str] = field(default_factory=dict)  # name of the track that a channel's first note is in
    track_name: str = ""  # of the track that is being read
    problems: Counter[str] = field(default_factory=Counter)  # descriptions, and how often each occurred

    def warnings(self) -> tuple[str, ...]:
        return tuple(what if count == 1 else f"{what} ({count:,} times)" for what, count in self.problems.items())


def parse(data: bytes, max_seconds: float = MAX_SECONDS) -> Song:
    """The song in the bytes of a Standard MIDI File, however damaged; the rules are at the top of this module.

    Formats 0, 1 and 2 (patterns in sequence), bare, in a RIFF wrapper or gzip-compressed. Problems that did not stop
    the reading are in `Song.warnings`. The name is the first track's. Time and memory are linear in `len(data)`.
    Raises MidiError, and nothing else, for what is not MIDI, has no notes but drums, or lasts longer than
    `max_seconds`.
    """
    events = _Events()
    data = midi_chunks.unwrap(data, events.problems)
    header = midi_chunks.read_header(data, events.problems)
    base_tick = 0
    for start, stop in midi_chunks.find_tracks(data, header.position, events.problems):
        if header.format == 2 and events.tempos:
            events.tempos.extend((base_tick, _DEFAULT_MICROS))  # a pattern does not inherit the last one's tempo
        end_tick = _read_track(data[start:stop], start, base_tick, header.max_tail_ticks, events)
        base_tick = end_tick if header.format == 2 else 0
        events.tracks += 1
    if events.tracks != header.declared_tracks:
        events.problems[f"declares {header.declared_tracks:,} tracks, has {events.tracks:,}"] += 1
    if not _has_pitches(events):
        raise MidiError(_why_no_notes(events))
    return _to_song(events, header, max_seconds)


def _has_pitches(events: _Events) -> bool:
    """Whether there is a note that is not a drum's."""
    return any(key >> 7 != DRUM_CHANNEL for key in events.notes[2::4])


def _why_no_notes(events: _Events) -> str:
    if events.ends:
        return f"has only drums ({len(events.ends):,} notes); a song needs notes with pitches too"
    if not events.tracks:
        return "has a MIDI header but no tracks"
    return "has no notes" + "".join(f"; {warning}" for warning in events.warnings()[:3])


def _read_track(track: bytes, place: int, tick: int, max_tail_ticks: int, events: _Events) -> int:
    """Adds one track's events, which begin at `tick`; returns the tick at which the track ends.

    One loop over plain bytes with local names, because nearly all the time of reading is spent in it.
    """
    notes, ends, first_note = events.notes, events.ends, len(events.ends)
    events.track_name = ""
    open_notes: defaultdict[int, deque[int]] = defaultdict(deque)  # channel * 128 + pitch -> indices of notes
    position, status, size = 0, 0, len(track)
    try:
        while position < size:
            delta = track[position]
            position += 1
            if delta > 0x7F:
                delta, position = _read_number(track, position - 1)
            tick += delta
            if track[position] < 0x80 and not status:
                events.problems["data without a status byte"] += 1
                while track[position] < 0x80:
                    position += 1
            if track[position] >= 0xF0:
                if track[position : position + 2] == b"\xff\x2f":
                    tick -= max(delta - max_tail_ticks, 0)
                    break
                position = _read_system(track, position, tick, events)
                continue
            if track[position] >= 0x80:
                status = track[position]
                position += 1
            first, second = track[position], 0
            if 0xC0 <= status < 0xE0:
                position += 1
            else:
                second = track[position + 1]
                position += 2
            if first > 0x7F or second > 0x7F:
                events.problems["a data byte above 127"] += 1
                first, second = min(first, 0x7F), min(second, 0x7F)
            if status >= 0xA0:
                _add_other(status, first, second, tick, place + position, events)
            elif status >= 0x90 and second:
                key = (status & 0x0F) << 7 | first
                open_notes[key].append(len(ends))
                notes.extend((tick, place + position, key, second))
                ends.append(-1)
            elif same_key := open_notes[(status & 0x0F) << 7 | first]:
                ends[same_key.popleft()] = tick
    except IndexError:
        events.problems["a track is cut short or damaged"] += 1
    _end_open_notes(open_notes, tick, events)
    for channel in {key >> 7 for key in notes[4 * first_note + 2 :: 4]}:
        events.track_names.setdefault(channel, events.track_name)
    return tick


def _add_other(status: int, first: int, second: int, tick: int, place: int, events: _Events) -> None:
    """Adds a control, pitch bend, channel pressure or program change; key pressure is ignored."""
    kind, channel = status & 0xF0, status & 0x0F
    if kind == 0xB0 and first < _CONTROLLERS:
        events.controls.extend((tick, place, channel << 8 | first, second))
    elif kind == 0xC0:
        events.programs.extend((tick, place, channel, first))
        events.controls.extend((tick, place, channel << 8 | PROGRAM_CHANGE, first))
    elif kind == 0xD0:
        events.controls.extend((tick, place, channel << 8 | PRESSURE, first))
    elif kind == 0xE0:
        events.controls.extend((tick, place, channel << 8 | PITCH_BEND, (second << 7 | first) - 8192))


def _end_open_notes(open_notes: dict[int, deque[int]], end_tick: int, events: _Events) -> None:
    """Ends the notes that no note-off ended."""
    for same_key in filter(None, open_notes.values()):
        # Note-offs end the oldest note, so those left on a pitch are its last ones, in order.
        onsets = [events.notes[4 * index] for index in same_key]
        for index, end in zip(same_key, [*onsets[1:], end_tick], strict=True):
            events.ends[index] = end
        if events.notes[4 * same_key[0] + 2] >> 7 != DRUM_CHANNEL:  # a drum's end means nothing
            events.problems["a note never ended"] += len(same_key)


def _read_number(track: bytes, position: int) -> tuple[int, int]:
    """A variable-length number and the position after it; IndexError if it is cut or longer than 5 bytes.

    The format allows 4.
    """
    number = 0
    for end in range(position, position + 5):
        byte = track[end]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, end + 1
    raise IndexError


def _read_system(track: bytes, position: int, tick: int, events: _Events) -> int:
    """Reads a meta, sysex or system event; returns the position after it, or raises IndexError if it is cut."""
    status = track[position]
    if status in (0xF0, 0xF7):
        length, position = _read_number(track, position + 1)
        position += length
    elif status == 0xFF:
        kind = track[position + 1]
        length, position = _read_number(track, position + 2)
        payload = track[position : position + length]
        position += length
        if position <= len(track) and not _read_meta(kind, payload, tick, events):
            events.problems[f"a damaged {_META_NAMES[kind]} ignored"] += 1
    else:
        events.problems[f"a system event {status:02X} within a track"] += 1
        position += {0xF1: 2, 0xF2: 3, 0xF3: 2}.get(status, 1)
    if position > len(track):
        raise IndexError
    return position


_META_NAMES = {0x20: "channel prefix", 0x51: "tempo", 0x58: "time signature", 0x59: "key signature"}


def _read_meta(kind: int, payload: bytes, tick: int, events: _Events) -> bool:
    """Keeps a meta event's name, text, tempo, time signature or key signature; False if the event is damaged."""
    if kind == 0x03:
        events.track_name = events.track_name or _clean(payload, _NAME_LETTERS).strip()
        if not events.tracks:
            events.name = events.name or events.track_name
    elif kind in _TEXTS:
        text = _clean(payload, _TEXT_LETTERS)  # with the spaces that tell words from syllables
        if text.strip():
            events.texts.append((tick, _TEXTS[kind], text))
    elif kind == 0x20:
        return payload[:1] < b"\x10"
    elif kind == 0x51:
        micros = int.from_bytes(payload[:3], "big")
        if len(payload) < 3 or not micros:
            return False
        events.tempos.extend((tick, micros))
        if micros < _FASTEST_MICROS:
            events.problems[f"a tempo above {60_000_000 // _FASTEST_MICROS:,} bpm"] += 1
    elif kind == 0x58:
        if len(payload) < 2 or not payload[0] or payload[1] > 6:  # up to 64ths
            return False
        events.meters.extend((tick, payload[0], 1 << payload[1]))
    elif kind == 0x59:
        if len(payload) < 2 or (payload[0] + 7) % 256 > 14 or payload[1] > 1:
            return False
        events.keys.extend((tick, (payload[0] + 128) % 256 - 128, payload[1]))
    return True


def _clean(payload: bytes, letters: int) -> str:
    """At most so many printable letters, with one space for all white space in a row."""
    payload = payload[: 16 * letters]
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        text = payload.decode("latin-1")
    # Unicode's C categories: control characters, invisible marks, unassigned code points.
    kept = (letter for letter in text if letter.isspace() or not unicodedata.category(letter).startswith("C"))
    return re.sub(r"\s+", " ", "".join(kept))[:letters]


def _to_song(events: _Events, header: Header, max_seconds: float) -> Song:
    tempo_map, seconds_at = _tempo_map(events, header)
    rows = _table(events.notes, 4)
    onset = seconds_at(rows[:, 0])
    end = np.maximum(seconds_at(_table(events.ends, 1)[:, 0]), onset + MIN_NOTE_SECONDS)
    seconds = float(np.where(rows[:, 2] >> 7 == DRUM_CHANNEL, onset, end).max())  # a drum's end means nothing
    if not seconds <= max_seconds:
        spans = f"lasts {_span(seconds)}, more than the limit of {_span(max_seconds)}"
        raise MidiError(f"{spans}; raise it with --max-seconds")

    def timed(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
        found = np.empty(len(rows), dtype)
        found["time"] = seconds_at(rows[:, 0])
        for column, name in enumerate((dtype.names or ())[1:], 1):
            found[name] = rows[:, column]
        return found[found["time"] <= max_seconds]  # a late event must not lengthen the song

    def controls(rows: np.ndarray) -> np.ndarray:
        return timed(np.stack([rows[:, 0], rows[:, 2] & 0xFF, rows[:, 3]], axis=1), CONTROL)

    programs = _table(events.programs, 4)
    notes = np.empty(len(rows), NOTE)
    notes["onset"], notes["end"], notes["pitch"], notes["velocity"] = onset, end, rows[:, 2] & 0x7F, rows[:, 3]
    late = seconds_at(programs[:, 0]) > max_seconds
    texts = [Text(float(seconds_at(tick)), kind, text) for tick, kind, text in events.texts]
    return Song(
        parts=_split_parts(notes, rows, _table(events.controls, 4), programs[~late], events.track_names, controls),
        tempo_map=TempoMap(*(column[tempo_map.seconds <= end.max()] for column in tempo_map)),  # none after the end
        meters=timed(_changes(_table(events.meters, 3)), METER),
        key_signatures=timed(_changes(_table(events.keys, 3)), KEY_SIGNATURE),
        texts=tuple(sorted((text for text in texts if text.time <= max_seconds), key=lambda text: text.time)),
        name=events.name,
        warnings=events.warnings(),
    )


def _tempo_map(events: _Events, header: Header) -> tuple[TempoMap, Callable[[Any], Any]]:
    """The tempo map, whose beats are quarter notes, and the function from ticks to seconds."""
    first = np.array([[0, _DEFAULT_MICROS]])
    changes = _changes(np.concatenate([first, _table(events.tempos, 2)]))
    ticks, quarter_seconds = changes[:, 0], changes[:, 1] * 1e-6
    if header.division:
        tempo_map = TempoMap.of_changes(ticks / header.division, quarter_seconds)
        return tempo_map, lambda ticks: tempo_map.seconds_at(ticks / header.division)
    seconds = ticks * header.tick_seconds  # with film frames, tempo changes do not affect time
    passed = np.concatenate([[0.0], np.cumsum(np.diff(seconds) / quarter_seconds[:-1])])
    return TempoMap(passed, seconds, quarter_seconds), lambda ticks: ticks * header.tick_seconds


def _split_parts(
    notes: np.ndarray,
    rows: np.ndarray,
    controls: np.ndarray,
    programs: np.ndarray,
    names: dict[int, str],
    timed: Callable[[np.ndarray], np.ndarray],
) -> tuple[Part, ...]:
    """Notes and controls as parts, sorted by channel, then program.

    `notes` are NOTE, `rows` the same notes as in `_Events`; `timed` turns rows of controls into CONTROL.
    """
    parts = []
    for channel in np.unique(rows[:, 2] >> 7).tolist():
        on_channel = np.flatnonzero(rows[:, 2] >> 7 == channel)
        changes = programs[programs[:, 2] == channel]
        moves = controls[controls[:, 2] >> 8 == channel]
        moves = moves[np.lexsort((moves[:, 1], moves[:, 0]))]
        first_note = min(zip(*rows[on_channel, :2].T.tolist(), strict=True))
        before = (moves[:, 0] < first_note[0]) | ((moves[:, 0] == first_note[0]) & (moves[:, 1] < first_note[1]))
        is_change = moves[:, 2] & 0xFF == PROGRAM_CHANGE
        first_change = np.flatnonzero(is_change & before)[-1:]  # others are written where notes need them
        moves = moves[~is_change | np.isin(np.arange(len(moves)), first_change)]
        of_notes = _programs_at(rows[on_channel], changes)
        of_moves = _programs_at(moves, changes)
        if len(moves):  # a control whose program plays no notes belongs to the program of the next note
            order = np.lexsort((rows[on_channel, 1], rows[on_channel, 0]))
            place = np.searchsorted(rows[on_channel[order], 0], moves[:, 0])
            following = of_notes[order][np.minimum(place, len(on_channel) - 1)]
            of_moves = np.where(np.isin(of_moves, of_notes), of_moves, following)
        for program in np.unique(of_notes).tolist():
            played = notes[on_channel[of_notes == program]]
            played = played[np.lexsort((played["end"], played["pitch"], played["onset"]))]
            other = (moves[:, 2] & 0xFF == PROGRAM_CHANGE) & (moves[:, 3] != program)  # to one that plays no notes
            controls_of_part = timed(moves[(of_moves == program) & ~other])
            parts.append(Part(played, program, channel, names.get(channel, ""), controls_of_part))
    return tuple(parts)


def _table(numbers: array, columns: int) -> np.ndarray:
    return np.frombuffer(numbers, np.int64).reshape(-1, columns)


def _span(seconds: float) -> str:
    return f"{round(seconds / 3600, 1):,.9g} h" if seconds >= 3600 else f"{round(seconds, 1):,.9g} s"


def _programs_at(rows: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """The program in force on a channel at each row (tick, place, ...); 0 before the first of its `changes`."""
    changes = changes[np.lexsort((changes[:, 1], changes[:, 0]))]
    both = np.concatenate([changes, rows])
    order = np.lexsort((both[:, 1], both[:, 0]))
    changes_before = np.empty(len(both), np.int64)
    changes_before[order] = np.cumsum(order < len(changes))
    return np.append(0, changes[:, 3])[changes_before[len(changes) :]]


def _changes(rows: np.ndarray) -> np.ndarray:
    """Rows (tick, value, ...) sorted by tick: the last of each tick, without those that repeat the value before."""
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    rows = rows[np.append(np.diff(rows[:, 0]) > 0, True)[: len(rows)]]
    return rows[np.concatenate([[True], (np.diff(rows[:, 1:], axis=0) != 0).any(1)])[: len(rows)]]
