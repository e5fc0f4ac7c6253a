"""What each command does; those that learn are in `lessons`.

JAX is imported inside the commands that compute, so that the others, and errors in files and recipes, answer at once.
"""

import argparse
import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from nemui_jax import dataset, interface, metrics, midi, recipe, runs
from nemui_jax.interface import Piece, Plan
from nemui_jax.lessons import add, train
from nemui_jax.runs import Run
from nemui_jax.terminal import (
    UsageError,
    bar,
    clock,
    console,
    one_line,
    print_json,
    print_reports,
    print_result,
    read_recalls,
    start_jax,
    usable_step,
)

__all__ = ["add", "demo", "evaluate", "export", "fetch", "plots", "sample", "songs", "studio", "train"]


# songs


def songs(args: argparse.Namespace) -> None:
    """Lists the songs of a run."""
    known = interface.load(args.run).songs
    if args.json:
        print_json([dataclasses.asdict(song) for song in known])
        return
    table = Table(box=None)
    for head in ("song", "name", "length", "notes", "key", "recall"):
        table.add_column(head, justify="left" if head in ("name", "key") else "right", no_wrap=head != "name")
    for song in known:
        told = "-" if song.recall is None else f"{song.recall:.4f}"
        table.add_row(str(song.index), one_line(song.name), clock(song.seconds), f"{song.notes:,}", song.key, told)
    console().print(table)


# sample


def sample(args: argparse.Namespace) -> None:
    """Writes songs, and what lies between them."""
    _check_outputs(args)
    run = interface.load(args.run, partial(print, flush=True))
    run = dataclasses.replace(run, max_seconds=args.max_seconds)
    options = {name: getattr(args, name) for name in ("seconds", "key", "program", "path", "temperature", "seed")}
    if args.random:
        count, best = args.count or 1, args.best or args.count or 1
        paths = _out_paths(args.out, [f"{index:03d}-random" for index in range(best)])
        start_jax()
        pieces = run.randoms(count, best, **options)
    else:
        best, plans = 0, _plans(args, run.run)
        paths = _out_paths(args.out, [name for name, _ in plans])
        start_jax()
        pieces = run.play([plan for _, plan in plans], **options)
    written = [_write(args, path, piece) for path, piece in zip(paths, pieces, strict=False)]
    if len(written) < best:
        print(f"only {len(written)} of {best}: the run's songs are so few or so alike; another --seed gives others")
    if args.json:
        print_json(written)


def _check_outputs(args: argparse.Namespace) -> None:
    """Fails now, and not after the first piece, where pictures or sound cannot be made."""
    if args.png:
        interface.import_plots()
    if args.wav:
        from nemui_jax import audio

        audio.render(midi.Song(np.empty(0, midi.NOTE)), args.soundfont)
    elif args.soundfont:
        raise UsageError("--soundfont goes with --wav")


def _write(args: argparse.Namespace, path: Path, piece: Piece) -> dict[str, Any]:
    """Writes an output, and its sound and its picture where they are wanted; returns what --json says of it."""
    piece.write(path)
    remark = f"; {piece.remark}" if piece.remark else ""
    print_result(path, f"{path}: {clock(piece.seconds)}, {len(piece.notes):,} notes{remark}")
    others = [path.with_suffix(ending) for ending in [".wav"] * args.wav + [".png"] * args.png]
    for other in others:
        piece.write(other, args.soundfont)
        print_result(other)
    return {
        "path": str(path),
        "seconds": round(piece.seconds, 3),
        "notes": len(piece.notes),
        "kind": piece.kind,
        "seed": json.loads(piece.provenance.partition(" ")[2])["seed"],
        "remark": piece.remark,
        "also": [str(other) for other in others],
    }


def _plans(args: argparse.Namespace, run: Run) -> list[tuple[str, Plan]]:
    """What is to be played, each with the name of its file."""
    if args.best or (args.count and not args.perturb):
        raise UsageError("--count goes with --perturb and --random, --best with --random")

    def name(songs: Iterable[int | Path]) -> str:
        return "+".join(run.entries[song].name if isinstance(song, int) else song.stem for song in songs)

    if args.song is not None:
        songs = recipe.find_songs(args.song, run.entries)
        numbered = [(song, song if isinstance(song, int) else len(run.entries)) for song in songs]
        given = {"song": args.song}
        return [
            (f"{number:03d}-{name([song])}", Plan((song,), (1.0,), given, seed=args.seed)) for song, number in numbered
        ]
    if args.mix is not None:
        weights = recipe.find_weights(args.mix, run.entries)
        plan = Plan(tuple(weights), tuple(weights.values()), {"mix": args.mix}, seed=args.seed)
        return [(f"000-mix-{name(weights)}", plan)]
    if args.morph is not None:
        songs = recipe.find_songs(args.morph, run.entries)
        if len(songs) < 2:
            raise UsageError(f"--morph {args.morph}: name two songs at least, such as 0,3")
        return [(f"000-morph-{name(songs)}", Plan(tuple(songs), None, {"morph": args.morph}, seed=args.seed))]
    song, noise = recipe.find_noise(args.perturb, run.entries)
    plan = Plan((song,), (1.0,), {"perturb": args.perturb}, noise)
    return [
        (f"{i:03d}-perturb-{name([song])}", dataclasses.replace(plan, seed=args.seed + i))
        for i in range(args.count or 1)
    ]


def _out_paths(out: Path | None, names: Sequence[str]) -> list[Path]:
    """Where each output goes: `--out` itself for one output to a .mid, else files in that folder."""
    if out is not None and out.suffix.lower() in (".mid", ".midi"):
        if len(names) > 1:
            raise UsageError(f"--out {midi.escape(out)}: {len(names)} outputs need a folder, not one file")
        return [out]
    folder = out or Path("samples")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {midi.escape(folder)}: neither a folder nor a .mid file")
    return [folder / f"{re.sub(r'[^A-Za-z0-9._+-]+', '_', name)[:100]}.mid" for name in names]


# plots


def plots(args: argparse.Namespace) -> None:
    """Draws a run: how it was trained, where its songs lie, and the recall of the one that it knows worst."""
    known = interface.load(args.run, partial(print, flush=True))
    run, draw = known.run, interface.import_plots()
    start_jax()
    from nemui_jax import sample

    tracks, recalls = sample.tracks(run.corpus(), known.table, run.config), read_recalls(run)
    if not all(recalls):  # its training was stopped
        recalls = [metrics.recall(track.source, sample.recall(known.params, track, run.config)) for track in tracks]
    worst = min(range(len(tracks)), key=lambda song: (recalls[song]["onset"], recalls[song]["offset"]))
    track, song_of_row = tracks[worst], np.repeat(np.arange(len(tracks)), np.diff(run.row_starts))
    title = f"{track.name}: recall {recalls[worst]['onset']:.4f}, the least of {len(tracks)} songs"
    figures = {
        "map": draw.latent_map(np.asarray(known.table), song_of_row, [track.name for track in tracks]),
        "recall": draw.recall(track.source, sample.recall(known.params, track, run.config), title=title),
    }
    if log := [row for row in runs.metrics(run) if "loss" in row]:
        figures = {"curve": draw.curve(log)} | figures
    folder = args.out or run.path / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        draw.save(figure, folder / f"{name}.png")
        print_result(folder / f"{name}.png")


# evaluate


def evaluate(args: argparse.Namespace) -> None:
    """Measures a run: recall, mixes and their style, against the songs and against baselines."""
    run = runs.read(args.run)
    corpus = run.corpus()
    held_out = None
    if args.held_out:
        if not args.held_out.is_dir():
            raise UsageError(f"--held-out {midi.escape(args.held_out)}: no such folder")
        held_out, reports = dataset.load(args.held_out, run.config.roll, args.max_seconds)
        print_reports(reports)
    start_jax()
    from nemui_jax import checkpoint, evaluate, fit, sample

    step = usable_step(run)
    params, table = checkpoint.restore_model(run, step)
    tracks = sample.tracks(corpus, table, run.config)
    original = None if args.original is None else _original_player(runs.read(args.original), run)
    with bar("measuring", evaluate.PAIRS) as show:
        result = evaluate.evaluate(params, tracks, corpus.songs, run.config, original, show)
    if held_out is not None:
        known = [entry.sha256 for entry in run.entries]
        unseen = [index for index, entry in enumerate(held_out.entries) if entry.sha256 not in known]
        songs = [held_out.songs[index] for index in unseen]
        fitted = [
            fit.fit(params, song, held_out.entries[i], run.config)[0] for i, song in zip(unseen, songs, strict=True)
        ]
        result["held_out"] = evaluate.recalls(params, fitted, songs, run.config)
    _print_evaluation(result)
    if args.json:
        runs.write_text(args.json, json.dumps(result, indent=1))
        print_result(args.json, f"all figures are in {args.json}")


def _original_player(other: Run, run: Run) -> Any:
    """How a run made with the original preset mixes this run's songs."""
    from nemui_jax import checkpoint, evaluate, sample

    missing = [entry.name for entry in run.entries if entry.sha256 not in {known.sha256 for known in other.entries}]
    if missing:
        raise UsageError(f"--original {other.path}: does not know {missing[0]}; train both on the same folder")
    params, table = checkpoint.restore_model(other, usable_step(other))
    hashes = {entry.name: entry.sha256 for entry in run.entries}
    tracks = sample.tracks(other.corpus(), table, other.config)
    known = {entry.sha256: track for entry, track in zip(other.entries, tracks, strict=True)}

    def play(pair: Sequence[Any], weight: float, blocks: int) -> midi.Song:
        own_blocks = int(np.ceil(blocks * run.config.block_seconds / other.config.block_seconds))
        return evaluate.mix(params, [known[hashes[track.name]] for track in pair], weight, own_blocks, other.config)

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
        console().print(made)

    fields = ("onset", "offset", "velocity", "pedal")
    for part, title in (("recall", "recall: note F1"), ("held_out", "not learned, only fitted: note F1")):
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
    table("\nalong a path", ("", ""), list(result["path"].items()))
    heads = ("overlapping_area", "kl_divergence", "bits_a_note", "onset_density", "rest_ratio", "scale_consistency")
    rows = [[name, *(figures.get(head) for head in heads)] for name, figures in result["sets"].items()]
    table("\nsets of pieces against the songs", ("", *(head.replace("_", " ") for head in heads)), rows)


# export


def export(args: argparse.Namespace) -> None:
    """Writes a run's weights, rows and decoder for programs that do not have this package."""
    from nemui_jax import export

    run = interface.load(args.run, print)
    export.import_safetensors()
    start_jax()
    for path in export.write(run, args.out or run.run.path / "export"):
        print_result(path)


# fetch


def fetch(args: argparse.Namespace) -> None:
    """Brings songs: MAESTRO, or the built-in tunes."""
    from nemui_jax import fetch

    if args.what == "demo":
        from nemui_jax import tunes

        paths = tunes.write_all(args.out)
    else:
        print(fetch.notice(fetch.MAESTRO), flush=True)
        years = [int(year) for year in args.year.split(",")] if args.year else []
        composers = args.composer.split(",") if args.composer else []
        with bar("downloading", fetch.MAESTRO.bytes) as show:
            paths = fetch.maestro(args.out, years=years, composers=composers, progress=show)
    print_result(args.out, f"{len(paths)} files are in {args.out}. Next:\n  python run.py train --dir {args.out}")


# studio


def studio(args: argparse.Namespace) -> None:
    """Serves the page on which to play between songs, until interrupted."""
    run = runs.read(args.run)
    start_jax()
    try:
        from nemui_jax.studio.server import serve
    except ImportError as error:
        raise UsageError(f"the studio needs its extra: pip install 'nemui-jax[studio]' ({error})") from error
    serve(run.path, args.port, not args.no_browser)


# demo


def demo(args: argparse.Namespace) -> int:
    """Trains on the built-in tunes; writes recalls, mixes, a morph, variations and new songs."""
    from nemui_jax import tunes
    from nemui_jax.cli import parse

    folder = args.out / "tunes"
    tunes.write_all(folder)
    print(f"{len(tunes.TUNES)} built-in tunes are in {folder}")
    code = train(parse(["train", "--dir", str(folder), "--run", str(args.run), "--grid", "beats"]))
    for line in (
        f"--song all --out {args.out}/recall",
        f"--mix entertainer:0.5,prelude-in-c:0.5 --out {args.out}/mix-entertainer-prelude.mid",
        f"--mix greensleeves:0.4,gymnopedie:0.3,canon:0.3 --out {args.out}/mix-of-three.mid",
        f"--morph fur-elise,blue-danube --out {args.out}/morph-fur-elise-blue-danube.mid",
        f"--perturb ode-to-joy:0.3 --count 3 --out {args.out}/variations",
        f"--random --count 6 --best 2 --out {args.out}/new",
    ):
        if code == 0:
            print(f"\npython run.py sample {line} --run {args.run}")
            sample(parse(["sample", *line.split(), "--run", str(args.run)]))
    print_result(args.out, f"\nall of it is in {args.out}")
    return code
