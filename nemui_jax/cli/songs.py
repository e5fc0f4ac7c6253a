"""`songs`: lists the songs of a run."""

import argparse
import dataclasses
from collections import Counter

from nemui_jax import api
from nemui_jax.cli import console

WIDE = 100  # columns of a terminal, from which there is room for the instruments


def songs(args: argparse.Namespace) -> None:
    """Lists the songs of a run."""
    found = api.load(args.run).songs
    if args.json:
        console.print_json([dataclasses.asdict(song) for song in found])
        return
    bands = any(len(song.parts) > 1 for song in found) and console.console().width >= WIDE
    limited = any(song.possible_note_f1 < 1 for song in found)
    heads = ["song", "name", "length", "notes", "key", "tempo", *["instruments"] * bands, "note F1"]
    rows = [_row(song, bands, limited) for song in found]
    console.print_columns([*heads, *["possible"] * limited], rows, left=("name", "key", "instruments"))


def _row(song: api.SongInfo, bands: bool, limited: bool) -> list[str]:
    """A song's line of the table: with its instruments if there are `bands`, with what is possible if `limited`."""
    return [
        str(song.index),
        song.name,
        console.duration(song.seconds),
        f"{song.notes:,}",
        song.key,
        song.clock if song.tempo is None else f"{song.tempo:.0f} bpm{', tracked' * (song.clock == 'tracked')}",
        *[_instruments(song)] * bands,
        "-" if song.note_f1 is None else f"{song.note_f1:.4f}",
        *[f"{song.possible_note_f1:.4f}"] * limited,
    ]


def _instruments(song: api.SongInfo) -> str:
    """The instruments of a song by number of notes, each with the number of its parts where there are several."""
    notes = Counter[str]()
    for part in song.parts:
        notes[part.instrument] += part.notes
    parts = Counter(part.instrument for part in song.parts)
    return ", ".join(f"{name} x{parts[name]}" if parts[name] > 1 else name for name, _ in notes.most_common())
