"""Songs read from Standard MIDI Files, however damaged.

Conventions: as in `song`; times here are ticks, and the names say so. Messages of MidiError never name the file: the
caller does, through `escape`.

Rules of the reader where the format leaves a choice:
- A note-off ends the oldest note sounding on its pitch, channel and track.
- A note never ended lasts to the next note on its pitch, or to the end of its track.
- No note is shorter than MIN_NOTE_SECONDS, so that `end > onset` always holds.
- Running status survives meta, sysex and system events; data bytes above 127 are read as 127.
- A part is what is played on a channel with a program. A control belongs to the part whose program is in force on its
  channel, or to the one that plays there next.
- A chunk length is believed where it leads to another chunk or to the end of the file;
  otherwise the track runs to the next track, and its End-of-Track event says where it stops.
"""

import os
import re
import stat
import unicodedata
import zlib
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nemui_jax.errors import MidiError
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
    Part,
    Song,
    TempoMap,
    Text,
)

MAX_BYTES = 64 * 2**20
ENDINGS = (".mid", ".midi", ".rmi", ".kar")
_JUNK_BYTES = 4096  # how far into a file the header may stand
_GZIP_BYTES = 8 * 2**20  # a small file must not unpack into minutes of work
_FRAME_RATES = {24: 24.0, 25: 25.0, 29: 30000 / 1001, 30: 30.0}
_NAME_LETTERS = 80
_TEXT_LETTERS = 200
_DEFAULT_MICROS = round(DEFAULT_QUARTER_SECONDS * 1e6)
_FASTEST_MICROS = 20_000  # microseconds a quarter note: 3,000 bpm
_CONTROLLERS = 120  # from here on they are modes of the channel, such as "all notes off"
_TEXTS = {0x01: "text", 0x05: "lyrics", 0x06: "marker", 0x07: "cue_marker"}


def find(folder: str | os.PathLike) -> tuple[list[Path], list[tuple[Path, str]]]:
    """MIDI files below a folder by their endings, and what only looks like one, with the reason.

    Both lists are sorted by the bytes of the path. Links to folders are not followed, so loops end;
    links to files are. A folder that cannot be listed is among the reasons; nothing is raised.
    """
    files: list[Path] = []
    problems: list[tuple[Path, str]] = []
    folders = [Path(folder)]
    while folders:
        here = folders.pop()
        try:
            entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in os.scandir(here)]
        except OSError as error:
            problems.append((here, f"cannot be listed: {error.strerror}"))
            continue
        folders += [here / name for name, is_folder in entries if is_folder]
        for path in (here / name for name, _ in entries if name.lower().endswith(ENDINGS)):
            try:
                _check_regular(os.stat(path))
                files.append(path)
            except (OSError, MidiError) as error:
                problems.append((path, _reason(error)))
    return sorted(files, key=os.fsencode), sorted(problems, key=lambda problem: os.fsencode(problem[0]))


def read(path: str | os.PathLike, max_seconds: float = MAX_SECONDS, max_bytes: int = MAX_BYTES) -> Song:
    """The song in a file; see `parse`. Raises MidiError, also for what cannot be opened or is too large."""
    return parse(read_bytes(path, max_bytes), max_seconds)


def read_bytes(path: str | os.PathLike, max_bytes: int = MAX_BYTES) -> bytes:
    """What a regular file holds; MidiError if it is none, cannot be opened or is too large.

    Only regular files are opened, so a named pipe or a device never blocks.
    """
    try:
        _check_regular(os.stat(path))
        # The path may name something else by now: open without waiting, and look again.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            _check_regular(os.fstat(file.fileno()))
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise MidiError(_reason(error)) from error
    if len(data) > max_bytes:
        raise MidiError(f"is larger than the bound of {max_bytes / 2**20:,.9g} MiB")
    return data


def _check_regular(status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        names = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        raise MidiError(f"is {names.get(kind, 'a device')}, not a file")


def _reason(error: Exception) -> str:
    if isinstance(error, MidiError):
        return str(error)
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


@dataclass
class _Events:
    """What the tracks of one file hold. Columns come flattened, for speed and to keep large files small.

    A place is an event's offset in the file: it orders events of one tick, first by track.
    """

    notes: array = field(default_factory=lambda: array("q"))  # tick, place, channel * 128 + pitch, velocity
    ends: array = field(default_factory=lambda: array("q"))  # tick, one per note; -1 while it sounds
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
    odd: Counter[str] = field(default_factory=Counter)  # what was wrong, and how often

    def warnings(self) -> tuple[str, ...]:
        return tuple(what if count == 1 else f"{what} ({count:,} times)" for what, count in self.odd.items())


class _Header(NamedTuple):
    format: int
    declared_tracks: int
    position: int  # of the first chunk after it
    division: int  # ticks per quarter; 0 where the file counts film frames
    tick_seconds: float  # without tempo changes

    @property
    def hang_ticks(self) -> int:
        """Two seconds at the default tempo: the most that a late End-of-Track adds to a track."""
        return round(2 / self.tick_seconds)


def parse(data: bytes, max_seconds: float = MAX_SECONDS) -> Song:
    """The song in the bytes of a Standard MIDI File, however damaged; the rules are at the top of this module.

    Formats 0, 1 and 2 (patterns in sequence), bare, in a RIFF wrapper or gzip-compressed. What was wrong but
    survivable is in `Song.warnings`. The name is the first track's. Time and memory are linear in `len(data)`.
    Raises MidiError, and nothing else, for what is not MIDI, has no notes but drums, or lasts longer than
    `max_seconds`.
    """
    events = _Events()
    data = _unwrap(data, events.odd)
    header = _read_header(data, events.odd)
    base_tick = 0
    for start, stop in _find_tracks(data, header.position, events.odd):
        if header.format == 2 and events.tempos:
            events.tempos.extend((base_tick, _DEFAULT_MICROS))  # a pattern does not inherit the last one's tempo
        end_tick = _read_track(data[start:stop], start, base_tick, header.hang_ticks, events)
        base_tick = end_tick if header.format == 2 else 0
        events.tracks += 1
    if events.tracks != header.declared_tracks:
        events.odd[f"declares {header.declared_tracks:,} tracks, has {events.tracks:,}"] += 1
    if not _has_pitches(events):
        raise MidiError(_why_silent(events))
    return _to_song(events, header, max_seconds)


def _has_pitches(events: _Events) -> bool:
    """Whether something but drums is played."""
    return any(key >> 7 != DRUM_CHANNEL for key in events.notes[2::4])


def _why_silent(events: _Events) -> str:
    if events.ends:
        return f"has only drums ({len(events.ends):,} notes), which are not learned"
    if not events.tracks:
        return "has a MIDI header but no tracks"
    return "has no notes" + "".join(f"; {warning}" for warning in events.warnings()[:3])


def _unwrap(data: bytes, odd: Counter[str]) -> bytes:
    """The Standard MIDI File within the data, from its header on."""
    if not data:
        raise MidiError("is empty")
    if data[:2] == b"\x1f\x8b":
        odd["gzip-compressed"] += 1
        try:
            data = zlib.decompressobj(wbits=31).decompress(data, _GZIP_BYTES + 1)
        except zlib.error as error:
            raise MidiError(f"is damaged gzip data: {error}") from error
        if len(data) > _GZIP_BYTES:
            raise MidiError(f"is gzip data that unpacks to more than {_GZIP_BYTES // 2**20} MiB; unpack it first")
    riff = data[:4] == b"RIFF" and data[8:12] == b"RMID"
    start = data.find(b"MThd", 0, len(data) if riff else _JUNK_BYTES)
    if start < 0:
        raise MidiError("is not a MIDI file (it has no MThd header)")
    if start and not riff:
        odd[f"{start:,} bytes before the header"] += 1
    data = data[start:]
    if b"\r\n" in data and not _chunks_fit(data):
        repaired = data.replace(b"\r\n", b"\n")
        if _chunks_fit(repaired):
            odd["line ends damaged by a transfer as text (repaired)"] += 1
            return repaired
    return data


def _chunks_fit(data: bytes) -> bool:
    """Whether the chunk lengths lead exactly to the end of the data."""
    position = 0
    while position + 8 <= len(data):
        position += 8 + int.from_bytes(data[position + 4 : position + 8], "big")
    return position == len(data)


def _read_header(data: bytes, odd: Counter[str]) -> _Header:
    if len(data) < 14:
        raise MidiError("is cut short inside its header")
    length, format_, declared, division = (
        int.from_bytes(data[start:stop], "big") for start, stop in ((4, 8), (8, 10), (10, 12), (12, 14))
    )
    if length > len(data) - 8:
        raise MidiError(f"has a damaged header (its length is given as {length:,} bytes)")
    position = 14 if data[14:18] == b"MTrk" else 8 + max(length, 6)
    if position != 8 + length:
        odd[f"the header's length is given as {length:,} bytes"] += 1
    if format_ > 2:
        odd[f"unknown format {format_:,}, read as 1"] += 1
    if format_ == 0 and declared > 1:
        odd[f"format 0 with {declared:,} tracks"] += 1
    if division < 0x8000:
        if not division:
            raise MidiError("has a damaged header (0 ticks per quarter note)")
        return _Header(format_, declared, position, division, DEFAULT_QUARTER_SECONDS / division)
    frames, frame_ticks = 256 - (division >> 8), division & 0xFF
    if frames not in _FRAME_RATES or not frame_ticks:
        raise MidiError(f"has a damaged header ({frames} film frames a second with {frame_ticks} ticks each)")
    return _Header(format_, declared, position, 0, 1 / (_FRAME_RATES[frames] * frame_ticks))


def _find_tracks(data: bytes, position: int, odd: Counter[str]) -> Iterator[tuple[int, int]]:
    """Start and stop of the events of every track; the stretches never overlap, so the work stays linear."""
    marks = [match.start() for match in re.finditer(b"MTrk", data)]
    while position < len(data):
        is_track = data.startswith(b"MTrk", position)
        if not is_track and not _is_chunk(data, position):
            index = bisect_left(marks, position)
            if index == len(marks):
                return
            position = marks[index]
            continue
        end = position + 8 + int.from_bytes(data[position + 4 : position + 8], "big")
        if not is_track:
            position = end
            continue
        stop = end
        if end != len(data) and not _is_chunk(data, end):
            index = bisect_left(marks, position + 8)
            stop = marks[index] if index < len(marks) else len(data)
            if data[end - 3 : end] != b"\xff\x2f\x00":  # else only something alien follows the track
                odd["a track's length is wrong"] += 1
        yield position + 8, stop
        position = stop


def _is_chunk(data: bytes, position: int) -> bool:
    """Whether a track, or a whole chunk with a printable name, stands at the position."""
    if data.startswith(b"MTrk", position):
        return True
    name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "big")
    return position + 8 + length <= len(data) and name.isascii() and name.decode("ascii").isprintable()


def _read_track(track: bytes, place: int, tick: int, hang_ticks: int, events: _Events) -> int:
    """Adds one track's events, the first counted from `tick`; returns the tick of the track's end.

    One loop over plain bytes with local names: this is where the time of reading goes.
    """
    notes, ends, first_note = events.notes, events.ends, len(events.ends)
    events.track_name = ""
    sounding: defaultdict[int, deque[int]] = defaultdict(deque)  # channel * 128 + pitch -> indices of notes
    position, status, size = 0, 0, len(track)
    try:
        while position < size:
            delta = track[position]
            position += 1
            if delta > 0x7F:
                delta, position = _read_number(track, position - 1)
            tick += delta
            if track[position] < 0x80 and not status:
                events.odd["data without a status byte"] += 1
                while track[position] < 0x80:
                    position += 1
            if track[position] >= 0xF0:
                if track[position : position + 2] == b"\xff\x2f":
                    tick -= max(delta - hang_ticks, 0)
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
                events.odd["a data byte above 127"] += 1
                first, second = min(first, 0x7F), min(second, 0x7F)
            if status >= 0xA0:
                _add_other(status, first, second, tick, place + position, events)
            elif status >= 0x90 and second:
                key = (status & 0x0F) << 7 | first
                sounding[key].append(len(ends))
                notes.extend((tick, place + position, key, second))
                ends.append(-1)
            elif open_notes := sounding[(status & 0x0F) << 7 | first]:
                ends[open_notes.popleft()] = tick
    except IndexError:
        events.odd["a track is cut short or damaged"] += 1
    _end_hanging(sounding, tick, events)
    for channel in {key >> 7 for key in notes[4 * first_note + 2 :: 4]}:
        events.track_names.setdefault(channel, events.track_name)
    return tick


def _add_other(status: int, first: int, second: int, tick: int, place: int, events: _Events) -> None:
    """Adds a move of a controller, a bend, a pressure or a change of program; pressures of single keys are not kept."""
    kind, channel = status & 0xF0, status & 0x0F
    if kind == 0xB0 and first < _CONTROLLERS:
        events.controls.extend((tick, place, channel << 8 | first, second))
    elif kind == 0xC0:
        events.programs.extend((tick, place, channel, first))
    elif kind == 0xD0:
        events.controls.extend((tick, place, channel << 8 | PRESSURE, first))
    elif kind == 0xE0:
        events.controls.extend((tick, place, channel << 8 | PITCH_BEND, (second << 7 | first) - 8192))


def _end_hanging(sounding: dict[int, deque[int]], end_tick: int, events: _Events) -> None:
    for hanging in filter(None, sounding.values()):
        # Note-offs go to the oldest note, so what is left on a pitch are its last notes, in order.
        onsets = [events.notes[4 * index] for index in hanging]
        for index, end in zip(hanging, [*onsets[1:], end_tick], strict=True):
            events.ends[index] = end
        if events.notes[4 * hanging[0] + 2] >> 7 != DRUM_CHANNEL:  # where an end means nothing
            events.odd["a note never ended"] += len(hanging)


def _read_number(track: bytes, position: int) -> tuple[int, int]:
    """A variable-length number and the position after it; IndexError if cut, or longer than 5 bytes (the rule is 4)."""
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
            events.odd[f"a damaged {_META_NAMES[kind]} ignored"] += 1
    else:
        events.odd[f"a system event {status:02X} within a track"] += 1
        position += {0xF1: 2, 0xF2: 3, 0xF3: 2}.get(status, 1)
    if position > len(track):
        raise IndexError
    return position


_META_NAMES = {0x20: "channel prefix", 0x51: "tempo", 0x58: "time signature", 0x59: "key signature"}


def _read_meta(kind: int, payload: bytes, tick: int, events: _Events) -> bool:
    """Keeps the name, tempo or time signature in a meta event; False if the event is damaged.

    Not left to mido, which raises on the first bad one and loses the file.
    """
    if kind == 0x03:
        events.track_name = events.track_name or _clean(payload, _NAME_LETTERS)
        if not events.tracks:
            events.name = events.name or events.track_name
    elif kind in _TEXTS:
        if text := _clean(payload, _TEXT_LETTERS):
            events.texts.append((tick, _TEXTS[kind], text))
    elif kind == 0x20:
        return payload[:1] < b"\x10"
    elif kind == 0x51:
        micros = int.from_bytes(payload[:3], "big")
        if len(payload) < 3 or not micros:
            return False
        events.tempos.extend((tick, micros))
        if micros < _FASTEST_MICROS:
            events.odd[f"a tempo above {60_000_000 // _FASTEST_MICROS:,} bpm"] += 1
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
    payload = payload[: 16 * letters]
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        text = payload.decode("latin-1")
    # Unicode's C categories are controls, invisible marks and what is unassigned.
    kept = (letter for letter in text if letter.isspace() or not unicodedata.category(letter).startswith("C"))
    return " ".join("".join(kept).split())[:letters].rstrip()


def _to_song(events: _Events, header: _Header, max_seconds: float) -> Song:
    tempo_map, seconds_at = _tempo_map(events, header)
    rows = _table(events.notes, 4)
    onset = seconds_at(rows[:, 0])
    end = np.maximum(seconds_at(_table(events.ends, 1)[:, 0]), onset + MIN_NOTE_SECONDS)
    seconds = float(end[rows[:, 2] >> 7 != DRUM_CHANNEL].max())
    if not seconds <= max_seconds:
        spans = f"lasts {_span(seconds)}, more than the bound of {_span(max_seconds)}"
        raise MidiError(f"{spans}; raise it with --max-seconds")

    def timed(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
        found = np.empty(len(rows), dtype)
        found["time"] = seconds_at(rows[:, 0])
        for column, name in enumerate((dtype.names or ())[1:], 1):
            found[name] = rows[:, column]
        return found[found["time"] <= max_seconds]  # a late one alone must not make a song long

    def controls(rows: np.ndarray) -> np.ndarray:
        return timed(np.stack([rows[:, 0], rows[:, 2] & 0xFF, rows[:, 3]], axis=1), CONTROL)

    programs = _table(events.programs, 4)
    notes = np.empty(len(rows), NOTE)
    notes["onset"], notes["end"], notes["pitch"], notes["velocity"] = onset, end, rows[:, 2] & 0x7F, rows[:, 3]
    late = seconds_at(programs[:, 0]) > max_seconds
    texts = [Text(float(seconds_at(tick)), kind, text) for tick, kind, text in events.texts]
    return Song(
        parts=_split_parts(notes, rows, _table(events.controls, 4), programs[~late], events.track_names, controls),
        tempo_map=TempoMap(*(column[tempo_map.seconds <= end.max()] for column in tempo_map)),  # others tell nothing
        meters=timed(_changes(_table(events.meters, 3)), METER),
        key_signatures=timed(_changes(_table(events.keys, 3)), KEY_SIGNATURE),
        texts=tuple(sorted((text for text in texts if text.time <= max_seconds), key=lambda text: text.time)),
        name=events.name,
        warnings=events.warnings(),
    )


def _tempo_map(events: _Events, header: _Header) -> tuple[TempoMap, Callable[[Any], Any]]:
    """The tempo map, whose beats are quarter notes, and what turns ticks into seconds."""
    first = np.array([[0, _DEFAULT_MICROS]])
    changes = _changes(np.concatenate([first, _table(events.tempos, 2)]))
    ticks, quarter_seconds = changes[:, 0], changes[:, 1] * 1e-6
    if header.division:
        tempo_map = TempoMap.of_changes(ticks / header.division, quarter_seconds)
        return tempo_map, lambda ticks: tempo_map.seconds_at(ticks / header.division)
    seconds = ticks * header.tick_seconds  # film frames: tempo is only notation
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
    """Notes (NOTE, and as rows of ticks) and controls by channel and program, in that order."""
    parts = []
    for channel in np.unique(rows[:, 2] >> 7).tolist():
        own = np.flatnonzero(rows[:, 2] >> 7 == channel)
        changes = programs[programs[:, 2] == channel]
        moves = controls[controls[:, 2] >> 8 == channel]
        moves = moves[np.lexsort((moves[:, 1], moves[:, 0]))]
        of_notes = _programs_at(rows[own], changes)
        of_moves = _programs_at(moves, changes)
        if len(moves):  # one before anything is played with its program belongs to what is played next
            order = np.lexsort((rows[own, 1], rows[own, 0]))
            place = np.searchsorted(rows[own[order], 0], moves[:, 0])
            following = of_notes[order][np.minimum(place, len(own) - 1)]
            of_moves = np.where(np.isin(of_moves, of_notes), of_moves, following)
        for program in np.unique(of_notes).tolist():
            mine = notes[own[of_notes == program]]
            mine = mine[np.lexsort((mine["end"], mine["pitch"], mine["onset"]))]
            parts.append(Part(mine, program, channel, names.get(channel, ""), timed(moves[of_moves == program])))
    return tuple(parts)


def _table(numbers: array, columns: int) -> np.ndarray:
    return np.frombuffer(numbers, np.int64).reshape(-1, columns)


def _span(seconds: float) -> str:
    return f"{round(seconds / 3600, 1):,.9g} h" if seconds >= 3600 else f"{round(seconds, 1):,.9g} s"


def _programs_at(rows: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """The program in force on a channel at rows (tick, place, ...), whatever track changed it; 0 before the first."""
    changes = changes[np.lexsort((changes[:, 1], changes[:, 0]))]
    both = np.concatenate([changes, rows])
    order = np.lexsort((both[:, 1], both[:, 0]))
    changes_before = np.empty(len(both), np.int64)
    changes_before[order] = np.cumsum(order < len(changes))
    return np.append(0, changes[:, 3])[changes_before[len(changes) :]]


def _changes(rows: np.ndarray) -> np.ndarray:
    """Rows (tick, value, ...) in order: the last of each tick, without those that change nothing."""
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    rows = rows[np.append(np.diff(rows[:, 0]) > 0, True)[: len(rows)]]
    return rows[np.concatenate([[True], (np.diff(rows[:, 1:], axis=0) != 0).any(1)])[: len(rows)]]
