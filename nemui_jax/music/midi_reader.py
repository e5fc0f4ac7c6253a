"""Songs as events in seconds, read from and written to Standard MIDI Files.

Conventions: times are seconds from the start of the song as float64; pitches are MIDI numbers
0 to 127; arrays of events are NumPy structured arrays, sorted by time. Inside the reader and the
writer times are ticks, and the name says so. Messages of MidiError never name the file: the
caller does, through `escape`.

Rules of the reader where the format leaves a choice:
- A note-off ends the oldest note sounding on its pitch, channel and track.
- A note never ended lasts to the next note on its pitch, or to the end of its track.
- No note is shorter than MIN_NOTE_SECONDS, so that `end > onset` always holds.
- Running status survives meta, sysex and system events; data bytes above 127 are read as 127.
- The sustain pedal is the highest value in force over all channels but the drums'.
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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nemui_jax.errors import MidiError
from nemui_jax.music.song import (
    DEFAULT_TEMPO,
    DRUM_CHANNEL,
    FASTEST_TEMPO,
    MAX_SECONDS,
    METER,
    MIN_NOTE_SECONDS,
    NOTE,
    PEDAL,
    TEMPO,
    Song,
    TickClock,
    changes,
    make_tick_clock,
)

MAX_BYTES = 64 * 2**20
ENDINGS = (".mid", ".midi", ".rmi", ".kar")
_JUNK_BYTES = 4096  # how far into a file the header may stand
_GZIP_BYTES = 8 * 2**20  # a small file must not unpack into minutes of work
_FRAME_RATES = {24: 24.0, 25: 25.0, 29: 30000 / 1001, 30: 30.0}
_NAME_LETTERS = 80


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
    pedal: array = field(default_factory=lambda: array("q"))  # tick, place, channel, value
    programs: array = field(default_factory=lambda: array("q"))  # tick, place, channel, program
    tempos: list[tuple[int, int]] = field(default_factory=list)  # tick, microseconds per quarter
    meters: list[tuple[int, int, int]] = field(default_factory=list)  # tick, numerator, denominator
    name: str = ""
    tracks: int = 0
    drums: int = 0
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
            events.tempos.append((base_tick, DEFAULT_TEMPO))  # a pattern does not inherit the last one's tempo
        end_tick = _read_track(data[start:stop], start, base_tick, header.hang_ticks, events)
        base_tick = end_tick if header.format == 2 else 0
        events.tracks += 1
    if events.tracks != header.declared_tracks:
        events.odd[f"declares {header.declared_tracks:,} tracks, has {events.tracks:,}"] += 1
    if not events.ends:
        raise MidiError(_why_silent(events))
    return _to_song(events, header, max_seconds)


def _why_silent(events: _Events) -> str:
    if events.drums:
        return f"has only drums ({events.drums:,} notes), which are not learned"
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
        return _Header(format_, declared, position, division, DEFAULT_TEMPO * 1e-6 / division)
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
    notes, ends = events.notes, events.ends
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
            if status >= 0xA0 or status & 0x0F == DRUM_CHANNEL:
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
    return tick


def _add_other(status: int, first: int, second: int, tick: int, place: int, events: _Events) -> None:
    """Adds a drum, a move of the pedal or a change of program; other events are not kept."""
    kind, channel = status & 0xF0, status & 0x0F
    if channel == DRUM_CHANNEL:
        events.drums += kind == 0x90 and second > 0
    elif kind == 0xB0 and first == 64:
        events.pedal.extend((tick, place, channel, second))
    elif kind == 0xC0:
        events.programs.extend((tick, place, channel, first))


def _end_hanging(sounding: dict[int, deque[int]], end_tick: int, events: _Events) -> None:
    for hanging in filter(None, sounding.values()):
        # Note-offs go to the oldest note, so what is left on a pitch are its last notes, in order.
        onsets = [events.notes[4 * index] for index in hanging]
        for index, end in zip(hanging, [*onsets[1:], end_tick], strict=True):
            events.ends[index] = end
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
    if kind == 0x03 and not events.tracks and not events.name:
        events.name = _clean_name(payload)
    elif kind == 0x20:
        return payload[:1] < b"\x10"
    elif kind == 0x51:
        tempo = int.from_bytes(payload[:3], "big")
        if len(payload) < 3 or not tempo:
            return False
        events.tempos.append((tick, tempo))
        if tempo < FASTEST_TEMPO:
            events.odd[f"a tempo above {60_000_000 // FASTEST_TEMPO:,} bpm"] += 1
    elif kind == 0x58:
        if len(payload) < 2 or not payload[0] or payload[1] > 6:  # up to 64ths
            return False
        events.meters.append((tick, payload[0], 1 << payload[1]))
    elif kind == 0x59:
        return len(payload) >= 2 and (payload[0] + 7) % 256 <= 14 and payload[1] <= 1
    return True


def _clean_name(payload: bytes) -> str:
    payload = payload[: 16 * _NAME_LETTERS]
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        text = payload.decode("latin-1")
    # Unicode's C categories are controls, invisible marks and what is unassigned.
    kept = (letter for letter in text if letter.isspace() or not unicodedata.category(letter).startswith("C"))
    return " ".join("".join(kept).split())[:_NAME_LETTERS].rstrip()


def _to_song(events: _Events, header: _Header, max_seconds: float) -> Song:
    if header.division:
        clock = make_tick_clock([(0, DEFAULT_TEMPO), *events.tempos], header.division)
    else:  # film frames: tempo is only notation
        clock = TickClock(np.zeros(1, np.int64), np.zeros(1), np.array([header.tick_seconds]))
    rows = _table(events.notes)
    notes = np.empty(len(rows), NOTE)
    notes["onset"] = clock.seconds_at(rows[:, 0])
    notes["end"] = np.maximum(clock.seconds_at(_column(events.ends)), notes["onset"] + MIN_NOTE_SECONDS)
    notes["pitch"], notes["velocity"], notes["channel"] = rows[:, 2] & 0x7F, rows[:, 3], rows[:, 2] >> 7
    notes["program"] = _programs_of(rows, _table(events.programs))
    seconds = float(notes["end"].max())
    if not seconds <= max_seconds:
        spans = f"lasts {_span(seconds)}, more than the bound of {_span(max_seconds)}"
        raise MidiError(f"{spans}; raise it with --max-seconds")
    notes = notes[np.lexsort((notes["end"], notes["channel"], notes["pitch"], notes["onset"]))]

    def timed(rows: list, dtype: np.dtype) -> np.ndarray:
        array_ = np.array(rows, dtype)
        array_["time"] = clock.seconds_at(array_["time"])
        return array_[array_["time"] <= max_seconds]  # a late one alone must not make a song long

    tempos = [(tick, tempo * 1e-6) for tick, tempo in changes(events.tempos)]
    return Song(
        notes=notes,
        pedal=timed(_merge_pedals(_table(events.pedal)), PEDAL),
        tempos=timed(tempos, TEMPO),
        meters=timed(changes(events.meters), METER),
        name=events.name,
        drums=events.drums,
        warnings=events.warnings(),
    )


def _column(numbers: array) -> np.ndarray:
    return np.frombuffer(numbers, np.int64)


def _table(numbers: array) -> np.ndarray:
    return _column(numbers).reshape(-1, 4)


def _span(seconds: float) -> str:
    return f"{round(seconds / 3600, 1):,.9g} h" if seconds >= 3600 else f"{round(seconds, 1):,.9g} s"


def _programs_of(notes: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """The program in force on each note's channel, whatever track changed it; 0 before the first change."""
    programs = np.zeros(len(notes), np.uint8)
    for channel in np.unique(changes[:, 2]):
        mine = np.flatnonzero(notes[:, 2] >> 7 == channel)
        here = changes[changes[:, 2] == channel]
        here = here[np.lexsort((here[:, 1], here[:, 0]))]
        both = np.concatenate([here, notes[mine]])
        order = np.lexsort((both[:, 1], both[:, 0]))
        changes_before = np.empty(len(both), np.int64)
        changes_before[order] = np.cumsum(order < len(here))
        programs[mine] = np.append(0, here[:, 3])[changes_before[len(here) :]]
    return programs


def _merge_pedals(moves: np.ndarray) -> list[tuple[int, int]]:
    """(tick, value) wherever the highest value over the channels changes."""
    moves = moves[np.lexsort((moves[:, 1], moves[:, 0]))]
    merged = np.zeros(len(moves), np.int64)
    for channel in np.unique(moves[:, 2]):
        mine = moves[:, 2] == channel
        merged = np.maximum(merged, np.append(0, moves[mine, 3])[np.cumsum(mine)])
    changed = np.diff(merged, prepend=0) != 0
    return list(zip(moves[changed, 0].tolist(), merged[changed].tolist(), strict=True))
