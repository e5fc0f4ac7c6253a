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
from collections.abc import Iterator, Mapping, Sequence
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
        return _train(args, dataset.fit_pitches(settings, corpus), corpus, began)


def _print_reports(reports: Sequence[FileReport]) -> None:
    for report in reports:
        if report.reason:
            print(f"not used  {midi.escape(report.path)}: {report.reason}")
        elif report.remarks:
            print(f"used      {midi.escape(report.path)}: {'; '.join(report.remarks)}")
    used = [report.entry for report in reports if report.entry]
    seconds, notes = sum(entry.seconds for entry in used), sum(entry.notes for entry in used)
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
            state = train.init(key, int(data.queries.next_row.max()) + 1, settings)
            left = args.minutes * 60 - (time.monotonic() - began)
            total = train.steps_in(left, state, data, key, settings, most)
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
    if recalls:
        runs.write_text(run.path / "recall.json", json.dumps(recalls, indent=1))
    _print_recalls(run)
    print(f"{_clock(time.monotonic() - began)} in all; the run is in {args.run}. Next:")
    for line in ("sample --song 0", "sample --mix 0:0.5,1:0.5" if len(corpus.entries) > 1 else "", "songs"):
        if line:
            print(f"  python run.py {line}" + (f" --run {args.run}" if args.run != Path("runs/default") else ""))
    return 0


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
        found.append(_known(source, sample.recall(params, track, run.config)) if index in chosen else {})
    return found


def _known(source: midi.Song, played: midi.Song) -> dict[str, float]:
    scores = metrics.note_scores(source.notes, played.notes)
    error = scores.onset_error_seconds
    return {
        "onset": scores.onset.f1,
        "offset": scores.offset.f1,
        "velocity": scores.velocity.f1,
        "pedal": metrics.pedal_agreement(source.pedal, played.pedal, source.seconds),
        "onset_error_seconds": error if np.isfinite(error) else 1.0,
    }


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
            table.add_row(str(index), entry.name, *numbers, f"{known['onset_error_seconds'] * 1000:.1f} ms")
    if any(recalls):
        means = [
            np.mean([known[name] for known in recalls if known]) for name in ("onset", "offset", "velocity", "pedal")
        ]
        table.add_row("", "mean", *(f"{mean:.4f}" for mean in means), "")
        _console().print(table)


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


def sample(args: argparse.Namespace) -> None:
    """Writes songs, and what lies between them."""
    run = runs.read(args.run)
    shift = None if args.key is None else recipe.find_shift(args.key, run.entries)
    if args.song:
        wanted = [({song: 1.0}, None) for song in recipe.find_songs(args.song, run.entries)]
        names = [_names(run, weights) for weights, _ in wanted]
    else:
        wanted = [(recipe.find_weights(args.mix, run.entries), None)]
        names = [_names(run, wanted[0][0])]
    numbers = [next(iter(weights)) for weights, _ in wanted] if args.song else range(len(wanted))
    paths = _out_paths(args.out, [f"{number:03d}-{name}" for number, name in zip(numbers, names, strict=True)])
    _start_jax()
    from nemui_jax import checkpoint, latents, sample

    step, damaged = checkpoint.whole_step(run)
    if step is None:
        raise UsageError(f"{args.run}: nothing learned yet; train it first")
    if damaged:
        print(f"{run.path}: damaged checkpoint {', '.join(map(str, damaged))}; using {step}")
    params, table = checkpoint.restore_model(run, step)
    tracks = sample.tracks(run, table)
    block_seconds = run.config.model.block_steps * run.config.roll.step_seconds
    for (weights, _), path in zip(wanted, paths, strict=True):
        used = [tracks[song] for song in weights]
        blocks = min(latents.count_queries(track.steps, run.config.model) for track in used)
        if args.seconds:
            blocks = max(int(np.ceil(args.seconds / block_seconds)), 1)
        constant = np.repeat(np.array(list(weights.values()))[:, None], blocks, 1)
        song = sample.play(
            params,
            used,
            constant,
            run.config,
            shift=shift,
            program=args.program,
            temperature=args.temperature,
            seed=args.seed,
        )
        if args.seconds:
            song = cut(song, args.seconds)
        midi.write(song, path, _provenance(args, run, step))
        print(f"{path}: {_clock(song.seconds)}, {len(song.notes):,} notes")


def cut(song: midi.Song, seconds: float) -> midi.Song:
    """The first seconds of a song."""
    notes = song.notes[song.notes["onset"] < seconds]
    notes["end"] = np.minimum(notes["end"], seconds)
    parts = {name: getattr(song, name) for name in ("pedal", "tempos", "meters")}
    return dataclasses.replace(
        song, notes=notes, **{name: part[part["time"] < seconds] for name, part in parts.items()}
    )


def _names(run: Run, weights: Mapping[int | Path, float]) -> str:
    return "+".join(run.entries[song].name if isinstance(song, int) else song.stem for song in weights)


def _out_paths(out: Path | None, names: Sequence[str]) -> list[Path]:
    """Where each output goes: `--out` itself for one output to a .mid, else files in that folder, which is made."""
    if out is not None and out.suffix.lower() in (".mid", ".midi"):
        if len(names) > 1:
            raise UsageError(f"--out {midi.escape(out)}: {len(names)} outputs need a folder, not one file")
        if not out.absolute().parent.is_dir():
            raise UsageError(f"--out {midi.escape(out)}: no folder {midi.escape(out.absolute().parent)}")
        return [out]
    folder = out or Path("samples")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {midi.escape(folder)}: neither a folder nor a .mid file")
    folder.mkdir(parents=True, exist_ok=True)
    return [folder / f"{re.sub(r'[^A-Za-z0-9._+-]+', '_', name)[:100]}.mid" for name in names]


def _provenance(args: argparse.Namespace, run: Run, step: int) -> str:
    """What made an output, so that it can be made again."""
    used = {name: value for name, value in vars(args).items() if name not in ("command", "run", "out") and value}
    return "nemui_jax " + json.dumps(used | {"run": run.fingerprint(step)}, default=str)


# demo


def demo(args: argparse.Namespace) -> int:
    """Trains on the built-in tunes; writes recalls and mixes."""
    from nemui_jax import tunes

    folder = args.out / "tunes"
    tunes.write_all(folder)
    shared = {"run": args.run, "seed": 0}
    code = train(
        argparse.Namespace(
            **shared, dir=folder, steps=None, minutes=None, preset="default", fresh=False, max_seconds=3600.0
        )
    )
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
