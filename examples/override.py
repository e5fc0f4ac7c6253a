"""Another hidden size, and an optimizer of your own for the rows: the loss after some updates with each.

python examples/override.py FOLDER [RUNS]
"""

import sys
from collections.abc import Sequence

import optax

import nemui_jax as nemui
from nemui_jax.runs.run import read_log
from nemui_jax.training.optimizer import Optimizer, make_optimizer


def plain_rows(config) -> Optimizer:
    return make_optimizer(config)._replace(rows=optax.sgd(30 * config.row_rate))


def main(
    folder: str, runs: str = "runs/override", *, steps: int = 100, overrides: Sequence[str] = ()
) -> dict[str, float]:
    trials = {
        "base": {"overrides": overrides},
        "small": {"overrides": [*overrides, "model.hidden_size=32"]},
        "plain": {"overrides": overrides, "optimizer": plain_rows},
    }
    losses = {}
    for name, options in trials.items():
        run = nemui.train(folder, f"{runs}/{name}", steps=steps, **options)
        losses[name] = read_log(run.run)[-1]["loss"]
    print("loss after", steps, "updates:", losses)
    return losses


if __name__ == "__main__":
    main(*sys.argv[1:3])
