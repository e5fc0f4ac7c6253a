"""`fetch`: gets songs to train on."""

import argparse

from nemui_jax.cli import console
from nemui_jax.data import maestro
from nemui_jax.files import escape
from nemui_jax.music import tunes


def fetch(args: argparse.Namespace) -> None:
    """Writes MAESTRO or the built-in tunes to a folder."""
    if args.what == "demo":
        paths = tunes.write_all(args.out)
    else:
        print(maestro.notice(maestro.MAESTRO), flush=True)
        years = [int(year) for year in args.year.split(",")] if args.year else []
        composers = args.composer.split(",") if args.composer else []
        with console.progress_bar("downloading", maestro.MAESTRO.bytes) as show:
            paths = maestro.maestro(args.out, years=years, composers=composers, progress=show)
    console.print_result(args.out, f"{len(paths)} files are in {escape(args.out)}")
    console.print_next(["train", "--dir", args.out])
