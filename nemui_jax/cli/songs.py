"""`songs`: what a run knows."""

import argparse
import dataclasses

from rich.table import Table

from nemui_jax import api
from nemui_jax.cli import console


def songs(args: argparse.Namespace) -> None:
    """Lists the songs of a run."""
    known = api.load(args.run).songs
    if args.json:
        console.print_json([dataclasses.asdict(song) for song in known])
        return
    table = Table(box=None)
    for head in ("song", "name", "length", "notes", "key", "recall"):
        table.add_column(head, justify="left" if head in ("name", "key") else "right", no_wrap=head != "name")
    for song in known:
        told = "-" if song.recall is None else f"{song.recall:.4f}"
        table.add_row(
            str(song.index),
            console.one_line(song.name),
            console.duration(song.seconds),
            f"{song.notes:,}",
            song.key,
            told,
        )
    console.console().print(table)
