"""The cells of a song: when each begins, the latent row it is decoded from, and the cell most like it.

python examples/cells.py RUN [SONG]
"""

import sys

import numpy as np

import nemui_jax as nemui
from nemui_jax.data import layout


def main(folder: str, song: int = 0) -> np.ndarray:
    run = nemui.load(folder)
    entry, model = run.run.entries[song], run.config.model
    rows = run.run.row_starts[song] + layout.cell_rows(entry.steps, model)  # of each cell, in the table of all songs
    latent = np.asarray(run.table)[rows]
    direction = latent / np.linalg.norm(latent, axis=1, keepdims=True)
    likeness = direction @ direction.T - 2 * np.eye(len(rows))
    print(f"{entry.name}: {len(rows)} cells of {model.knot_steps or entry.steps} steps")
    for cell, row in enumerate(rows):
        print(f"cell {cell} begins at step {cell * model.knot_steps}, row {row}; like cell {likeness[cell].argmax()}")
    return latent


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
