"""Seconds of training until a given quality: the default preset compared with `--preset original` on the same songs.

    python benchmarks/time_to_quality.py [--dir midis/] [--cap 300] [--json FILE]

There are two thresholds: the F1 of frames on the grid over all parts of all songs (`--cells`), and the songs' mean note
F1 of onsets (`--notes`); the original preset is compared with what it learns, the parts merged and without drums. The
contender with less training time goes next, CHUNK updates at a time, so that a load on the machine affects both.
Compilation is timed separately. Quality is measured after every 5 % more training time, which is the resolution of the
figures; this is not counted as training, and takes at most as long. Both train on whole songs. A contender stops when
both thresholds are reached, at the cap, or at the end of its schedule.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import report

from nemui_jax import config
from nemui_jax.config import PRESETS, Config
from nemui_jax.data import dataset, layout, pianoroll
from nemui_jax.data.grid import GridSong
from nemui_jax.evaluation import note_metrics
from nemui_jax.sampling.arrange import to_song
from nemui_jax.sampling.decode import decode_song, latent_songs
from nemui_jax.training import batches
from nemui_jax.training.step import default_steps, init_state, train_steps

CHUNK = 10  # updates between readings of the clock
CHECK_GROWTH = 1.05


class Contender:
    """Training in progress, with its time and the best quality so far."""

    def __init__(self, preset: str, folder: Path, bars: dict[str, float]):
        self.settings, self.corpus = report.load(folder, config.preset(preset))
        self.data = batches.load_data(self.corpus, self.settings)
        self.key = jax.random.key(0)
        self.state = init_state(self.key, layout.count_rows(self.corpus.entries), self.settings)
        schedule = default_steps(len(self.data.queries.step), self.settings.train)
        self.total = 2**30 if self.settings.train.constant_rate else schedule  # no end with a constant rate
        began = time.perf_counter()
        static: dict[str, Any] = {"config": self.settings, "length": CHUNK}
        lowered = train_steps.lower(self.state, self.data, self.key, jnp.int32(self.total), **static)
        self.run = lowered.compile()
        self.compile_seconds = time.perf_counter() - began
        self.seconds, self.steps, self.checked, self.measuring_seconds = 0.0, 0, 0.0, 0.0
        grids = [
            dataset.on_grid(song, entry, self.settings)
            for entry, song in zip(self.corpus.entries, self.corpus.songs, strict=True)
        ]
        self.cells = np.concatenate([frames(grid, self.settings) for grid in grids])
        self.bars, self.reached, self.best = bars, dict.fromkeys(bars), dict.fromkeys(bars, 0.0)

    def is_running(self, cap: float) -> bool:
        """Whether a threshold is not reached yet, and there is time left."""
        return None in self.reached.values() and self.seconds < cap and self.steps < self.total

    def train_chunk(self, cap: float) -> None:
        """Trains for CHUNK updates, and measures the quality if that is due."""
        began = time.perf_counter()
        self.state, losses = self.run(self.state, self.data, self.key, jnp.int32(self.total))
        jax.block_until_ready(losses)
        self.seconds += time.perf_counter() - began
        self.steps += CHUNK
        due = self.seconds > self.checked * CHECK_GROWTH and self.measuring_seconds < self.seconds
        if due or self.seconds >= cap or self.steps >= self.total:
            self.measure()

    def measure(self) -> None:
        """Measures the quality, and records which thresholds are reached."""
        began, self.checked = time.perf_counter(), self.seconds
        found = self.quality()
        for name, bar in self.bars.items():
            self.best[name] = max(self.best[name], found[name])
            if self.reached[name] is None and found[name] >= bar:
                self.reached[name] = self.seconds
        self.measuring_seconds += time.perf_counter() - began

    def quality(self) -> dict[str, float]:
        """F1 of frames over all songs, and the mean of the songs' note F1."""
        cells, notes = [], []
        songs = latent_songs(self.corpus, self.state.latents, self.settings)
        for song, source in zip(songs, self.corpus.songs, strict=True):
            found = decode_song(self.state.params, song, self.settings)
            cells.append(frames(found, self.settings))
            learned = dataset.learned_song(source, self.settings)
            notes.append(note_metrics.playback_scores(learned, to_song(found))["onset"])
        return {"cells": cell_f1(self.cells, np.concatenate(cells)), "notes": float(np.mean(notes))}


def cell_f1(reference: np.ndarray, estimate: np.ndarray) -> float:
    """F1 over the cells of two boolean rolls of one shape."""
    hits = np.count_nonzero(reference & estimate)
    return 2 * hits / max(np.count_nonzero(reference) + np.count_nonzero(estimate), 1)


def frames(song: GridSong, settings: Config) -> np.ndarray:
    """Which pitches sound at each step of each part, one part after another."""
    low, high = settings.roll.low, settings.roll.high
    rolls = [pianoroll.to_roll(part.notes, part.notes["end"].max(initial=song.steps), low, high) for part in song.parts]
    return np.concatenate([roll[: song.steps, pianoroll.FRAME] > 0.5 for roll in rolls])


def result(contender: Contender, bar: str, minutes: float) -> dict[str, Any]:
    """The figures of one contender and threshold."""
    seconds, compiling = contender.reached[bar], contender.compile_seconds
    return {
        "bar": contender.bars[bar],
        "reached": seconds is not None,
        "best": contender.best[bar],
        "training_seconds": contender.seconds if seconds is None else seconds,
        "compile_seconds": compiling,
        "seconds": None if seconds is None else seconds + compiling,
        "seconds_a_minute_of_music": None if seconds is None else (seconds + compiling) / minutes,
    }


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--dir", type=Path, help="songs (default: the built-in tunes)")
    parser.add_argument("--cells", type=float, default=0.74, help="F1 of frames to reach (default: 0.74)")
    parser.add_argument("--notes", type=float, default=0.99, help="note F1 to reach (default: 0.99)")
    parser.add_argument("--cap", type=float, default=300.0, help="most seconds of training each (default: 300)")
    args: argparse.Namespace = parser.parse_args()
    bars = {"cells": args.cells, "notes": args.notes}
    with report.songs(args.dir) as folder:
        contenders = {preset: Contender(preset, folder, bars) for preset in PRESETS}
    while running := [contender for contender in contenders.values() if contender.is_running(args.cap)]:
        min(running, key=lambda contender: contender.seconds).train_chunk(args.cap)
    corpus = contenders["default"].corpus
    minutes = sum(entry.seconds for entry in corpus.entries) / 60
    found = {preset: {bar: result(each, bar, minutes) for bar in bars} for preset, each in contenders.items()}
    rows = []
    for bar, value in bars.items():
        for preset, row in found.items():
            if row[bar]["reached"]:
                times = [row[bar][name] for name in ("training_seconds", "seconds", "seconds_a_minute_of_music")]
            else:
                why = f"not reached in {row[bar]['training_seconds']:.0f} s (best {row[bar]['best']:.3f})"
                times = [why, "-", "-"]
            rows.append(
                (f"{bar} F1 {value:g}", preset, *times, row[bar]["compile_seconds"], faster(found, bar, preset))
            )
    columns = ("bar", "preset", "s of training", "with compiling", "a minute of music", "s to compile", "default is")
    report.show(f"time to quality, {len(corpus.entries)} songs, {minutes:.1f} minutes", columns, rows)
    figures = {"minutes": minutes, "songs": len(corpus.entries), "presets": found}
    report.write(args, figures | {"steps": {name: each.steps for name, each in contenders.items()}})


def faster(found: dict[str, Any], bar: str, preset: str) -> str:
    """How many times as fast the default reached a threshold, as text; a lower bound if this one did not reach it."""
    first, other = found["default"][bar], found[preset][bar]
    if preset == "default" or not first["reached"]:
        return ""
    factor = other["training_seconds"] / first["training_seconds"]
    return f"{'' if other['reached'] else '> '}{factor:.3g} x as fast"


if __name__ == "__main__":
    main()
