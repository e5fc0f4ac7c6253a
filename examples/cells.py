"""A song as a score of cells: of each part the latent row that each cell is decoded from, or a dot where it is silent.

python examples/cells.py RUN [SONG]
"""

import sys

import numpy as np

import nemui_jax as nemui
from nemui_jax.data import cells, dataset


def main(folder: str, song: int = 0) -> np.ndarray:
    run = nemui.load(folder)
    entry = run.run.entries[song]
    score = cells.make_score(dataset.on_grid(run.run.song(song), entry, run.config), run.config.model)
    for part, rows in zip(entry.parts, score, strict=True):
        print(f"{part.name or part.instrument:20.20}", *("." if row < 0 else row for row in rows))
    heard = score[score >= 0]
    print(f"{entry.name}: {score.size} cells of {run.config.model.knot_steps or entry.steps} steps in", end=" ")
    print(f"{len(score)} parts; {score.size - len(heard)} are silent, {len(heard) - entry.rows} share another's row")
    return np.asarray(run.table)[run.run.row_starts[song] + score.clip(0)]  # [part cell latent]


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
