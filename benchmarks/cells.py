"""How much of a folder's music is learned once: its cells, those that are heard, those that differ, and the training.

    python benchmarks/cells.py [--dir midis/ bands/] [--updates N] [--json FILE]

A cell is a part over two beats. Silent cells have no latent row, equal ones of a song share one: each row is learned
once. Seconds are those of the updates alone, without reading the folder or compiling, and the note F1 is that of onset,
pitch and instrument afterwards, as a mean over songs.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import report

from nemui_jax.data import cells, dataset, layout
from nemui_jax.evaluation import playback
from nemui_jax.training import batches
from nemui_jax.training.step import default_steps, init_state, train_loop


def measure(folder: Path, updates: int | None) -> dict[str, Any]:
    """The cells of a folder, and its training with the default configuration."""
    config, corpus = report.load(folder)
    songs = zip(corpus.songs, corpus.entries, strict=True)
    scores = [cells.make_score(dataset.on_grid(song, entry, config), config.model) for song, entry in songs]
    rows, key = layout.count_rows(corpus.entries), jax.random.key(0)
    data = batches.load_data(corpus, config)
    total = updates or default_steps(layout.count_blocks(corpus.entries, config.model), config.train)
    compiled = train_loop(init_state(key, rows, config), data, key, total, config)
    next(compiled)  # the first call compiles
    start, began = init_state(key, rows, config), time.perf_counter()
    state = [state for state, _ in train_loop(start, data, key, total, config)][-1]
    seconds = time.perf_counter() - began
    found = playback.measure(corpus, config, state.params, state.latents)
    return {
        "songs": len(scores),
        "minutes": sum(entry.seconds for entry in corpus.entries) / 60,
        "parts": sum(len(score) for score in scores),
        "cells": sum(score.size for score in scores),
        "heard": sum(int((score != layout.SILENT).sum()) for score in scores),
        "rows": rows,
        "updates": total,
        "seconds": seconds,
        "note_f1": float(np.mean([each["onset"] for each in found])),
    }


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--dir", type=Path, nargs="+", help="folders of songs (default: the built-in tunes)")
    parser.add_argument("--updates", type=int, help="of each training (default: as many as `train` makes)")
    args: argparse.Namespace = parser.parse_args()
    found = {}
    for path in args.dir or [None]:
        with report.songs(path) as folder:
            found[path.name if path else "built-in tunes"] = measure(folder, args.updates)
    names = ("songs", "minutes", "parts", "cells", "heard", "rows", "updates", "seconds", "note_f1")
    rows = [(name, *(row[key] for key in names), row["rows"] / row["heard"]) for name, row in found.items()]
    report.show("cells, and seconds of training", ("folder", *names, "rows/heard"), rows)
    report.write(args, found)


if __name__ == "__main__":
    main()
