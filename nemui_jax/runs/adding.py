"""Adding songs to a trained run: each is learned, kept, and joins the end of the latent table. JAX is imported late."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemui_jax.data import dataset
from nemui_jax.errors import UsageError
from nemui_jax.runs.components import check_component, choose_components
from nemui_jax.runs.run import Run, locked_run, read_scores, store_song, write_manifest, write_scores

if TYPE_CHECKING:
    from nemui_jax.model.decoder import DecoderClass
    from nemui_jax.training.step import OptimizerOf
else:  # what they come from takes seconds to import
    DecoderClass = OptimizerOf = Any
Progress = Callable[[int, int], None]


def add(
    path: Path,
    songs: dataset.Corpus,
    seed: int = 0,
    report: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
    decoder: DecoderClass | None = None,
    optimizer: OptimizerOf | None = None,
) -> Run:
    """Adds songs to a trained run, one after another; each is kept once it is learned. Returns the run.

    `report` is called with a line for each song, `progress(done, of)` with steps. UsageError where the training is not
    finished or a song is in the run already, RunError where it was trained with another decoder or optimizer.
    """
    with locked_run(path) as run:
        held = {entry.sha256: f"song {index} {entry.name}" for index, entry in enumerate(run.entries)}
        for entry in songs.entries:
            if entry.sha256 in held:
                raise UsageError(f"{entry.path or entry.name}: in the run already, as {held[entry.sha256]}")
        return add_to_locked(run, songs, seed, report, progress, decoder, optimizer)


def add_to_locked(
    run: Run,
    songs: dataset.Corpus,
    seed: int,
    report: Callable[[str], None],
    progress: Progress = lambda *_: None,
    decoder: DecoderClass | None = None,
    optimizer: OptimizerOf | None = None,
) -> Run:
    """As `add`, for songs that are not in the run, which this process holds the lock of."""
    check_component(run.path, "decoder", run.decoder, decoder)
    check_component(run.path, "optimizer", run.optimizer, optimizer)
    from nemui_jax.evaluation import playback
    from nemui_jax.runs import checkpoint
    from nemui_jax.training import finetune

    decoder, optimizer = choose_components(decoder, optimizer)
    step = checkpoint.usable_step(run, report)
    if step < run.total:
        raise UsageError(f"{run.path}: trained to step {step:,} of {run.total:,}; finish its training first")
    model = finetune.TrainedModel(*checkpoint.restore_model(run, step, decoder), run.corpus(), run.config)
    before = read_scores(run)
    if not all(before):
        before = playback.measure(model.corpus, model.config, model.params, model.table, decoder)
    old = len(run.entries)
    for entry, song in zip(songs.entries, songs.songs, strict=True):
        began, steps = time.monotonic(), finetune.finetune_steps(model)
        model = finetune.add_song(model, entry, song, seed, progress, decoder, optimizer)
        grown = dataclasses.replace(run, config=model.config, total=run.total + steps, entries=model.corpus.entries)
        store_song(run, song, entry.sha256)
        checkpoint.append(grown, run.total, model.params, model.table[run.rows :])
        write_manifest(grown)
        run = grown
        report(f"song {len(run.entries) - 1} {entry.name}: added in {time.monotonic() - began:.1f} s")
    scores = playback.measure(model.corpus, model.config, model.params, model.table, decoder)
    write_scores(run, scores)
    lost = max(0.0, *(was["onset"] - now["onset"] for was, now in zip(before, scores[:old], strict=True)))
    f1 = ", ".join(f"{score['onset']:.4f}" for score in scores[old:])
    report(f"note F1 of what was added: {f1}; no other song lost more than {lost:.4f}")
    return run
