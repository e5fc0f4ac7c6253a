"""What each command does; those that learn are in `lessons`.

JAX is imported inside the commands that compute, so that the others, and errors in files and recipes, answer at once.
"""

import argparse
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from nemui_jax import config, dataset, metrics, midi, recipe, runs
from nemui_jax.lessons import add, train
from nemui_jax.runs import Run
from nemui_jax.terminal import (
    Failed,
    UsageError,
    bar,
    clock,
    console,
    load_song,
    print_reports,
    read_recalls,
    start_jax,
    usable_step,
)

__all__ = ["add", "demo", "evaluate", "fetch", "sample", "songs", "studio", "train"]
RANDOM_TRIES = 10  # times the count wanted that new songs are drawn, when some are near-copies
FIT_ENOUGH = 0.9  # recall from which a song with a fitted track is good enough to play with


# songs


def songs(args: argparse.Namespace) -> None:
    """Lists the songs of a run."""
    run = runs.read(args.run)
    fields = ("name", "path", "seconds", "notes", "key")
    known = [recall.get("onset") for recall in read_recalls(run)]
    if args.json:
        rows = [
            {"index": index, **{field: getattr(entry, field) for field in fields}, "recall": recall}
            for index, (entry, recall) in enumerate(zip(run.entries, known, strict=True))
        ]
        print(json.dumps(rows, indent=1))
        return
    table = Table(box=None)
    for head in ("song", "name", "length", "notes", "key", "recall"):
        table.add_column(head, justify="left" if head in ("name", "key") else "right")
    for index, (entry, recall) in enumerate(zip(run.entries, known, strict=True)):
        told = "-" if recall is None else f"{recall:.4f}"
        table.add_row(str(index), entry.name, clock(entry.seconds), f"{entry.notes:,}", entry.key, told)
    console().print(table)


# sample


@dataclass(frozen=True)
class _Plan:
    """One output: whose tracks, with which weights, and where it goes."""

    songs: tuple[int | Path, ...]
    weights: tuple[float, ...] | None  # None: a morph
    label: str
    noise: float = 0.0
    seed: int = 0


def sample(args: argparse.Namespace) -> None:
    """Writes songs, and what lies between them."""
    run = runs.read(args.run)
    shift = None if args.key is None else recipe.find_shift(args.key, run.entries)
    if args.random:
        return _sample_random(args, run, shift)
    plans = _plans(args, run)
    paths = _out_paths(args.out, [plan.label for plan in plans])
    for path, made in zip(paths, _play(args, run, plans, shift), strict=True):
        _write(args, path, made)


@dataclass(frozen=True)
class _Made:
    """One output, with the songs that it was made of."""

    song: midi.Song
    parents: tuple[midi.Song, ...]
    kind: str  # "recall", "mix", "morph" or "new"
    provenance: str
    remark: str = ""


def _write(args: argparse.Namespace, path: Path, made: _Made) -> None:
    """Writes an output, and its sound and its picture where they are wanted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    midi.write(made.song, path, made.provenance)
    print(f"{path}: {clock(made.song.seconds)}, {len(made.song.notes):,} notes{made.remark}", flush=True)
    if args.wav:
        from nemui_jax import audio

        audio.write_wav(path.with_suffix(".wav"), audio.render(made.song, args.soundfont), 44100)
        print(path.with_suffix(".wav"))
    if args.png:
        plots = _import_plots()
        if made.kind == "recall":
            figure = plots.recall(made.parents[0], made.song, title=made.song.name)
        elif made.kind == "morph":
            stops = np.linspace(0, made.song.seconds, len(made.parents)).tolist()
            figure = plots.morph(made.song, [parent.name for parent in made.parents], stops)
        else:
            figure = plots.roll(made.song, made.parents, title=path.stem)
        plots.save(figure, path.with_suffix(".png"))
        print(path.with_suffix(".png"))


def _import_plots() -> Any:
    try:
        from nemui_jax import plots
    except ImportError as error:
        raise UsageError(f"pictures need the extra plots: pip install 'nemui-jax[plots]' ({error})") from error
    return plots


def _plans(args: argparse.Namespace, run: Run) -> list[_Plan]:
    if args.best or (args.count and not args.perturb):
        raise UsageError("--count goes with --perturb and --random, --best with --random")

    def name(songs: Iterable[int | Path]) -> str:
        return "+".join(run.entries[song].name if isinstance(song, int) else song.stem for song in songs)

    if args.song is not None:
        songs = recipe.find_songs(args.song, run.entries)
        numbered = [(song, song if isinstance(song, int) else len(run.entries)) for song in songs]
        return [_Plan((song,), (1.0,), f"{number:03d}-{name([song])}", seed=args.seed) for song, number in numbered]
    if args.mix is not None:
        weights = recipe.find_weights(args.mix, run.entries)
        if any(not 0 <= weight <= 1 for weight in weights.values()):
            print("weights below 0 or above 1 go beyond the songs: expect the unexpected")
        return [_Plan(tuple(weights), tuple(weights.values()), f"000-mix-{name(weights)}", seed=args.seed)]
    if args.morph is not None:
        songs = recipe.find_songs(args.morph, run.entries)
        if len(songs) < 2:
            raise UsageError(f"--morph {args.morph}: name two songs at least, such as 0,3")
        return [_Plan(tuple(songs), None, f"000-morph-{name(songs)}", seed=args.seed)]
    song, noise = recipe.find_noise(args.perturb, run.entries)
    count = args.count or 1
    return [_Plan((song,), (1.0,), f"{i:03d}-perturb-{name([song])}", noise, args.seed + i) for i in range(count)]


def _play(args: argparse.Namespace, run: Run, plans: Sequence[_Plan], shift: int | None) -> Iterator[_Made]:
    """What the plans ask for."""
    start_jax()
    from nemui_jax import latents, sample

    step = usable_step(run)
    files = list(dict.fromkeys(song for plan in plans for song in plan.songs if isinstance(song, Path)))
    settings, params, tracks, unit = _known_tracks(run, step, files, args.seed)
    for plan in plans:
        used = [tracks[song] for song in plan.songs]
        lengths = [latents.count_queries(track.steps, settings.model) for track in used]
        blocks = lengths[-1] if plan.weights is None else min(lengths)
        if args.seconds:
            blocks = max(int(np.ceil(args.seconds / _block_seconds(settings))), 1)
        weights = (
            sample.morph_weights(len(used), blocks)
            if plan.weights is None
            else sample.mix_weights(plan.weights, blocks)
        )
        song = sample.play(
            params,
            used,
            weights,
            settings,
            shift=shift,
            program=args.program,
            noise=plan.noise,
            unit=unit,
            temperature=args.temperature,
            seed=plan.seed,
        )
        song = cut(song, args.seconds) if args.seconds else song
        kind = "morph" if plan.weights is None else "mix" if len(used) > 1 or plan.noise else "recall"
        told = [f" {weight:.2f}" for weight in plan.weights] if plan.weights and len(used) > 1 else [""] * len(used)
        parents = tuple(
            dataclasses.replace(cut(track.source, song.seconds), name=f"{track.name}{weight}")
            for track, weight in zip(used, told, strict=True)
        )
        yield _Made(song, parents, kind, _provenance(args, run, step, plan.seed))


def _known_tracks(
    run: Run, step: int, files: Sequence[Path], seed: int
) -> tuple[config.Config, Any, dict[int | Path, Any], Any]:
    """Configuration, weights, tracks of the run's songs and of files, and the unit of noise.

    A file's track is fitted; where that recalls too little the song is taught, for this output alone.
    """
    from nemui_jax import checkpoint, fit, latents, sample

    if not files:
        params, table = checkpoint.restore_model(run, step)
        return run.config, params, dict(enumerate(sample.tracks(run, table))), latents.spread(np.asarray(table))
    known, found = fit.Taught(checkpoint.restore(run, step), run.corpus(), run.config), {}
    for path in files:
        entry, song = load_song(path, run)
        hashes = [other.sha256 for other in known.corpus.entries]
        if entry.sha256 in hashes:
            found[path] = hashes.index(entry.sha256)
            continue
        print(f"{midi.escape(path)}: not in the run; fitting it", flush=True)
        track, recall = fit.fit(known.state.params, song, entry, known.config, seed)
        if recall >= FIT_ENOUGH:
            print(f"{midi.escape(path)}: fitted to the decoder as it is; recall {recall:.3f}")
            found[path] = track
        else:
            print(f"{midi.escape(path)}: fitted, recall only {recall:.3f}; teaching it for this output", flush=True)
            found[path] = len(hashes)
            known = fit.teach(known, entry, song, seed)
            print(f"to keep it: python run.py add --file {midi.escape(path)} --run {run.path}")
    table = np.asarray(known.state.latents)
    whole = fit.tracks(known)
    tracks: dict[int | Path, Any] = dict(enumerate(whole))
    for path, track in found.items():
        tracks[path] = whole[track] if isinstance(track, int) else track
        recall = metrics.recall(tracks[path].source, sample.recall(known.state.params, tracks[path], known.config))[
            "onset"
        ]
        print(f"{midi.escape(path)}: known with recall {recall:.3f}")
    return known.config, known.state.params, tracks, latents.spread(table)


def _sample_random(args: argparse.Namespace, run: Run, shift: int | None) -> None:
    count, best = args.count or 1, args.best or args.count or 1
    if best > count:
        raise UsageError(f"--best {best} of --count {count}: the best are fewer than all")
    paths = _out_paths(args.out, [f"{index:03d}-random" for index in range(best)])
    start_jax()
    from nemui_jax import prior, sample

    step = usable_step(run)
    settings, params, known, _ = _known_tracks(run, step, (), args.seed)
    tracks = list(known.values())
    blocks = max(int(np.ceil((args.seconds or 60.0) / _block_seconds(settings))), 1)
    sources = [track.source.notes for track in tracks]
    made, copies = [], 0
    for seed in range(args.seed, args.seed + RANDOM_TRIES * count):
        used, weights = prior.draw(tracks, settings, blocks, seed)
        song = sample.play(
            params, used, weights, settings, shift=shift, program=args.program, temperature=args.temperature, seed=seed
        )
        song = dataclasses.replace(cut(song, args.seconds) if args.seconds else song, name=f"random {seed}")
        near = prior.too_close(song.notes, sources)
        copies += near.too_close
        if not near.too_close:
            made.append((song, seed, near))
        if len(made) == count:
            break
    if copies:
        print(f"{copies} drawn and left out, too like a song of the run")
    ranked = prior.rank([song.notes for song, _, _ in made], sources)[:best] if made else []
    for path, (song, seed, near) in zip(paths, [made[index] for index in ranked], strict=False):
        remark = f"; nearest song {near.song} {tracks[near.song].name}, likeness {near.likeness:.2f}"
        _write(args, path, _Made(song, (), "new", _provenance(args, run, step, seed), remark))
    if not ranked:
        raise Failed(
            "no new song: all that were drawn are too like the run's, which are few or alike; try another --seed"
        )
    if len(ranked) < best:
        print(f"only {len(ranked)} of {best}: the run's songs are so few or so alike; another --seed gives others")


def _block_seconds(settings: config.Config) -> float:
    return settings.model.block_steps * settings.roll.step_seconds


def cut(song: midi.Song, seconds: float) -> midi.Song:
    """The first seconds of a song."""
    notes = song.notes[song.notes["onset"] < seconds]
    notes["end"] = np.minimum(notes["end"], seconds)
    parts = {name: getattr(song, name) for name in ("pedal", "tempos", "meters")}
    return dataclasses.replace(
        song, notes=notes, **{name: part[part["time"] < seconds] for name, part in parts.items()}
    )


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


def _provenance(args: argparse.Namespace, run: Run, step: int, seed: int) -> str:
    """What made an output, so that it can be made again."""
    left_out = ("command", "run", "out", "seed", "count", "best", "wav", "png", "soundfont")
    used = {name: value for name, value in vars(args).items() if name not in left_out and value}
    return "nemui_jax " + json.dumps(used | {"seed": seed, "run": run.fingerprint(step)}, default=str)


# evaluate


def evaluate(args: argparse.Namespace) -> None:
    """Measures a run: recall, mixes and their style, against the songs and against baselines."""
    run = runs.read(args.run)
    corpus = run.corpus()
    held_out = None
    if args.held_out:
        if not args.held_out.is_dir():
            raise UsageError(f"--held-out {midi.escape(args.held_out)}: no such folder")
        held_out, reports = dataset.load(args.held_out, run.config.roll)
        print_reports(reports)
    start_jax()
    from nemui_jax import checkpoint, evaluate, fit, sample

    step = usable_step(run)
    params, table = checkpoint.restore_model(run, step)
    tracks = sample.tracks(run, table)
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
        print(f"all figures are in {args.json}")


def _original_player(other: Run, run: Run) -> Any:
    """How a run made with the original preset mixes this run's songs."""
    from nemui_jax import checkpoint, evaluate, sample

    missing = [entry.name for entry in run.entries if entry.sha256 not in {known.sha256 for known in other.entries}]
    if missing:
        raise UsageError(f"--original {other.path}: does not know {missing[0]}; train both on the same folder")
    params, table = checkpoint.restore_model(other, usable_step(other))
    hashes = {entry.name: entry.sha256 for entry in run.entries}
    known = {entry.sha256: track for entry, track in zip(other.entries, sample.tracks(other, table), strict=True)}
    seconds = _block_seconds(run.config)

    def play(pair: Sequence[Any], weight: float, blocks: int) -> midi.Song:
        own_blocks = int(np.ceil(blocks * seconds / _block_seconds(other.config)))
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
    print(f"{len(paths)} files are in {args.out}. Next:\n  python run.py train --dir {args.out}")


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
    code = train(parse(["train", "--dir", str(folder), "--run", str(args.run)]))
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
    print(f"\nall of it is in {args.out}")
    return code
