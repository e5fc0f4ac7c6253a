"""Training a run as a function of its songs and options: begin or continue, loop, measure, save, log.

Nothing is printed and no signal is handled here: `TrainOptions.callbacks` are called with an Event after each chunk of
steps, `report` with a line about what else happens, and `should_stop` is asked when it suits. JAX is imported when
training begins. Processes that train together all call `train`; the first one writes.
"""

import contextlib
import dataclasses
import io
import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from nemui_jax import config as configs
from nemui_jax import shell
from nemui_jax.config import Config
from nemui_jax.data import dataset, layout
from nemui_jax.errors import Failed, UsageError
from nemui_jax.files import resolve, write_text
from nemui_jax.runs import adding, length
from nemui_jax.runs.components import Components, check_component, choose_components, component_name
from nemui_jax.runs.run import (
    Run,
    create_run,
    lock_run,
    read_log,
    read_run,
    read_scores,
    run_exists,
    set_aside,
    write_scores,
)

if TYPE_CHECKING:
    from nemui_jax.model.decoder import DecoderClass
    from nemui_jax.training.loop import Loop
    from nemui_jax.training.step import OptimizerOf, TrainState
else:  # what they come from takes seconds to import
    DecoderClass = Loop = OptimizerOf = TrainState = Any

MEASUREMENTS = 6  # of note F1 in the course of a training
MEASURED_SONGS = 4  # that stand for all until the last measurement
Scores = Mapping[str, Any]  # of a song, as `note_metrics.playback_scores` gives them; empty where it was not measured


@dataclass(frozen=True)
class Event:
    """What happened in one chunk of steps."""

    run: Run
    step: int  # that training has come to, of `run.total`
    losses: Float[np.ndarray, " step"]  # of the chunk's steps
    chunk_seconds: float  # that these took
    seconds: float  # since `train` was called
    state: TrainState  # to be read before the callback returns: the next chunk reuses its memory
    scores: tuple[Scores, ...] | None = None  # of each song, where they were measured
    saved: int | None = None  # the step whose checkpoint is durable now, if one was saved

    @property
    def total(self) -> int:
        """The step at which training ends."""
        return self.run.total

    @property
    def loss(self) -> float:
        """The chunk's mean loss."""
        return float(self.losses.mean())

    @property
    def note_f1(self) -> float | None:
        """The mean F1 of onsets over the songs measured; None where none was."""
        measured = [scores["onset"] for scores in self.scores or () if scores]
        return float(np.mean(measured)) if measured else None


def never() -> bool:
    """Training is not to stop before its end."""
    return False


@dataclass(frozen=True)
class TrainOptions:
    """How a run is trained, besides its songs.

    A run that exists is continued only with the same settings, seed, decoder and optimizer.
    """

    config: Config | None = None  # None: the default one, sized for the songs
    overrides: Sequence[str] = ()  # settings that win over it, such as "model.hidden_size=64"
    decoder: DecoderClass | None = None  # a Flax module, made and called as Decoder is; None: Decoder
    optimizer: OptimizerOf | None = None  # as `make_optimizer`, which is the default
    seed: int = 0  # 0 to 2**31 - 1
    steps: int | None = None  # None: as many as the music needs, or as `minutes` hold
    minutes: float | int | None = None  # that a new run is to take, about
    fresh: bool = False  # what the run holds is moved aside, and training starts over
    device_memory: float | int | None = None  # GiB for music and latents; None: what the devices have
    save_seconds: float | int = 30.0  # between checkpoints; so long again for each second that the last one took
    callbacks: Sequence[Callable[[Event], None]] = ()
    should_stop: Callable[[], bool] = never  # asked after each chunk; the state is saved before `train` returns
    report: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        """UsageError for what is out of range."""
        for name, value, least, most in (
            ("seed", self.seed, 0, configs.MAX_SEED),
            ("steps", self.steps, 1, configs.MAX_STEPS),
            ("minutes", self.minutes, 0, 366 * 24 * 60),
        ):
            if value is not None and not least <= value <= most:
                raise UsageError(f"{name}={value} is out of range; it is {least} to {most:,}")

    @property
    def first_config(self) -> Config:
        """The configuration before it is fitted to the songs, for `dataset.load`."""
        return configs.override(self.config or Config(), self.overrides)

    @property
    def components(self) -> Components:
        """The decoder and the optimizer, or the defaults. Imports JAX."""
        return choose_components(self.decoder, self.optimizer)


def train(corpus: dataset.Corpus, path: Path, options: TrainOptions) -> Run:
    """Trains the run in a folder on these songs: a new one, or one that exists and goes on where it stopped.

    A run that exists keeps its songs, those that the corpus lacks too; new ones are added when it is trained. Returns
    the run when it is trained or `should_stop` said so: it is saved up to a step. UsageError or RunError where the run
    cannot be made or continued, Failed where training diverges or a checkpoint cannot be saved.
    """
    began = time.monotonic()
    if not corpus.entries:
        raise UsageError("there are no songs to learn")
    from nemui_jax.training import distributed

    with lock_run(path) if distributed.is_coordinator() else contextlib.nullcontext():
        if options.fresh and distributed.is_coordinator() and run_exists(path):
            options.report(f"{path}: what it held is now in {set_aside(path)}")
        distributed.barrier("folder ready")
        exists = run_exists(path)
        distributed.barrier("run looked for")
        if not exists:
            run, loop = _begin(corpus, path, options, began)
            return _finish(run, corpus, loop, options, began)[0]
        run = read_run(path)
        _refuse_differences(run, options)
        new = _compare_songs(run, corpus, options)
        run, finished = _finish(run, run.corpus(), None, options, began)
        if not finished or not new.entries:
            return run
        return adding.add_to_locked(
            run, new, options.seed, options.report, decoder=options.decoder, optimizer=options.optimizer
        )


def fit_config(corpus: dataset.Corpus, options: TrainOptions) -> Config:
    """The configuration for new songs: their pitches, and where none was given the size that they need.

    UsageError where an override leaves no room for their pitches.
    """
    import jax

    fitted = dataset.fit_heads(dataset.fit_pitches(options.config or Config(), corpus), corpus)
    if options.config is None:
        fitted = dataset.fit_size(fitted, corpus, jax.default_backend())
    found = configs.override(fitted, options.overrides)
    if found.roll.low > fitted.roll.low or found.roll.high < fitted.roll.high:
        pitches = f"{fitted.roll.low} to {fitted.roll.high}"
        raise UsageError(f"roll.low={found.roll.low}, roll.high={found.roll.high}: the songs need pitches {pitches}")
    return found


def _begin(corpus: dataset.Corpus, path: Path, options: TrainOptions, began: float) -> tuple[Run, Loop]:
    """A new run, with its music loaded. Of several processes the first one writes it."""
    from nemui_jax.runs import disk
    from nemui_jax.training import distributed
    from nemui_jax.training.step import default_steps

    config, names = fit_config(corpus, options), [component_name(component) for component in options.components]
    size = sum(part.notes.nbytes + part.controls.nbytes for song in corpus.songs for part in song.parts)
    disk.refuse_full_disk(path, layout.count_rows(corpus.entries), config, size, *options.components)
    loop = _make_loop(corpus, config, options)
    total = options.steps or default_steps(layout.count_blocks(corpus.entries, config.model), config.train)
    if options.minutes:
        if loop.steps_in is None:
            raise UsageError("minutes: cannot be used with more music than the device holds; give steps instead")
        steps = loop.steps_in(options.minutes * 60 - (time.monotonic() - began))
        total = min(int(distributed.broadcast(float(steps))), configs.MAX_STEPS)
    planned = None if options.steps or options.minutes or not loop.notes_per_step else total
    if distributed.is_coordinator():
        run = create_run(path, config, options.seed, total, corpus, *names, planned=planned)
    else:
        run = Run(resolve(path), config, options.seed, total, corpus.entries, *names, planned=planned)
    distributed.barrier("run made")
    return run, loop


def _make_loop(corpus: dataset.Corpus, config: Config, options: TrainOptions) -> Loop:
    from nemui_jax.training.loop import make_loop

    memory = None if options.device_memory is None else options.device_memory * 2**30
    return make_loop(corpus, config, options.seed, memory, options.should_stop, options.report, *options.components)


def _finish(
    run: Run, corpus: dataset.Corpus, loop: Loop | None, options: TrainOptions, began: float
) -> tuple[Run, bool]:
    """Trains a run from its newest whole checkpoint on; returns it, and whether its training is finished."""
    from nemui_jax.evaluation import playback
    from nemui_jax.runs import checkpoint, disk
    from nemui_jax.training import distributed

    decoder, optimizer = options.components
    step, damaged = checkpoint.whole_step(run)
    if damaged:
        names = ", ".join(map(str, damaged))
        options.report(f"{run.path}: checkpoint {names} is damaged; going back to {step}")
    if step is not None and step == run.total:
        options.report(f"training is finished: all {step:,} steps are done")
        scores = None
        if not any(read_scores(run)):  # it was stopped between the last checkpoint and its scores
            model = checkpoint.restore_model(run, step, decoder)
            scores = playback.measure(corpus, run.config, *model, decoder)
    else:
        if step is not None:
            options.report(f"continues after step {step:,} of {run.total:,}")
            disk.refuse_full_disk(run.path, run.rows, run.config, 0, decoder, optimizer)
        run, step, scores = _update(run, corpus, loop or _make_loop(corpus, run.config, options), step, options, began)
    if step == run.total and scores and distributed.is_coordinator():
        write_scores(run, scores)
    return run, step == run.total


def _update(
    run: Run, corpus: dataset.Corpus, loop: Loop, start: int | None, options: TrainOptions, began: float
) -> tuple[Run, int, tuple[Scores, ...] | None]:
    """Trains to the end or until it should stop; returns the run, its step, which is saved, and the scores at the end.

    Processes that train together stop and save at the same steps.
    """
    from nemui_jax.runs import checkpoint
    from nemui_jax.training import distributed
    from nemui_jax.training.step import UPDATES_PER_CALL, is_finite

    if distributed.is_coordinator():
        threading.Thread(target=_prepare, args=(run, corpus, options.components.decoder)).start()
    every = math.ceil((run.planned or run.total) / MEASUREMENTS / UPDATES_PER_CALL) * UPDATES_PER_CALL
    done, scores, save_at = start or 0, None, time.monotonic() + options.save_seconds
    with _open_log(run, done) if distributed.is_coordinator() else io.StringIO() as log:
        chunk_began = time.monotonic()
        chunks = length.train_chunks(run, loop, _state(run, loop, start, options.components), options.report)
        for run, state, losses in chunks:
            if not is_finite(state, losses):
                raise _diverged(run, int(state.step))
            now, before, done = time.monotonic(), done, int(state.step)
            event = Event(run, done, losses, now - chunk_began, now - began, state)
            if done // every > before // every or done == run.total:
                event = _measured(event, corpus, options.components.decoder)
            _log(log, event)
            stop = distributed.largest(int(options.should_stop()))
            late = distributed.broadcast(time.monotonic() - save_at) > 0
            if stop or late or done == run.total:
                _make_durable(log)
                saving_began = time.monotonic()
                event = dataclasses.replace(event, saved=checkpoint.save(run, state))
                saved = time.monotonic()
                save_at = saved + options.save_seconds * (1 + saved - saving_began)
            for callback in options.callbacks:
                callback(event)
            scores = event.scores if done == run.total else None
            if stop:
                break
            chunk_began = time.monotonic()
    return run, done, scores


def _prepare(run: Run, corpus: dataset.Corpus, decoder: DecoderClass) -> None:
    """Imports and compiles what measures and saves, while the first updates are compiled on another core."""
    import orbax.checkpoint  # noqa: F401, which takes half a second

    from nemui_jax.evaluation import playback

    with contextlib.suppress(Exception):  # that measuring raises again
        playback.compile_ahead(corpus, run.config, decoder)


def _state(run: Run, loop: Loop, step: int | None, components: Components) -> TrainState:
    """The state of a checkpoint, or that before training."""
    import jax

    from nemui_jax.runs import checkpoint
    from nemui_jax.training.step import init_state_once, place_state

    if step is not None:
        return loop.place(lambda mesh: checkpoint.restore(run, step, mesh, *components))
    key = jax.random.key(run.seed)
    return loop.place(lambda mesh: place_state(init_state_once(key, run.rows, run.config, *components), mesh))


def _measured(event: Event, corpus: dataset.Corpus, decoder: DecoderClass) -> Event:
    """The event with scores, in the first process, and with weights and rows that every process can read."""
    from nemui_jax.evaluation import playback
    from nemui_jax.training import distributed

    params, latents = distributed.gather((event.state.params, event.state.latents))
    event = dataclasses.replace(event, state=event.state._replace(params=params, latents=latents))
    if not distributed.is_coordinator():
        return event
    songs = None if event.step == event.total else MEASURED_SONGS
    scores = playback.measure(corpus, event.run.config, params, latents, decoder, songs)
    return dataclasses.replace(event, scores=scores)


def _open_log(run: Run, step: int) -> io.TextIOBase:
    """metrics.jsonl, cut back to a step, to be written on."""
    kept = [json.dumps(row) + "\n" for row in read_log(run) if row["step"] <= step]
    write_text(run.path / "metrics.jsonl", "".join(kept))
    return open(run.path / "metrics.jsonl", "a")


def _log(log: io.TextIOBase, event: Event) -> None:
    row = {"step": event.step, "loss": event.loss, "seconds": round(event.seconds, 3)}
    if event.scores is not None:
        row["note_f1"] = event.note_f1
    log.write(json.dumps(row) + "\n")


def _make_durable(log: io.TextIOBase) -> None:
    log.flush()
    if not isinstance(log, io.StringIO):
        os.fsync(log.fileno())


def _diverged(run: Run, step: int) -> Failed:
    from nemui_jax.runs import checkpoint

    saved, _ = checkpoint.whole_step(run)
    kept = f"the newest checkpoint is that of step {saved}" if saved else "there is no checkpoint yet"
    rates = (f"--set train.{name}={getattr(run.config.train, name) / 10:.1g}" for name in ("weight_rate", "row_rate"))
    return Failed(f"training diverged by step {step}; {kept}. Start over with lower rates: --fresh {' '.join(rates)}")


def _refuse_differences(run: Run, options: TrainOptions) -> None:
    """An error where a run was begun otherwise than so, but for what was fitted to its songs.

    RunError for another decoder or optimizer, UsageError for other settings.
    """
    check_component(run.path, "decoder", run.decoder, options.decoder)
    check_component(run.path, "optimizer", run.optimizer, options.optimizer)
    given, songs = options.config or Config(), dataset.Corpus(run.entries, ())
    if given.roll.common_key and run.config.roll.common_key:
        roll = dataclasses.replace(given.roll, low=run.config.roll.low, high=run.config.roll.high)
        model = dataclasses.replace(given.model, heads=run.config.model.heads)
        given = dataclasses.replace(given, roll=roll, model=model)
    sizes = [given]
    if not options.config:  # songs may have been added since, and it may have begun on another device
        sizes += [dataset.fit_size(given, songs, platform) for platform in ("cpu", "gpu")]
    changed = min(
        (configs.differences(run.config, configs.override(size, options.overrides)) for size in sizes), key=len
    )
    if run.seed != options.seed:
        changed.append(f"seed: {run.seed}, now {options.seed}")
    if options.steps and run.total != options.steps and not _trained_longer(run, options.steps):
        changed.append(f"steps: {run.total}, now {options.steps}")
    if changed:
        raise UsageError(
            f"{run.path}: holds a run with other settings ({'; '.join(changed)}); "
            "start over with --fresh or use another --run"
        )
    if options.minutes:
        options.report(f"minutes: the length of this run was set when it began, to {run.total:,} steps, and stays so")


def _trained_longer(run: Run, steps: int) -> bool:
    """Whether a run is finished that was trained for so many steps and for more, as it is when songs were added."""
    from nemui_jax.runs import checkpoint

    return steps < run.total and run.total in checkpoint.saved_steps(run.path)


def _compare_songs(run: Run, corpus: dataset.Corpus, options: TrainOptions) -> dataset.Corpus:
    """The songs of a corpus that a run does not hold; reports them, and those that the corpus does not have.

    UsageError where several processes would have to add them.
    """
    import jax

    held, given = ({entry.sha256 for entry in entries} for entries in (run.entries, corpus.entries))
    gone = [entry.name for entry in run.entries if entry.sha256 not in given]
    places = [place for place, entry in enumerate(corpus.entries) if entry.sha256 not in held]
    new = dataset.Corpus(tuple(corpus.entries[n] for n in places), tuple(corpus.songs[n] for n in places))
    if gone:
        options.report(f"kept in the run, though no longer among the songs given: {_some(gone)}")
    if places:
        if jax.process_count() > 1:
            command = shell.command("add", "--file", "FILE", "--run", run.path)
            raise UsageError(
                f"{run.path}: does not hold {_some([entry.name for entry in new.entries])}, and songs are added by one "
                f"process; train without them, then add them with: {command}"
            )
        options.report(f"new, and to be added: {_some([entry.name for entry in new.entries])}")
    return new


def _some(names: Sequence[str]) -> str:
    """How many names there are, and the first of them."""
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if names[3:] else ''})"
