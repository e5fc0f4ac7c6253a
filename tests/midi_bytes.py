"""Standard MIDI Files put together by hand, for tests that need bytes no writer would make."""

import struct

END = "00 ff 2f 00"  # End of Track


def header(format_: int = 0, tracks: int = 1, division: int = 480) -> bytes:
    return b"MThd" + struct.pack(">LHHH", 6, format_, tracks, division)


def track(*events: str, end: str = END, length: int | None = None) -> bytes:
    """A track of events in hex (delta, then the event); `length` claims another size than the true one."""
    data = bytes.fromhex("".join(events) + end)
    return b"MTrk" + struct.pack(">L", len(data) if length is None else length) + data


def midi(*tracks: bytes, format_: int | None = None, division: int = 480) -> bytes:
    """A whole file; format 0 for one track, else 1, unless told."""
    return header(min(len(tracks) - 1, 1) if format_ is None else format_, len(tracks), division) + b"".join(tracks)


def notes(*pitches: int, channel: int = 0) -> str:
    """Notes one after another, each 120 ticks long (0.125 s at 480 ticks and 120 bpm)."""
    return "".join(f"00 9{channel:x} {pitch:02x} 50  78 8{channel:x} {pitch:02x} 00 " for pitch in pitches)
