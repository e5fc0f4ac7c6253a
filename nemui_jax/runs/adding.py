"""Adding songs to a trained run: each is learned, kept, and joins the end of the latent table. JAX is imported late."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemui_jax.data import dataset
from nemui_jax.errors import UsageError
from nemui_jax.runs.components import check_component, choose_components
from nemui_jax.runs.run import Run, locked_run, read_scores, store_song, write_manifest, write_scores

if TYPE_CHECKING:
    from nemui_jax.model.decoder import DecoderClass
    from nemui_jax.training.step import OptimizerOf
else:  # what they come from takes seconds to import
    DecoderClass = OptimizerOf = Any
MEASURED_SONGS = 32  # of those that a run had, spread evenly: to see whether any was forgotten

Progress = Callable[[int, int], None]
Scores = Mapping[str, Any]  # of a song; see `note_metrics.playback_scores`


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

    Of the songs that it has, rows are read and up to MEASURED_SONGS are measured again: scores of others stay as they
    were. The cost does not depend on how many there are, but for checking that their rows are whole.
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
    from nemui_jax.runs import checkpoint
    from nemui_jax.training import finetune

    decoder, optimizer = choose_components(decoder, optimizer)
    step = checkpoint.usable_step(run, report, range(len(run.entries)))
    if step < run.total:
        raise UsageError(f"{run.path}: trained to step {step:,} of {run.total:,}; finish its training first")
    measured, count = partial(_measured, decoder=decoder), len(run.entries) + len(songs.entries)
    chosen = dataset.spread(count - 1, MEASURED_SONGS)  # not the last, which is always measured
    scores, params = read_scores(run), checkpoint.restore_params(run, step, decoder)
    unknown = [index for index in chosen if index < len(scores) and not scores[index]]
    scores = measured(run, params, scores, unknown)
    for entry, song in zip(songs.entries, songs.songs, strict=True):
        began, steps = time.monotonic(), finetune.finetune_steps(entry.rows)
        known = checkpoint.restore_some_rows(run, run.total, finetune.OLD_ROWS)
        model = finetune.TrainedModel(params, known, run.config)
        model, rows = finetune.add_song(model, entry, song, seed, progress, decoder, optimizer)
        grown = dataclasses.replace(run, config=model.config, total=run.total + steps, entries=(*run.entries, entry))
        store_song(run, song, entry.sha256)
        checkpoint.append(grown, run.total, model.params, rows)
        write_manifest(grown)
        run, params = grown, model.params
        scores = measured(run, params, [*scores, {}], [len(scores)])
        write_scores(run, scores)
        report(f"song {len(run.entries) - 1} {entry.name}: added in {time.monotonic() - began:.1f} s")
    before, scores = scores, measured(run, params, scores, chosen)
    write_scores(run, scores)
    lost = max(0.0, *(before[index]["onset"] - scores[index]["onset"] for index in chosen))
    f1 = ", ".join(f"{score['onset']:.4f}" for score in scores[-len(songs.entries) :])
    report(f"note F1 of what was added: {f1}; of {len(chosen)} other songs none lost more than {lost:.4f}")
    return run


def _measured(
    run: Run, params: Any, scores: Sequence[Scores], songs: Sequence[int], decoder: DecoderClass
) -> list[Scores]:
    """Scores with those of some songs measured again; no other songs are read."""
    from nemui_jax.evaluation import playback
    from nemui_jax.runs import checkpoint

    if not songs:
        return [*scores]
    table = np.concatenate([checkpoint.restore_rows(run, run.total, index) for index in songs])
    corpus = dataset.Corpus(tuple(run.entries[index] for index in songs), tuple(run.song(index) for index in songs))
    found = dict(zip(songs, playback.measure(corpus, run.config, params, table, decoder), strict=True))
    return [found.get(index, old) for index, old in enumerate(scores)]
