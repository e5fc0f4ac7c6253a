"""`evaluate`: measures a run."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from nemui_jax.cli import console
from nemui_jax.data import dataset
from nemui_jax.errors import UsageError
from nemui_jax.files import escape, write_text
from nemui_jax.music.song import Song
from nemui_jax.runs.run import Run, read_run


def evaluate(args: argparse.Namespace) -> None:
    """Measures how well a run plays its songs back, and its mixes against the songs and simple baselines."""
    run = read_run(args.run)
    corpus = run.corpus()
    held_out = None
    if args.held_out:
        if not args.held_out.is_dir():
            raise UsageError(f"--held-out {escape(args.held_out)}: no such folder")
        held_out, reports = dataset.load(args.held_out, run.config, args.max_seconds)
        console.print_reports(reports)
    console.start_jax()
    from nemui_jax.evaluation import report
    from nemui_jax.runs import checkpoint
    from nemui_jax.sampling.decode import latent_song, latent_songs
    from nemui_jax.training import finetune

    step = checkpoint.usable_step(run)
    params, table = checkpoint.restore_model(run, step)
    tracks = latent_songs(corpus, table, run.config)
    original = None if args.original is None else _original_player(read_run(args.original), run)
    with console.progress_bar("measuring", report.PAIRS) as show:
        result = report.evaluate(params, tracks, corpus.songs, run.config, original, show)
    if held_out is not None:
        learned = [entry.sha256 for entry in run.entries]
        unseen = [index for index, entry in enumerate(held_out.entries) if entry.sha256 not in learned]
        songs = [held_out.songs[index] for index in unseen]
        fitted = [
            latent_song(entry, song, finetune.fit_song(params, song, entry, run.config))
            for entry, song in zip((held_out.entries[index] for index in unseen), songs, strict=True)
        ]
        result["held_out"] = report.score_playback(params, fitted, songs, run.config)
    _print_evaluation(result)
    if args.json:
        write_text(args.json, json.dumps(result, indent=1))
        console.print_result(args.json, f"all figures are in {args.json}")


def _original_player(other: Run, run: Run) -> Any:
    """A function by which a run of the original preset mixes this run's songs."""
    from nemui_jax.evaluation import report
    from nemui_jax.runs import checkpoint
    from nemui_jax.sampling.decode import latent_songs

    missing = [entry.name for entry in run.entries if entry.sha256 not in {theirs.sha256 for theirs in other.entries}]
    if missing:
        raise UsageError(f"--original {other.path}: does not have the song {missing[0]}; train both on the same folder")
    params, table = checkpoint.restore_model(other, checkpoint.usable_step(other))
    hashes = {entry.name: entry.sha256 for entry in run.entries}
    tracks = latent_songs(other.corpus(), table, other.config)
    by_hash = {entry.sha256: track for entry, track in zip(other.entries, tracks, strict=True)}

    def play(pair: Sequence[Any], weight: float, blocks: int) -> Song:
        ratio = report.block_seconds(run.config) / report.block_seconds(other.config)
        pair = [by_hash[hashes[track.name]] for track in pair]
        return report.mix(params, pair, weight, int(np.ceil(blocks * ratio)), other.config)

    return play


def _print_evaluation(result: dict[str, Any]) -> None:
    def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        made = Table(title=title, title_justify="left", box=None)
        for place, head in enumerate(heads):
            made.add_column(head, justify="right" if place else "left")
        for row in rows:
            made.add_row(
                *(f"{cell:.3f}" if isinstance(cell, float) else "-" if cell is None else str(cell) for cell in row)
            )
        console.console().print(made)

    measured, every = result["songs"]
    if measured < every:
        print(f"measured on {measured} of {every:,} songs, evenly chosen")
    fields = ("onset", "offset", "velocity", "pedal")
    for part, title in (
        ("playback", "played back: note F1"),
        ("held_out", "held out, fitted and played back: note F1"),
    ):
        if part in result:
            rows = [
                [row["name"], *(row[field] for field in fields), *(row["ceiling"][field] for field in fields)]
                for row in result[part]
            ]
            table(title, ("song", *fields, *(f"grid's {field}" for field in fields)), rows)
    if "mixes" not in result:
        return
    names = list(next(iter(result["mixes"].values())))
    rows = [[name, *(figures[name] for figures in result["mixes"].values())] for name in names]
    table("\nmixes of two songs, means over pairs, by weight of the second", ("", *result["mixes"]), rows)
    table("\npaths from one song to another", ("", ""), list(result["path"].items()))
    heads = ("overlapping_area", "kl_divergence", "bits_a_note", "onset_density", "rest_ratio", "scale_consistency")
    rows = [[name, *(figures.get(head) for head in heads)] for name, figures in result["sets"].items()]
    table("\nsets of pieces against the songs", ("", *(head.replace("_", " ") for head in heads)), rows)
