"""The commands that learn: `train` and `add`.

JAX is imported where it is first needed, so that errors in files and flags answer at once.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from nemui_jax import config
from nemui_jax.cli import console, monitor
from nemui_jax.data import cache, dataset, layout
from nemui_jax.errors import Failed, UsageError
from nemui_jax.evaluation import note_metrics
from nemui_jax.files import escape, resolve, write_text
from nemui_jax.music.song import Song
from nemui_jax.runs.run import (
    Run,
    create_run,
    lock_run,
    locked_run,
    read_log,
    read_run,
    read_scores,
    run_exists,
    set_aside,
    song_differences,
    store_song,
    write_manifest,
    write_scores,
)

SAVE_SECONDS = 30.0  # between checkpoints while training
LOGS = 10  # recalls measured on the way through a training


def train(args: argparse.Namespace) -> int:
    """Learns a folder, or goes on learning it."""
    name = escape(args.dir)
    if not args.dir.is_dir():
        raise UsageError(f"--dir {name}: {'not a folder' if args.dir.exists() else 'no such folder'}")
    if args.tensorboard is not None:
        monitor.import_tensorboard()  # so that it is missed now and not after the songs are read
    began = time.monotonic()
    settings = _with_grid(config.preset(args.preset), args.grid)
    if args.coordinator:
        _join(args)
    corpus, reports = dataset.load(args.dir, settings.roll, args.max_seconds)
    console.print_reports(reports)
    if not corpus.entries:
        raise UsageError(f"--dir {name}: no song in {len(reports)} files; put .mid files there")
    with contextlib.nullcontext() if args.process_id else lock_run(args.run):
        settings = dataset.fit_size(dataset.fit_pitches(settings, corpus), corpus)
        return _train(args, _with_rate(settings, args.lr), corpus, began)


def _join(args: argparse.Namespace) -> None:
    """Makes this process one of several that train together; each reads its share of the folder before all read all."""
    if args.coordinator != "auto" and (args.num_processes is None or args.process_id is None):
        raise UsageError(
            "--coordinator HOST:PORT goes with --num-processes and --process-id; or say --coordinator auto"
        )
    console.start_jax()
    import jax

    from nemui_jax.training import distributed

    distributed.join(args.coordinator, args.num_processes, args.process_id)
    args.process_id = jax.process_index()
    if not distributed.is_coordinator():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the first tells for all
    print(f"{jax.process_count()} processes, {jax.device_count()} devices")
    dataset.read_ahead(args.dir, jax.process_index(), jax.process_count(), args.max_seconds)
    distributed.barrier("songs read")


def _with_grid(settings: config.Config, grid: str) -> config.Config:
    if grid == "beats" and settings.preset == "original":
        raise UsageError("--grid beats: the original preset knows seconds alone")
    return dataclasses.replace(settings, roll=dataclasses.replace(settings.roll, grid=grid))


def _with_rate(settings: config.Config, rate: float | None) -> config.Config:
    """The configuration at another learning rate of weights; that of rows keeps its ratio to it."""
    if rate is None:
        return settings
    rows = settings.train.row_rate * rate / settings.train.weight_rate
    return dataclasses.replace(settings, train=dataclasses.replace(settings.train, weight_rate=rate, row_rate=rows))


def _train(args: argparse.Namespace, settings: config.Config, corpus: dataset.Corpus, began: float) -> int:
    console.start_jax()
    import jax

    from nemui_jax.training import batches, distributed, sharded
    from nemui_jax.training.step import init_state, place_state, steps_in_time, train_loop

    _refuse_full_disk(args, settings, corpus)
    mesh, key, told = distributed.make_mesh(), jax.random.key(args.seed), []
    memory = args.device_memory * 2**30 if args.device_memory else sharded.device_memory() * jax.device_count()
    groups = sharded.split_corpus(corpus, settings, memory)
    if len(groups) > 1:
        if mesh is not None:
            raise UsageError(f"music in {len(groups)} shards is trained on by one device; for more, use more memory")
        print(f"more music than the device holds at once: {len(groups)} shards take turns")
        folder = cache.cache_folder() / "shards" / str(os.getpid())
        shards = sharded.write_shards(corpus, groups, settings, folder)
        shutil.rmtree(folder)  # what is mapped stays until the process ends, however that is
        run = _open_run(args, settings, corpus, None, began)
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            state = _newest_state(run, mesh)
        chunks = sharded.train_loop_sharded(state, shards, key, run.total, settings, lambda: bool(told))
    else:
        data, most = batches.load_data(corpus, settings, mesh)
        key = distributed.place_tree(key, mesh)

        def steps_in(seconds: float) -> int:
            state = init_state(jax.random.key(args.seed), layout.count_corpus_rows(corpus.lengths, settings), settings)
            return steps_in_time(seconds, place_state(state, mesh), data, key, settings, most)

        run = _open_run(args, settings, corpus, steps_in, began)
        state = _newest_state(run, mesh)
        chunks = train_loop(state, data, key, run.total, settings, most)
    state, recalls, stopped = _learn(args, run, corpus, state, chunks, told, began)
    if stopped and int(state.step) < run.total:
        print(f"stopped after step {int(state.step):,}, which is saved; the same command goes on from there")
    else:
        _tell(args, run, corpus, state, recalls, began)
    if args.json:
        console.print_json(_summary(run, int(state.step), time.monotonic() - began))
    distributed.leave()
    return 128 + stopped if stopped else 0


def _open_run(
    args: argparse.Namespace,
    settings: config.Config,
    corpus: dataset.Corpus,
    steps_in: Callable[[float], int] | None,
    began: float,
) -> Run:
    """The run to go on with, or a new one. Of several processes the chief writes it."""
    from nemui_jax.training import distributed
    from nemui_jax.training.step import default_steps

    if distributed.is_coordinator() and args.fresh and run_exists(args.run):
        print(f"{args.run}: what it held is now in {set_aside(args.run)}")
    distributed.barrier("folder ready")
    known = run_exists(args.run)
    distributed.barrier("run looked for")
    if known:
        run = read_run(args.run)
        _refuse_differences(run, settings, corpus, args)
        return run
    if args.minutes and steps_in is None:
        raise UsageError("--minutes: not with more music than the device holds; say how many --steps")
    if args.minutes and steps_in:
        total = int(distributed.broadcast(float(steps_in(args.minutes * 60 - (time.monotonic() - began)))))
    else:
        total = args.steps or default_steps(layout.count_corpus_blocks(corpus.lengths, settings), settings.train)
    if distributed.is_coordinator():
        run = create_run(args.run, settings, args.seed, total, corpus)
    else:
        run = Run(resolve(args.run), settings, args.seed, total, corpus.entries)
    distributed.barrier("run made")
    return run


def _newest_state(run: Run, mesh: Any) -> Any:
    """The state of the newest checkpoint that is whole, or that before training, over a mesh of devices."""
    import jax

    from nemui_jax.runs import checkpoint
    from nemui_jax.training.step import init_state, place_state

    step, damaged = checkpoint.whole_step(run)
    if damaged:
        print(f"{run.path}: damaged checkpoint {', '.join(map(str, damaged))}; going back to {step}")
    if step is None:
        return place_state(init_state(jax.random.key(run.seed), run.rows, run.config), mesh)
    print(f"goes on after step {step:,} of {run.total:,}")
    return checkpoint.restore(run, step, mesh)


def _learn(
    args: argparse.Namespace,
    run: Run,
    corpus: dataset.Corpus,
    state: Any,
    chunks: Iterator[Any],
    stopped: list[int],
    began: float,
) -> tuple[Any, list[dict[str, float]], int]:
    """Trains to the end or until a signal; returns the state, which is saved, recalls if measured, and the signal.

    Processes that train together stop and save at the same steps; the chief logs, measures and tells.
    """
    from nemui_jax.runs import checkpoint
    from nemui_jax.training import distributed
    from nemui_jax.training.step import UPDATES_PER_CALL, is_finite

    chief = distributed.is_coordinator()
    every = max(run.total // LOGS // UPDATES_PER_CALL, 1) * UPDATES_PER_CALL
    recalls, saved_at, stop, done = [], time.monotonic(), 0, int(state.step)
    log = _open_log(run, int(state.step)) if chief else io.StringIO()
    watched = monitor.monitoring(run, int(state.step), *((args.tensorboard, args.profile) if chief else (None, None)))
    progress = _progress(run, int(state.step), layout.count_corpus_blocks(run.lengths, run.config))
    with log, _stop_softly(stopped), watched as seen, progress as show:
        for reached, losses in seen.chunks(chunks):
            if not is_finite(reached, losses):
                raise _diverged(run, run.config, int(reached.step))
            before, state, done = done, reached, int(reached.step)
            row = {"step": done, "loss": float(losses.mean()), "seconds": round(time.monotonic() - began, 3)}
            if done // every > before // every or done == run.total:
                known = distributed.gather(state._replace(params_opt=None, latents_opt=None))
                few = done < run.total
                recalls = _recalls(corpus, run.config, known.params, known.latents, few) if chief else []
                row["recall"] = float(np.mean([scores["onset"] for scores in recalls if scores])) if recalls else 0.0
                seen.show(row, known)
            else:
                seen.show(row, state)
            log.write(json.dumps(row) + "\n")
            show(done, row.get("recall"))
            stop = distributed.largest(stopped[0] if stopped else 0)
            if stop or done == run.total or distributed.broadcast(time.monotonic() - saved_at) > SAVE_SECONDS:
                log.flush()
                if chief:
                    os.fsync(log.fileno())
                show(done, saved=checkpoint.save(run, state))
                saved_at = time.monotonic()
            if stop:
                break
    return state, recalls, stop


def _tell(
    args: argparse.Namespace,
    run: Run,
    corpus: dataset.Corpus,
    state: Any,
    recalls: list[dict[str, float]],
    began: float,
) -> None:
    """Keeps and prints how well each song is known, and what to do next."""
    from nemui_jax.training import distributed

    missing = not recalls and not any(read_scores(run))  # stopped between the last checkpoint and this
    if distributed.broadcast(float(missing)):
        known = distributed.gather(state._replace(params_opt=None, latents_opt=None))
        recalls = _recalls(corpus, run.config, known.params, known.latents) if distributed.is_coordinator() else []
    if not distributed.is_coordinator():
        return
    if recalls:
        write_scores(run, recalls)
    _print_recalls(run)
    console.print_result(
        args.run, f"{console.duration(time.monotonic() - began)} in all; the run is in {args.run}. Next:"
    )
    for line in ("sample --song 0", "sample --mix 0:0.5,1:0.5" if len(corpus.entries) > 1 else "", "songs"):
        if line:
            print(f"  python run.py {line}" + (f" --run {args.run}" if args.run != Path("runs/default") else ""))


def _summary(run: Run, step: int, seconds: float) -> dict[str, Any]:
    """What a training came to, as --json tells it. `recall` is a mean over songs, none before the end."""
    log, recalls = read_log(run), [known for known in read_scores(run) if known]
    known = {
        name: [song[name] for song in recalls if song[name] is not None] for name in (recalls[0] if recalls else ())
    }
    mean = {name: float(np.mean(values)) if values else None for name, values in known.items()}
    return {
        "run": str(run.path),
        "step": step,
        "total": run.total,
        "done": step == run.total,
        "seconds": round(seconds, 3),
        "songs": len(run.entries),
        "music_seconds": round(sum(entry.seconds for entry in run.entries), 3),
        "loss": log[-1]["loss"] if log else None,
        "recall": mean or None,
    }


def _diverged(run: Run, settings: config.Config, step: int) -> Failed:
    from nemui_jax.runs import checkpoint

    saved, _ = checkpoint.whole_step(run)
    kept = f"the newest checkpoint is that of step {saved}" if saved else "there is no checkpoint yet"
    lower = settings.train.weight_rate / 10
    return Failed(
        f"training diverged by step {step}; {kept}. Train anew at a lower rate, such as --lr {lower:.1g} --fresh"
    )


def _refuse_full_disk(args: argparse.Namespace, settings: config.Config, corpus: dataset.Corpus) -> None:
    """UsageError where it is known before training that its checkpoints will not fit."""
    from nemui_jax.runs import checkpoint

    needed, largest = checkpoint.needs(layout.count_corpus_rows(corpus.lengths, settings), settings)
    needed += sum(song.notes.nbytes + song.pedal.nbytes for song in corpus.songs)
    if not args.fresh:  # else what there is stays
        needed -= sum(file.stat().st_size for file in (args.run / "checkpoints").rglob("*") if file.is_file())
    free, limit = shutil.disk_usage(args.run).free, resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if needed > free:
        wanted = f"needs {needed / 2**20:,.1f} MiB, and {free / 2**20:,.1f} MiB are free; make room"
    elif limit != resource.RLIM_INFINITY and largest > limit:
        wanted = f"has files of {largest:,} bytes, and the limit is {limit:,}; raise it (ulimit -f)"
    else:
        return
    raise UsageError(f"--run {escape(args.run)}: the run {wanted} or name another --run")


def _refuse_differences(run: Run, settings: config.Config, corpus: dataset.Corpus, args: argparse.Namespace) -> None:
    changed = config.differences(run.config, settings)
    if run.seed != args.seed:
        changed.append(f"seed: {run.seed}, now {args.seed}")
    if args.steps and run.total != args.steps:
        changed.append(f"steps: {run.total}, now {args.steps}")
    songs = song_differences(run.entries, corpus.entries)
    if songs:
        changed.append(f"songs: {songs}")
    if changed:
        raise UsageError(f"{args.run} was made otherwise ({'; '.join(changed)}); use --fresh or another --run")


def _open_log(run: Run, step: int) -> Any:
    """metrics.jsonl, cut back to a step, to be written on."""
    kept = [json.dumps(row) + "\n" for row in read_log(run) if row["step"] <= step]
    write_text(run.path / "metrics.jsonl", "".join(kept))
    return open(run.path / "metrics.jsonl", "a")


@contextlib.contextmanager
def _stop_softly(got: list[int]) -> Iterator[None]:
    """Puts SIGINT's or SIGTERM's number into a list when one comes: stop when it suits, soon."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: got.append(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def _progress(run: Run, start: int, blocks: int) -> Iterator[Any]:
    """A line that tells step, rate, recall so far and time left: a bar on a terminal, else a line now and then."""
    trained = run.config.train
    steps = trained.batch_windows * trained.window_blocks * run.config.model.block_steps  # of music, in one of ours
    began, last, known, durable = time.monotonic(), 0.0, "-", ""
    terminal = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=terminal, disable=not terminal.is_terminal) as bar:
        task = bar.add_task("learning", total=run.total, completed=start, told="compiling")

        def show(done: int, recall: float | None = None, saved: int | None = None) -> None:
            nonlocal last, known, durable
            seconds = time.monotonic() - began
            known = known if recall is None else f"{recall:.3f}"
            durable = durable if saved is None else f"  saved {saved}"
            told = f"{done:,}/{run.total:,}  {(done - start) * steps / seconds:,.0f} steps of music/s  recall {known}"
            bar.update(task, completed=done, told=told + durable)
            if saved is not None and not terminal.is_terminal:
                print(f"saved {saved}", flush=True)  # and lasts from here on, whatever happens to this process
            elif not terminal.is_terminal and (seconds - last > 5 or recall is not None):
                last = seconds
                left = seconds * (run.total - done) / (done - start)
                print(f"step {told}  {console.duration(left)} left", flush=True)

        yield show


def _recalls(
    corpus: dataset.Corpus, settings: config.Config, params: Any, table: Any, few: bool = False
) -> list[dict[str, float]]:
    """How well songs are known: note F1 and the like against their files; `few`: four songs stand for all."""
    from nemui_jax.sampling.decode import latent_tracks
    from nemui_jax.sampling.play import play_back

    tracks = latent_tracks(corpus, table, settings)
    chosen = set(np.linspace(0, len(tracks) - 1, 4).astype(int)) if few else range(len(tracks))
    found = []
    for index, (track, source) in enumerate(zip(tracks, corpus.songs, strict=True)):
        found.append(note_metrics.recall(source, play_back(params, track, settings)) if index in chosen else {})
    return found


def _print_recalls(run: Run) -> None:
    recalls = read_scores(run)
    table = Table(title="recall, against the files: note F1", title_justify="left", box=None)
    for head in ("song", "name", "onset", "with end", "and velocity", "pedal", "onset error"):
        table.add_column(head, justify="left" if head == "name" else "right", no_wrap=head != "name")
    for index, (entry, known) in enumerate(zip(run.entries, recalls, strict=True)):
        if known:
            numbers = [f"{known[name]:.4f}" for name in ("onset", "offset", "velocity", "pedal")]
            table.add_row(
                str(index), console.one_line(entry.name), *numbers, console.milliseconds(known["onset_error_seconds"])
            )
    if any(recalls):
        means = [
            np.mean([known[name] for known in recalls if known]) for name in ("onset", "offset", "velocity", "pedal")
        ]
        table.add_row("", "mean", *(f"{mean:.4f}" for mean in means), "")
        console.console().print(table)


def add(args: argparse.Namespace) -> None:
    """Teaches a finished run one more song."""
    with locked_run(args.run) as run:
        entry, song = dataset.load_file(args.file, run.config.roll, args.max_seconds)
        for index, other in enumerate(run.entries):
            if other.sha256 == entry.sha256:
                raise UsageError(f"--file {escape(args.file)}: the run knows it already, as song {index} {other.name}")
        _add(args, run, entry, song)


def _add(args: argparse.Namespace, run: Run, entry: dataset.SongEntry, song: Song) -> None:
    console.start_jax()
    from nemui_jax.runs import checkpoint
    from nemui_jax.training import finetune

    began, step = time.monotonic(), checkpoint.usable_step(run)
    if step < run.total:
        raise UsageError(f"{args.run}: trained to step {step:,} of {run.total:,}; finish its training first")
    known = finetune.TrainedModel(*checkpoint.restore_model(run, step), run.corpus(), run.config)
    before = read_scores(run)
    if not all(before):
        before = _recalls(known.corpus, known.config, known.params, known.table)
    steps = finetune.finetune_steps(known)
    with console.progress_bar("learning", steps) as show:
        known = finetune.add_song(known, entry, song, args.seed, show)
    grown = dataclasses.replace(run, config=known.config, total=step + steps, entries=known.corpus.entries)
    store_song(run, song, entry.sha256)
    recalls = _recalls(known.corpus, known.config, known.params, known.table)
    checkpoint.append(grown, step, known.params, known.table[run.rows :])
    write_manifest(grown)
    write_scores(grown, recalls)
    worst = max((old["onset"] - new["onset"] for old, new in zip(before, recalls, strict=False)), default=0)
    told = f"song {len(run.entries)} {entry.name}: taught, recall {recalls[-1]['onset']:.4f}; "
    told += f"no old song lost more than {max(worst, 0):.4f}; {console.duration(time.monotonic() - began)}"
    console.print_result(args.run, told)
    print(f"next: python run.py sample --song {len(run.entries)} --run {args.run}")
