"""`songs`: lists the songs of a run."""

import argparse
import dataclasses
from collections import Counter

from rich.table import Table

from nemui_jax import api
from nemui_jax.cli import console

WIDE = 100  # columns of a terminal, from which there is room for the instruments


def songs(args: argparse.Namespace) -> None:
    """Lists the songs of a run."""
    found = api.load(args.run).songs
    if args.json:
        console.print_json([dataclasses.asdict(song) for song in found])
        return
    table = Table(box=None)
    bands = any(len(song.parts) > 1 for song in found) and console.console().width >= WIDE
    limited = any(song.possible_note_f1 < 1 for song in found)
    for head in (
        "song",
        "name",
        "length",
        "notes",
        "key",
        "tempo",
        *["instruments"] * bands,
        "note F1",
        *["possible"] * limited,
    ):
        table.add_column(
            head,
            justify="left" if head in ("name", "key", "instruments") else "right",
            no_wrap=head != "name",
        )
    for song in found:
        note_f1 = "-" if song.note_f1 is None else f"{song.note_f1:.4f}"
        tempo = song.clock if song.tempo is None else f"{song.tempo:.0f} bpm{', tracked' * (song.clock == 'tracked')}"
        table.add_row(
            str(song.index),
            console.one_line(song.name),
            console.duration(song.seconds),
            f"{song.notes:,}",
            song.key,
            tempo,
            *[_instruments(song)] * bands,
            note_f1,
            *[f"{song.possible_note_f1:.4f}"] * limited,
        )
    console.console().print(table)


def _instruments(song: api.SongInfo) -> str:
    """The instruments of a song by number of notes, each with the number of its parts where there are several."""
    notes = Counter[str]()
    for part in song.parts:
        notes[part.instrument] += part.notes
    parts = Counter(part.instrument for part in song.parts)
    return ", ".join(f"{name} x{parts[name]}" if parts[name] > 1 else name for name, _ in notes.most_common())
