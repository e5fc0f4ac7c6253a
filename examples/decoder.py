"""A decoder of your own in place of the MLP: a bilinear one, the time's features weighted by the latent.

python examples/decoder.py FOLDER [RUN]
"""

import sys

import flax.linen as nn
import jax

import nemui_jax as nemui
from nemui_jax.model import decoder, heads


class Bilinear(nn.Module):
    config: nemui.Config

    @nn.compact
    def __call__(self, latent: jax.Array, time: jax.Array) -> nemui.Block:
        hidden = nn.Dense(256)(latent) * nn.Dense(256)(decoder.time_features(time, self.config.model))
        shapes = {name: heads.head_shape(head, self.config) for name, head in heads.heads_of(self.config).items()}
        return {name: nn.DenseGeneral(shape)(hidden) for name, shape in shapes.items()}


def main(folder: str, run: str = "runs/bilinear", **options) -> nemui.Piece:
    nemui.train(folder, run, decoder=Bilinear, **options)
    loaded = nemui.load(run, decoder=Bilinear)  # with another decoder this is refused
    print("note F1 of each song:", {song.name: song.note_f1 for song in loaded.songs})
    return loaded.song(0)


if __name__ == "__main__":
    print(main(*sys.argv[1:3]))
