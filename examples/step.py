"""Some optimiser steps on songs of your own, in a loop of your own; without a folder, on the built-in tunes.

python examples/step.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import jax

import nemui_jax as nemui
from nemui_jax.data import dataset
from nemui_jax.music import tunes
from nemui_jax.training.batches import load_data


def main(folder: str | None = None, steps: int = 20) -> list[float]:
    config = nemui.Config()
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            tunes.write_all(Path(temporary))
        corpus, _ = dataset.load(Path(folder or temporary), config)
    config = dataset.fit_heads(dataset.fit_pitches(config, corpus), corpus)
    data = load_data(corpus, config)
    rows = int(data.queries.row.max()) + 1
    init_key, data_key = jax.random.split(jax.random.key(0))
    state = nemui.init_state(init_key, rows, config)
    step = jax.jit(nemui.train_step, static_argnames="config")
    losses = []
    for _ in range(steps):
        state, loss = step(state, data, data_key, jax.numpy.int32(steps), config=config)
        losses.append(float(loss))
        print(f"step {int(state.step)}: loss {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else None)
