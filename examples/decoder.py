"""A decoder of your own in place of the MLP: a bilinear one, the time's features weighted by the latent.

python examples/decoder.py FOLDER
"""

import sys
from pathlib import Path

import flax.linen as nn
import jax

import nemui_jax as nemui
from nemui_jax.data import dataset, layout
from nemui_jax.model import decoder, heads
from nemui_jax.training.batches import load_data


class Bilinear(nn.Module):
    config: nemui.Config

    @nn.compact
    def __call__(self, latent: jax.Array, time: jax.Array) -> nemui.Block:
        hidden = nn.Dense(256)(latent) * nn.Dense(256)(decoder.time_features(time, self.config.model))
        shapes = {name: heads.head_shape(head, self.config) for name, head in heads.heads_of(self.config).items()}
        return {name: nn.DenseGeneral(shape)(hidden) for name, shape in shapes.items()}


def main(folder: str, updates: int = 50) -> list[float]:
    corpus, _ = dataset.load(Path(folder), nemui.Config().roll)
    config = dataset.fit_pitches(nemui.Config(), corpus)
    data, max_notes = load_data(corpus, config)
    state = nemui.init_state(jax.random.key(0), layout.count_corpus_rows(corpus.lengths, config), config, Bilinear)
    sizes = {"config": config, "max_notes_per_block": max_notes, "length": updates}
    _, losses = nemui.train_steps(state, data, jax.random.key(1), updates, **sizes, decoder=Bilinear)
    return losses.tolist()


if __name__ == "__main__":
    print("losses:", main(sys.argv[1]))
