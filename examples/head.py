"""A head of your own, learned beside the others: whether a step is silent.

python examples/head.py FOLDER
"""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np

import nemui_jax as nemui
from nemui_jax.data import dataset, layout
from nemui_jax.model.heads import HEADS, Head, cross_entropy
from nemui_jax.sampling.decode import decode_heads
from nemui_jax.training.batches import load_data

HEADS["silent"] = Head(cross_entropy, lambda music: 1 - music.frame.max(-1), jax.nn.sigmoid, per="step")


def main(folder: str, updates: int = 200) -> np.ndarray:
    config = nemui.Config()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, heads=(*config.model.heads, "silent")))
    corpus, _ = dataset.load(Path(folder), config)
    config = dataset.fit_pitches(config, corpus)
    data = load_data(corpus, config)
    state = nemui.init_state(jax.random.key(0), layout.count_rows(corpus.entries), config)
    sizes = {"config": config, "length": updates}
    state, _ = nemui.train_steps(state, data, jax.random.key(1), updates, **sizes)
    found = decode_heads(state.params, state.latents[data.queries.row], np.asarray(data.queries.time), config)
    print(f"{(found['silent'] > 0.5).mean():.0%} of the steps of all rows are silent, says the decoder")
    return found["silent"]


if __name__ == "__main__":
    main(sys.argv[1])
