"""A way between songs with weights of your own: out from the first to a third of the second, and back again.

python examples/morph.py RUN OUT.mid
"""

import sys

import numpy as np

import nemui_jax as nemui


def main(folder: str, out: str) -> None:
    run = nemui.load(folder)
    second = np.sin(np.linspace(0, np.pi, 33)) / 3  # at 33 points, spread evenly over the piece
    piece = run.morph([0, 1], weights=[1 - second, second], seconds=20)
    piece.write(out)
    print(piece, "of", " and ".join(parent.name for parent in piece.parents), "to", out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
