"""Another hidden size, and an optimiser of your own for the rows: some updates of each.

python examples/override.py FOLDER
"""

import dataclasses
import sys
from pathlib import Path

import optax
from jax.random import key

import nemui_jax as nemui
from nemui_jax.data import dataset, layout
from nemui_jax.training.batches import load_data
from nemui_jax.training.optimizer import Optimizer, make_optimizer


def plain_rows(config) -> Optimizer:
    return make_optimizer(config)._replace(rows=optax.sgd(30 * config.row_rate))


def main(folder: str, updates: int = 50) -> dict[str, float]:
    corpus, _ = dataset.load(Path(folder), nemui.Config().roll)
    base, losses = dataset.fit_pitches(nemui.Config(), corpus), {}
    small = dataclasses.replace(base, model=dataclasses.replace(base.model, hidden_size=32))
    data, max_notes = load_data(corpus, base)
    trials = {"base": (base, make_optimizer), "small": (small, make_optimizer), "plain": (base, plain_rows)}
    for name, (config, optimizer) in trials.items():
        state = nemui.init_state(key(0), layout.count_corpus_rows(corpus.lengths, config), config, optimizer=optimizer)
        sizes = {"config": config, "max_notes_per_block": max_notes, "length": updates}
        _, found = nemui.train_steps(state, data, key(1), updates, **sizes, optimizer=optimizer)
        losses[name] = float(found[-1])
    print("loss after", updates, "updates:", losses)
    return losses


if __name__ == "__main__":
    main(sys.argv[1])
