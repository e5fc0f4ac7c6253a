"""`evaluate`: measures a run."""

import argparse
import contextlib
import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from nemui_jax import api
from nemui_jax.cli import console
from nemui_jax.data import dataset
from nemui_jax.errors import Failed, UsageError
from nemui_jax.files import escape, write_text
from nemui_jax.music.song import Song
from nemui_jax.runs.run import Run


def evaluate(args: argparse.Namespace) -> None:
    """Measures how well a run plays its songs back, and its mixes and new songs against the songs."""
    loaded = api.load(args.run, print)
    run = loaded.run
    held_out = _read_held_out(args, run)
    original = None if args.original is None else _original_mixer(api.load(args.original, print), run)
    console.start_jax()
    from nemui_jax.evaluation import beats, report

    corpus = run.corpus()

    def compose(count: int, seconds: float) -> list[Song]:
        with contextlib.suppress(Failed):  # where all that are drawn are too like the songs
            return [piece.song for piece in loaded.randoms(count, seconds=seconds)]
        return []

    with console.progress_bar("measuring", report.PAIRS) as show:
        result = report.evaluate(
            corpus.songs,
            played=lambda index: loaded.song(index).song,
            on_grid=lambda index: dataset.on_grid(corpus.songs[index], run.entries[index], run.config),
            mix=_mixer(loaded, range(len(run.entries))),
            compose=compose if run.config.model.knot_steps else None,
            original=original,
            progress=show,
        )
    result["beats"] = [
        {"name": run.entries[index].name, **beats.score_clock(corpus.songs[index], run.entries[index].clock)}
        for index in dataset.spread(len(run.entries), report.MAX_SONGS)
    ]
    if held_out is not None:
        result["held_out"] = _score_held_out(held_out, loaded)
    _print_evaluation(result)
    if args.json:
        write_text(args.json, json.dumps(result, indent=1))
        console.print_result(args.json, f"all figures are in {args.json}")


def _read_held_out(args: argparse.Namespace, run: Run) -> dataset.Corpus | None:
    if not args.held_out:
        return None
    if not args.held_out.is_dir():
        raise UsageError(f"--held-out {escape(args.held_out)}: no such folder")
    held_out, reports = dataset.load(args.held_out, run.config, args.max_seconds)
    console.print_reports(reports)
    return held_out


def _score_held_out(held_out: dataset.Corpus, loaded: api.LoadedRun) -> list[dict[str, Any]]:
    """How well songs that the run does not hold are played back once rows are fitted to them."""
    from nemui_jax.evaluation import report
    from nemui_jax.sampling.decode import latent_song
    from nemui_jax.sampling.play import play_back
    from nemui_jax.training import finetune

    run, learned, found = loaded.run, {entry.sha256 for entry in loaded.run.entries}, []
    for entry, song in zip(held_out.entries, held_out.songs, strict=True):
        if entry.sha256 not in learned:
            rows = finetune.fit_song(loaded.params, song, entry, run.config)
            played = play_back(loaded.params, latent_song(entry, song, rows, run.config), run.config)
            found.append(report.score_playback(song, played, dataset.on_grid(song, entry, run.config)))
    return found


def _mixer(loaded: api.LoadedRun, numbers: Sequence[int]) -> Any:
    """Mixes songs of a run, whose indices there are `numbers`."""

    def mix(songs: Sequence[int], weights: Sequence[float], seconds: float) -> Song:
        given = {numbers[song]: weight for song, weight in zip(songs, weights, strict=True)}
        return loaded.mix(given, seconds=seconds).song

    return mix


def _original_mixer(other: api.LoadedRun, run: Run) -> Any:
    """Mixes this run's songs with a run of the original preset."""
    places = {entry.sha256: index for index, entry in enumerate(other.run.entries)}
    missing = [entry.name for entry in run.entries if entry.sha256 not in places]
    if missing:
        path = other.run.path
        raise UsageError(f"--original {path}: does not have the song {missing[0]}; train both on the same folder")
    return _mixer(other, [places[entry.sha256] for entry in run.entries])


def _mean_of_beats(rows: Sequence[dict[str, Any]], fields: Sequence[str]) -> list[Any]:
    known = [[row[field] for row in rows if row.get(field) is not None] for field in fields]
    return ["mean", "", *(sum(values) / len(values) if values else None for values in known)]


def _print_evaluation(result: dict[str, Any]) -> None:
    def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        console.console().print(title)  # above the table, which may be narrower
        made = Table(box=None)
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
    heads = ("song", "clock", "confidence", "F of beats", "at any level", "F of downbeats")
    fields = ("name", "clock", "confidence", "f", "any_level", "downbeat_f")
    rows = [[row.get(field) for field in fields] for row in result["beats"]]
    title = "beats tracked from the notes, against the tempo map of the file where that is the song's clock"
    table(f"\n{title}", heads, [*rows, _mean_of_beats(result["beats"], fields[2:])])
    if "mixes" not in result:
        return
    heads = list(next(iter(result["mixes"].values())))
    rows = [[name, *figures.values()] for name, figures in result["mixes"].items()]
    table("\nmixes of two songs against the songs, means over pairs", ("", *(h.replace("_", " ") for h in heads)), rows)
    table("\npaths from one song to another", ("", ""), list(result["path"].items()))
    if "new" in result:
        table("\nnew songs against the songs", ("", ""), list(result["new"].items()))
