"""How long a run is trained: as planned when it began, or less where its songs are known before.

Songs are known where the mean loss of a call of updates is below `TrainConfig.known_loss` a note. Velocities are
learned last, as the learning rates fall, so training goes on from there at the rates of one that is KNOWN_RATIO times
as long as it took to know them. Both lengths, and the step at which songs were known, are in the manifest.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from nemui_jax.runs.run import Run, write_manifest

if TYPE_CHECKING:
    from nemui_jax.training.loop import Loop
    from nemui_jax.training.step import TrainState
else:  # what they come from takes seconds to import
    Loop = TrainState = Any

KNOWN_RATIO = 2


def train_chunks(
    run: Run, loop: Loop, state: TrainState, report: Callable[[str], None]
) -> Iterator[tuple[Run, TrainState, np.ndarray]]:
    """Trains a run from a state to its end; yields the run, which may become shorter, the state, and the losses.

    A training that goes on from a step before its songs were known trains on up to that step as it did before.
    """
    from nemui_jax.training import distributed
    from nemui_jax.training.step import is_known

    last, planned = state, run.planned
    if planned and int(state.step) < (run.known_at or planned):
        for last, losses in loop.chunks(state, planned):
            step = int(last.step)
            total = KNOWN_RATIO * step
            if run.known_at is None and total < planned and is_known(losses, loop.notes_per_step, run.config.train):
                run = dataclasses.replace(run, total=total, known_at=step)
                report(f"the songs are known at step {step:,}: training ends at {total:,}, not {planned:,}")
                if distributed.is_coordinator():
                    write_manifest(run)
            yield run, last, losses
            if step == run.known_at:
                break
    for after, losses in loop.chunks(last, run.total):
        yield run, after, losses
