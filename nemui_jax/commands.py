"""What each command does, and all printing.

JAX is imported inside the commands that compute, so that the others, and errors in files and recipes, answer at once.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from nemui_jax import config, dataset, metrics, midi, recipe, runs
from nemui_jax.dataset import Corpus, FileReport
from nemui_jax.runs import Run

SAVE_SECONDS = 30.0  # between checkpoints while training
LOGS = 10  # recalls measured on the way through a training
RANDOM_TRIES = 5  # times the count wanted that new songs are drawn, when some are near-copies
FIT_ENOUGH = 0.9  # recall from which a song with a fitted track is good enough to play with


class UsageError(ValueError):
    """Wrong usage or unusable input: one line, exit code 2."""


def train(args: argparse.Namespace) -> int:
    """Learns a folder, or goes on learning it."""
    name = midi.escape(args.dir)
    if not args.dir.is_dir():
        raise UsageError(f"--dir {name}: {'not a folder' if args.dir.exists() else 'no such folder'}")
    began = time.monotonic()
    settings = config.preset(args.preset)
    corpus, reports = dataset.load(args.dir, settings.roll, args.max_seconds)
    _print_reports(reports)
    if not corpus.entries:
        raise UsageError(f"--dir {name}: no song in {len(reports)} files; put .mid files there")
    with runs.lock(args.run):
        return _train(args, _with_rate(dataset.fit_pitches(settings, corpus), args.lr), corpus, began)


def _with_rate(settings: config.Config, rate: float | None) -> config.Config:
    """The configuration at another learning rate of weights; that of rows keeps its ratio to it."""
    if rate is None:
        return settings
    rows = settings.train.row_rate * rate / settings.train.weight_rate
    return dataclasses.replace(settings, train=dataclasses.replace(settings.train, weight_rate=rate, row_rate=rows))


def _print_reports(reports: Sequence[FileReport]) -> None:
    for report in reports:
        if report.reason:
            print(f"not used  {midi.escape(report.path)}: {report.reason}")
        elif report.remarks:
            print(f"used      {midi.escape(report.path)}: {'; '.join(report.remarks)}")
    used = [report.entry for report in reports if report.entry]
    seconds, notes = sum((entry.seconds for entry in used), 0.0), sum(entry.notes for entry in used)
    print(f"{len(used)} of {len(reports)} files used: {_clock(seconds)} of music, {notes:,} notes")


def _train(args: argparse.Namespace, settings: config.Config, corpus: Corpus, began: float) -> int:
    _start_jax()
    import jax

    from nemui_jax import checkpoint, train

    if args.fresh and runs.exists(args.run):
        print(f"{args.run}: what it held is now in {runs.set_aside(args.run)}")
    data, most = train.load(corpus, settings)
    key = jax.random.key(args.seed)
    if runs.exists(args.run):
        run = runs.read(args.run)
        _refuse_differences(run, settings, corpus, args)
    else:
        total = args.steps or train.default_steps(len(data.queries.step), settings.train)
        if args.minutes:
            state = train.init(jax.random.fold_in(key, 0), int(data.queries.next_row.max()) + 1, settings)
            left = args.minutes * 60 - (time.monotonic() - began)
            total = train.steps_in(left, state, data, jax.random.fold_in(key, 1), settings, most)
        run = runs.create(args.run, settings, args.seed, total, corpus)

    step, damaged = checkpoint.whole_step(run)
    if damaged:
        print(f"{run.path}: damaged checkpoint {', '.join(map(str, damaged))}; going back to {step}")
    state = train.init(key, run.rows, settings) if step is None else checkpoint.restore(run, step)
    if step is not None:
        print(f"goes on after step {step:,} of {run.total:,}")
    every = max(run.total // LOGS // train.CHUNK, 1) * train.CHUNK
    log, recalls, saved_at = _open_log(run, int(state.step)), [], time.monotonic()
    with log, _stop_softly() as stopped, _progress(run, int(state.step), len(data.queries.step)) as show:
        for reached, losses in train.loop(state, data, key, run.total, settings, most):
            if not train.finite(reached, losses):
                raise _diverged(run, settings, int(reached.step))
            state, done = reached, int(reached.step)
            row = {"step": done, "loss": float(losses.mean()), "seconds": round(time.monotonic() - began, 3)}
            if done % every == 0 or done == run.total:
                recalls = _recalls(run, corpus, state.params, state.latents, few=done < run.total)
                row["recall"] = float(np.mean([scores["onset"] for scores in recalls if scores]))
            log.write(json.dumps(row) + "\n")
            show(done, row.get("recall"))
            if stopped or done == run.total or time.monotonic() - saved_at > SAVE_SECONDS:
                log.flush()
                checkpoint.save(run, state)
                saved_at = time.monotonic()
            if stopped:
                break
    if stopped and int(state.step) < run.total:
        print(f"stopped after step {int(state.step):,}, which is saved; the same command goes on from there")
        return 128 + stopped[0]
    if not recalls and not any(_read_recalls(run)):  # stopped between the last checkpoint and this
        recalls = _recalls(run, corpus, state.params, state.latents)
    if recalls:
        runs.write_text(run.path / "recall.json", json.dumps(recalls, indent=1))
    _print_recalls(run)
    print(f"{_clock(time.monotonic() - began)} in all; the run is in {args.run}. Next:")
    for line in ("sample --song 0", "sample --mix 0:0.5,1:0.5" if len(corpus.entries) > 1 else "", "songs"):
        if line:
            print(f"  python run.py {line}" + (f" --run {args.run}" if args.run != Path("runs/default") else ""))
    return 0


class Failed(RuntimeError):
    """What went wrong while running, in one line: exit code 1."""


def _diverged(run: Run, settings: config.Config, step: int) -> Failed:
    from nemui_jax import checkpoint

    saved, _ = checkpoint.whole_step(run)
    kept = f"the newest checkpoint is that of step {saved}" if saved else "there is no checkpoint yet"
    lower = settings.train.weight_rate / 10
    return Failed(
        f"training diverged by step {step}; {kept}. Train anew at a lower rate, such as --lr {lower:.1g} --fresh"
    )


def _refuse_differences(run: Run, settings: config.Config, corpus: Corpus, args: argparse.Namespace) -> None:
    changed = config.differences(run.config, settings)
    if run.seed != args.seed:
        changed.append(f"seed: {run.seed}, now {args.seed}")
    if args.steps and run.total != args.steps:
        changed.append(f"steps: {run.total}, now {args.steps}")
    songs = runs.song_differences(run.entries, corpus.entries)
    if songs:
        changed.append(f"songs: {songs}")
    if changed:
        raise UsageError(f"{args.run} was made otherwise ({'; '.join(changed)}); use --fresh or another --run")


def _open_log(run: Run, step: int) -> Any:
    """metrics.jsonl, cut back to a step, to be written on."""
    kept = [json.dumps(row) + "\n" for row in runs.metrics(run) if row["step"] <= step]
    runs.write_text(run.path / "metrics.jsonl", "".join(kept))
    return open(run.path / "metrics.jsonl", "a")


@contextlib.contextmanager
def _stop_softly() -> Iterator[list[int]]:
    """A list that stays empty until SIGINT or SIGTERM, then holds its number: stop when it suits, soon."""
    got: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: got.append(number)) for number in numbers]
    try:
        yield got
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def _progress(run: Run, start: int, blocks: int) -> Iterator[Any]:
    """A line that tells step, rate, recall so far and time left: a bar on a terminal, else a line now and then."""
    trained = run.config.train
    steps = trained.batch_windows * trained.window_blocks * run.config.model.block_steps  # of music, in one of ours
    began, last, known = time.monotonic(), 0.0, "-"
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("learning", total=run.total, completed=start, told="compiling")

        def show(done: int, recall: float | None) -> None:
            nonlocal last, known
            seconds = time.monotonic() - began
            known = known if recall is None else f"{recall:.3f}"
            told = f"{done:,}/{run.total:,}  {(done - start) * steps / seconds:,.0f} steps of music/s  recall {known}"
            bar.update(task, completed=done, told=told)
            if not console.is_terminal and (seconds - last > 5 or recall is not None):
                last = seconds
                left = seconds * (run.total - done) / (done - start)
                print(f"step {told}  {_clock(left)} left", flush=True)

        yield show


def _recalls(run: Run, corpus: Corpus, params: Any, table: Any, few: bool = False) -> list[dict[str, float]]:
    """How well songs are known: note F1 and the like against their files; `few`: four songs stand for all."""
    from nemui_jax import sample

    tracks = sample.tracks(run, table)
    chosen = set(np.linspace(0, len(tracks) - 1, 4).astype(int)) if few else range(len(tracks))
    found = []
    for index, (track, source) in enumerate(zip(tracks, corpus.songs, strict=True)):
        found.append(metrics.recall(source, sample.recall(params, track, run.config)) if index in chosen else {})
    return found


def _read_recalls(run: Run) -> list[dict[str, float]]:
    try:
        found = json.loads((run.path / "recall.json").read_text())
        return found if len(found) == len(run.entries) else [{} for _ in run.entries]
    except (OSError, ValueError):
        return [{} for _ in run.entries]


def _print_recalls(run: Run) -> None:
    recalls = _read_recalls(run)
    table = Table(title="recall, against the files: note F1", title_justify="left", box=None)
    for head in ("song", "name", "onset", "with end", "and velocity", "pedal", "onset error"):
        table.add_column(head, justify="left" if head == "name" else "right")
    for index, (entry, known) in enumerate(zip(run.entries, recalls, strict=True)):
        if known:
            numbers = [f"{known[name]:.4f}" for name in ("onset", "offset", "velocity", "pedal")]
            table.add_row(str(index), entry.name, *numbers, _milliseconds(known["onset_error_seconds"]))
    if any(recalls):
        means = [
            np.mean([known[name] for known in recalls if known]) for name in ("onset", "offset", "velocity", "pedal")
        ]
        table.add_row("", "mean", *(f"{mean:.4f}" for mean in means), "")
        _console().print(table)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


# songs


def songs(args: argparse.Namespace) -> None:
    """Lists the songs of a run."""
    run = runs.read(args.run)
    fields = ("name", "path", "seconds", "notes", "key")
    known = [recall.get("onset") for recall in _read_recalls(run)]
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
        table.add_row(str(index), entry.name, _clock(entry.seconds), f"{entry.notes:,}", entry.key, told)
    _console().print(table)


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
    print(f"{path}: {_clock(made.song.seconds)}, {len(made.song.notes):,} notes{made.remark}", flush=True)
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
    _start_jax()
    from nemui_jax import latents, sample

    step = _usable_step(run)
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


def _usable_step(run: Run) -> int:
    from nemui_jax import checkpoint

    step, damaged = checkpoint.whole_step(run)
    if step is None:
        raise UsageError(f"{run.path}: nothing learned yet; train it first")
    if damaged:
        print(f"{run.path}: damaged checkpoint {', '.join(map(str, damaged))}; using {step}")
    return step


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
        entry, song = _load_song(path, run)
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


def _load_song(path: Path, run: Run) -> tuple[dataset.SongEntry, midi.Song]:
    try:
        return dataset.load_file(path, run.config.roll)
    except midi.MidiError as error:
        raise UsageError(f"{midi.escape(path)}: {error}") from error


def _sample_random(args: argparse.Namespace, run: Run, shift: int | None) -> None:
    count, best = args.count or 1, args.best or args.count or 1
    if best > count:
        raise UsageError(f"--best {best} of --count {count}: the best are fewer than all")
    paths = _out_paths(args.out, [f"{index:03d}-random" for index in range(best)])
    _start_jax()
    from nemui_jax import prior, sample

    step = _usable_step(run)
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
    if len(ranked) < best:
        raise Failed(f"only {len(ranked)} of {best} new songs: the run's are so few or so alike; try another --seed")


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
        _print_reports(reports)
    _start_jax()
    from nemui_jax import checkpoint, evaluate, fit, sample

    step = _usable_step(run)
    params, table = checkpoint.restore_model(run, step)
    tracks = sample.tracks(run, table)
    original = None if args.original is None else _original_player(runs.read(args.original), run)
    with _bar("measuring", evaluate.PAIRS) as show:
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
    params, table = checkpoint.restore_model(other, _usable_step(other))
    known = {track.name: track for track in sample.tracks(other, table)}
    seconds = _block_seconds(run.config)

    def play(pair: Sequence[Any], weight: float, blocks: int) -> midi.Song:
        own_blocks = int(np.ceil(blocks * seconds / _block_seconds(other.config)))
        return evaluate.mix(params, [known[track.name] for track in pair], weight, own_blocks, other.config)

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
        _console().print(made)

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
    names = [name for name in names if name not in ("evenness", "ends", "morph_ends")]
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
        with _bar("downloading", fetch.MAESTRO.bytes) as show:
            paths = fetch.maestro(args.out, years=years, composers=composers, progress=show)
    print(f"{len(paths)} files are in {args.out}. Next:\n  python run.py train --dir {args.out}")


# add


def add(args: argparse.Namespace) -> None:
    """Teaches a finished run one more song."""
    run = runs.read(args.run)
    entry, song = _load_song(args.file, run)
    for index, other in enumerate(run.entries):
        if other.sha256 == entry.sha256:
            raise UsageError(f"--file {midi.escape(args.file)}: the run knows it already, as song {index} {other.name}")
    with runs.lock(args.run):
        _add(args, run, entry, song)


def _add(args: argparse.Namespace, run: Run, entry: dataset.SongEntry, song: midi.Song) -> None:
    _start_jax()
    from nemui_jax import checkpoint, fit

    began, step = time.monotonic(), _usable_step(run)
    if step < run.total:
        raise UsageError(f"{args.run}: trained to step {step:,} of {run.total:,}; finish its training first")
    before = _read_recalls(run)
    known = fit.Taught(checkpoint.restore(run, step), run.corpus(), run.config)
    with _bar("learning", fit.FIT_STEPS + fit.LESSON_STEPS) as show:
        known = fit.teach(known, entry, song, args.seed, show)
    grown = dataclasses.replace(run, config=known.config, total=int(known.state.step), entries=known.corpus.entries)
    dataset.save_song(run.path / "songs" / f"{entry.sha256}.npz", song, entry.sha256)
    recalls = _recalls(grown, known.corpus, known.state.params, known.state.latents)
    checkpoint.save(grown, known.state)
    runs.describe(grown)
    runs.write_text(run.path / "recall.json", json.dumps(recalls, indent=1))
    worst = max((old.get("onset", 0) - new["onset"] for old, new in zip(before, recalls, strict=False)), default=0)
    print(f"song {len(run.entries)} {entry.name}: taught, recall {recalls[-1]['onset']:.4f}; ", end="")
    print(f"no old song lost more than {max(worst, 0):.4f}; {_clock(time.monotonic() - began)}")
    print(f"next: python run.py sample --song {len(run.entries)} --run {args.run}")


@contextlib.contextmanager
def _bar(label: str, total: int) -> Iterator[Any]:
    """A progress bar on a terminal; nothing elsewhere."""
    console = Console()
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done, of: bar.update(task, completed=done, total=of)


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
        f"--random --count 10 --best 3 --out {args.out}/new",
    ):
        if code == 0:
            print(f"\npython run.py sample {line} --run {args.run}")
            sample(parse(["sample", *line.split(), "--run", str(args.run)]))
    print(f"\nall of it is in {args.out}")
    return code


# shared


def _start_jax() -> None:
    """Settings that JAX reads when it is imported: programs compiled once are kept in the user's cache."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(dataset.cache_folder() / "programs"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def _clock(seconds: float) -> str:
    """Seconds as 59.9 s, 12:34 or 1:23:45."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
