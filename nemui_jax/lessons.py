"""The commands that learn: `train` and `add`.

JAX is imported where it is first needed, so that errors in files and flags answer at once.
"""

import argparse
import contextlib
import dataclasses
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from nemui_jax import config, dataset, metrics, midi, runs
from nemui_jax.dataset import Corpus
from nemui_jax.runs import Run
from nemui_jax.terminal import (
    Failed,
    UsageError,
    bar,
    clock,
    console,
    load_song,
    milliseconds,
    print_reports,
    read_recalls,
    start_jax,
    usable_step,
)

SAVE_SECONDS = 30.0  # between checkpoints while training
LOGS = 10  # recalls measured on the way through a training


def train(args: argparse.Namespace) -> int:
    """Learns a folder, or goes on learning it."""
    name = midi.escape(args.dir)
    if not args.dir.is_dir():
        raise UsageError(f"--dir {name}: {'not a folder' if args.dir.exists() else 'no such folder'}")
    began = time.monotonic()
    settings = config.preset(args.preset)
    corpus, reports = dataset.load(args.dir, settings.roll, args.max_seconds)
    print_reports(reports)
    if not corpus.entries:
        raise UsageError(f"--dir {name}: no song in {len(reports)} files; put .mid files there")
    with runs.lock(args.run):
        settings = dataset.fit_rows(dataset.fit_pitches(settings, corpus), corpus)
        return _train(args, _with_rate(settings, args.lr), corpus, began)


def _with_rate(settings: config.Config, rate: float | None) -> config.Config:
    """The configuration at another learning rate of weights; that of rows keeps its ratio to it."""
    if rate is None:
        return settings
    rows = settings.train.row_rate * rate / settings.train.weight_rate
    return dataclasses.replace(settings, train=dataclasses.replace(settings.train, weight_rate=rate, row_rate=rows))


def _train(args: argparse.Namespace, settings: config.Config, corpus: Corpus, began: float) -> int:
    start_jax()
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
    if not recalls and not any(read_recalls(run)):  # stopped between the last checkpoint and this
        recalls = _recalls(run, corpus, state.params, state.latents)
    if recalls:
        runs.write_text(run.path / "recall.json", json.dumps(recalls, indent=1))
    _print_recalls(run)
    print(f"{clock(time.monotonic() - began)} in all; the run is in {args.run}. Next:")
    for line in ("sample --song 0", "sample --mix 0:0.5,1:0.5" if len(corpus.entries) > 1 else "", "songs"):
        if line:
            print(f"  python run.py {line}" + (f" --run {args.run}" if args.run != Path("runs/default") else ""))
    return 0


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
                print(f"step {told}  {clock(left)} left", flush=True)

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


def _print_recalls(run: Run) -> None:
    recalls = read_recalls(run)
    table = Table(title="recall, against the files: note F1", title_justify="left", box=None)
    for head in ("song", "name", "onset", "with end", "and velocity", "pedal", "onset error"):
        table.add_column(head, justify="left" if head == "name" else "right")
    for index, (entry, known) in enumerate(zip(run.entries, recalls, strict=True)):
        if known:
            numbers = [f"{known[name]:.4f}" for name in ("onset", "offset", "velocity", "pedal")]
            table.add_row(str(index), entry.name, *numbers, milliseconds(known["onset_error_seconds"]))
    if any(recalls):
        means = [
            np.mean([known[name] for known in recalls if known]) for name in ("onset", "offset", "velocity", "pedal")
        ]
        table.add_row("", "mean", *(f"{mean:.4f}" for mean in means), "")
        console().print(table)


def add(args: argparse.Namespace) -> None:
    """Teaches a finished run one more song."""
    run = runs.read(args.run)
    entry, song = load_song(args.file, run)
    for index, other in enumerate(run.entries):
        if other.sha256 == entry.sha256:
            raise UsageError(f"--file {midi.escape(args.file)}: the run knows it already, as song {index} {other.name}")
    with runs.lock(args.run):
        _add(args, run, entry, song)


def _add(args: argparse.Namespace, run: Run, entry: dataset.SongEntry, song: midi.Song) -> None:
    start_jax()
    from nemui_jax import checkpoint, fit

    began, step = time.monotonic(), usable_step(run)
    if step < run.total:
        raise UsageError(f"{args.run}: trained to step {step:,} of {run.total:,}; finish its training first")
    known = fit.Taught(checkpoint.restore(run, step), run.corpus(), run.config)
    before = read_recalls(run)
    if not all(before):
        before = _recalls(run, known.corpus, known.state.params, known.state.latents)
    with bar("learning", fit.FIT_STEPS + fit.LESSON_STEPS) as show:
        known = fit.teach(known, entry, song, args.seed, show)
    grown = dataclasses.replace(run, config=known.config, total=int(known.state.step), entries=known.corpus.entries)
    dataset.save_song(run.path / "songs" / f"{entry.sha256}.npz", song, entry.sha256)
    recalls = _recalls(grown, known.corpus, known.state.params, known.state.latents)
    checkpoint.save(grown, known.state)
    runs.describe(grown)
    runs.write_text(run.path / "recall.json", json.dumps(recalls, indent=1))
    worst = max((old["onset"] - new["onset"] for old, new in zip(before, recalls, strict=False)), default=0)
    print(f"song {len(run.entries)} {entry.name}: taught, recall {recalls[-1]['onset']:.4f}; ", end="")
    print(f"no old song lost more than {max(worst, 0):.4f}; {clock(time.monotonic() - began)}")
    print(f"next: python run.py sample --song {len(run.entries)} --run {args.run}")
