"""`add`: more songs for a run that is trained."""

import argparse
from functools import partial
from pathlib import Path

from nemui_jax.cli import console
from nemui_jax.data import dataset
from nemui_jax.errors import UsageError
from nemui_jax.files import escape
from nemui_jax.runs import adding
from nemui_jax.runs.run import Run, read_run


def add(args: argparse.Namespace) -> None:
    """Adds the songs of files and folders to a trained run."""
    run = read_run(args.run)
    songs = _read(args.file, run, args.max_seconds)
    console.start_jax()
    with console.progress_bar("learning") as show:
        grown = adding.add(args.run, songs, args.seed, partial(print, flush=True), show)
    console.print_result(args.run, f"{escape(args.run)}: has {len(grown.entries)} songs now")
    console.print_next(["sample", "--song", len(grown.entries) - 1, *console.run_flag(args.run)])


def _read(paths: list[Path], run: Run, max_seconds: float) -> dataset.Corpus:
    """The songs of files and folders. In a folder those that the run has are passed over, as files that hold none."""
    held = {entry.sha256: f"song {index} {entry.name}" for index, entry in enumerate(run.entries)}
    found = {}
    for path in paths:
        if not path.is_dir():
            entry, song = dataset.load_file(path, run.config, max_seconds)
            if entry.sha256 in held:
                raise UsageError(f"--file {escape(path)}: in the run already, as {held[entry.sha256]}")
            found[entry.sha256] = entry, song
            continue
        corpus, reports = dataset.load(path, run.config, max_seconds)
        console.print_reports(reports)
        for entry, song in zip(corpus.entries, corpus.songs, strict=True):
            if entry.sha256 in held:
                print(f"{entry.path}: in the run already, as {held[entry.sha256]}")
            else:
                found[entry.sha256] = entry, song
    if not found:
        raise UsageError(f"--file {', '.join(map(escape, paths))}: no song that the run does not have")
    return dataset.Corpus(tuple(entry for entry, _ in found.values()), tuple(song for _, song in found.values()))
