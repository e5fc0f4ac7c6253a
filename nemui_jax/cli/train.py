"""`train`: arguments to `trainer.train`, and what is printed of it.

JAX is imported where it is first needed, so that errors in files and flags answer at once.
"""

import argparse
import contextlib
import dataclasses
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from rich.table import Table

from nemui_jax import config
from nemui_jax.cli import console, monitor, signals
from nemui_jax.data import dataset
from nemui_jax.errors import UsageError
from nemui_jax.files import escape
from nemui_jax.runs import trainer
from nemui_jax.runs.run import Run, read_log, read_scores

SCORES = {"onset": "onset", "offset": "with end", "velocity": "and velocity", "pedal": "pedal"}  # and their titles


def train(args: argparse.Namespace) -> int:
    """Trains a run on a folder of songs, or continues it."""
    name = escape(args.dir)
    if not args.dir.is_dir():
        raise UsageError(f"--dir {name}: {'not a folder' if args.dir.exists() else 'no such folder'}")
    if args.tensorboard is not None:
        monitor.import_tensorboard()  # so that it is missed now and not after the songs are read
    began, options = time.monotonic(), _options(args)
    console.start_jax()
    first = _join(args) if args.coordinator else True
    corpus, reports = _load(args, options)
    console.print_reports(reports)
    if not corpus.entries:
        raise UsageError(f"--dir {name}: no song in {len(reports)} files; put .mid files there")
    with signals.soft() as policy, contextlib.ExitStack() as stack:
        callbacks = [stack.enter_context(callback) for callback in (monitor.callbacks(args) if first else ())]
        options = dataclasses.replace(options, callbacks=callbacks, should_stop=policy.should_stop)
        run = trainer.train(corpus, args.run, options)
    code = _print_end(args, run, policy.received, time.monotonic() - began)
    from nemui_jax.training import distributed

    distributed.leave()
    return code


def _load(args: argparse.Namespace, options: trainer.TrainOptions) -> tuple[dataset.Corpus, list[dataset.FileReport]]:
    """The songs of the folder. JAX is imported meanwhile, from the first file on: an empty folder is told at once."""
    with ThreadPoolExecutor(1) as pool:

        def progress(done: int, _: int) -> None:
            if done == 1:
                pool.submit(import_module, "nemui_jax.training.loop")

        return dataset.load(args.dir, options.first_config, args.max_seconds, progress)


def _options(args: argparse.Namespace) -> trainer.TrainOptions:
    if args.grid in ("auto", "beats") and args.preset == "original":
        raise UsageError(f"--grid {args.grid}: the original preset has a grid in seconds")
    return trainer.TrainOptions(
        config=None if args.preset == "default" else config.preset(args.preset),
        overrides=(*([f"roll.grid={args.grid}"] if args.grid else []), *args.set),
        seed=args.seed,
        steps=args.steps,
        minutes=args.minutes,
        fresh=args.fresh,
        device_memory=args.device_memory,
        save_seconds=args.save_seconds,
        report=partial(print, flush=True),
    )


def _join(args: argparse.Namespace) -> bool:
    """Makes this process one of several that train together, and says whether it is the first of them.

    Each reads its share of the folder before all read all.
    """
    if args.coordinator != "auto" and (args.num_processes is None or args.process_id is None):
        raise UsageError(
            "--coordinator HOST:PORT goes with --num-processes and --process-id; or use --coordinator auto"
        )
    import jax

    from nemui_jax.training import distributed

    distributed.join(args.coordinator, args.num_processes, args.process_id)
    if not distributed.is_coordinator():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the first one prints for all
    print(f"{jax.process_count()} processes, {jax.device_count()} devices")
    dataset.read_ahead(args.dir, jax.process_index(), jax.process_count(), args.max_seconds)
    distributed.barrier("songs read")
    return distributed.is_coordinator()


def _print_end(args: argparse.Namespace, run: Run, received: list[int], seconds: float) -> int:
    """Prints what a training came to; returns the exit code."""
    from nemui_jax.runs import checkpoint

    step = checkpoint.saved_steps(run.path)[0]
    stopped = step < run.total
    if stopped:
        print(f"stopped after step {step:,}, which is saved; the same command continues from there")
    else:
        _print_scores(run)
        console.print_result(args.run, f"{console.duration(seconds)} in all; the run is in {escape(args.run)}")
        songs = (["--song", "0"], ["--mix", "0:0.5,1:0.5"])[: len(run.entries)]
        flag = console.run_flag(args.run)
        console.print_next(*(["sample", *what, *flag] for what in songs), ["songs", *flag])
    if args.json:
        console.print_json(_summary(run, step, seconds))
    return 128 + (received[0] if received else signals.SIGNALS[0]) if stopped else 0


def _summary(run: Run, step: int, seconds: float) -> dict[str, Any]:
    """What a training came to, for --json. `note_f1` has means over songs, none before the end."""
    log, scores = read_log(run), [scores for scores in read_scores(run) if scores]
    values = {name: [song[name] for song in scores if song[name] is not None] for name in (scores[0] if scores else ())}
    means = {name: float(np.mean(found)) if found else None for name, found in values.items()}
    return {
        "run": str(run.path),
        "step": step,
        "total": run.total,
        "done": step == run.total,
        "seconds": round(seconds, 3),
        "songs": len(run.entries),
        "music_seconds": round(sum(entry.seconds for entry in run.entries), 3),
        "loss": log[-1]["loss"] if log else None,
        "note_f1": means or None,
    }


def _print_scores(run: Run) -> None:
    scores = read_scores(run)
    if not any(scores):
        return
    table = Table(title="songs played back, against their files: note F1", title_justify="left", box=None)
    limits = [entry.possible_note_f1 for entry, song in zip(run.entries, scores, strict=True) if song]
    limited = min(limits) < 1  # notes share cells of the grid: say what it allows
    for head in ("song", "name", *["possible"] * limited, *SCORES.values(), "onset error"):
        table.add_column(head, justify="left" if head == "name" else "right", no_wrap=head != "name")
    for index, (entry, song) in enumerate(zip(run.entries, scores, strict=True)):
        if song:
            numbers = (f"{song[name]:.4f}" for name in SCORES)
            error = console.milliseconds(song["onset_error_seconds"])
            possible = [f"{entry.possible_note_f1:.4f}"] * limited
            table.add_row(str(index), console.one_line(entry.name), *possible, *numbers, error)
    means = (np.mean([song[name] for song in scores if song]) for name in SCORES)
    table.add_row("", "mean", *[f"{np.mean(limits):.4f}"] * limited, *(f"{mean:.4f}" for mean in means), "")
    console.console().print(table)
