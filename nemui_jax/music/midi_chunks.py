"""The chunks of a Standard MIDI File, however damaged: the file within the data, its header, and its tracks.

A chunk's length is believed where it leads to another chunk or to the end of the file; otherwise the track runs to
the next track, and its End-of-Track event says where it stops. Problems that do not stop the reading are counted in
`problems`, by description.
"""

import re
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from nemui_jax.errors import MidiError
from nemui_jax.music.song import DEFAULT_QUARTER_SECONDS

_JUNK_BYTES = 4096  # how far into a file the header may stand
_GZIP_BYTES = 8 * 2**20  # a small file must not unpack into minutes of work
_FRAME_RATES = {24: 24.0, 25: 25.0, 29: 30000 / 1001, 30: 30.0}


class Header(NamedTuple):
    """What the header chunk says."""

    format: int
    declared_tracks: int
    position: int  # of the first chunk after the header
    division: int  # ticks per quarter note; 0 where ticks divide film frames
    tick_seconds: float  # at the default tempo, or of a film frame's tick

    @property
    def max_tail_ticks(self) -> int:
        """The longest time from a track's last event to its end: two seconds at the default tempo."""
        return round(2 / self.tick_seconds)


def unwrap(data: bytes, problems: Counter[str]) -> bytes:
    """The Standard MIDI File within the data, from its header on: unzipped, out of its wrapper. Raises MidiError."""
    if not data:
        raise MidiError("is empty")
    if data[:2] == b"\x1f\x8b":
        problems["gzip-compressed"] += 1
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
        problems[f"{start:,} bytes before the header"] += 1
    data = data[start:]
    if b"\r\n" in data and not _chunks_fit(data):
        repaired = data.replace(b"\r\n", b"\n")
        if _chunks_fit(repaired):
            problems["line ends damaged by a transfer as text (repaired)"] += 1
            return repaired
    return data


def _chunks_fit(data: bytes) -> bool:
    """Whether the chunk lengths lead exactly to the end of the data."""
    position = 0
    while position + 8 <= len(data):
        position += 8 + int.from_bytes(data[position + 4 : position + 8], "big")
    return position == len(data)


def read_header(data: bytes, problems: Counter[str]) -> Header:
    """The header of a file that begins with one. Raises MidiError."""
    if len(data) < 14:
        raise MidiError("is cut short inside its header")
    length, format_, declared, division = (
        int.from_bytes(data[start:stop], "big") for start, stop in ((4, 8), (8, 10), (10, 12), (12, 14))
    )
    if length > len(data) - 8:
        raise MidiError(f"has a damaged header (it gives its length as {length:,} bytes)")
    position = 14 if data[14:18] == b"MTrk" else 8 + max(length, 6)
    if position != 8 + length:
        problems[f"the header gives its length as {length:,} bytes"] += 1
    if format_ > 2:
        problems[f"unknown format {format_:,}, read as 1"] += 1
    if format_ == 0 and declared > 1:
        problems[f"format 0 with {declared:,} tracks"] += 1
    if division < 0x8000:
        if not division:
            raise MidiError("has a damaged header (0 ticks per quarter note)")
        return Header(format_, declared, position, division, DEFAULT_QUARTER_SECONDS / division)
    frames, frame_ticks = 256 - (division >> 8), division & 0xFF
    if frames not in _FRAME_RATES or not frame_ticks:
        raise MidiError(f"has a damaged header ({frames} film frames a second with {frame_ticks} ticks each)")
    return Header(format_, declared, position, 0, 1 / (_FRAME_RATES[frames] * frame_ticks))


def find_tracks(data: bytes, position: int, problems: Counter[str]) -> Iterator[tuple[int, int]]:
    """Where the events of every track start and stop; tracks never overlap, so the work stays linear."""
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
            if data[end - 3 : end] != b"\xff\x2f\x00":  # after an End-of-Track only foreign data follows
                problems["a track's length is wrong"] += 1
        yield position + 8, stop
        position = stop


def _is_chunk(data: bytes, position: int) -> bool:
    """Whether a track, or a complete chunk with a printable name, begins at the position."""
    if data.startswith(b"MTrk", position):
        return True
    name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "big")
    return position + 8 + length <= len(data) and name.isascii() and name.decode("ascii").isprintable()
