"""What each factor of a mix moves, and how even the steps from one song to another are.

    python benchmarks/mixing.py [--dir midis/] [--pairs 6] [--json FILE]

Mixes at equal weights, with one factor wholly the first song's and then wholly the second's. A column says how far this
moves a property of what is heard, as a share of the way from the first song to the second: 1 all of it, 0 nothing.

    harmony      the beats whose chord is that of a song on this beat
    melody       four successive notes of the upper line, by interval and distance in time, that are in a song's too
    rhythm       onsets under the upper line, in windows of four beats, by their likeness to the nearest of a song's
    dynamics     the mean velocity
    tempo        the mean length of a beat
    instruments  the notes on instruments that only one of the songs has

Steps are those between eleven mixes from one song to the other: the share of notes that change in each.
"""

import argparse
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import report

from nemui_jax.data import dataset
from nemui_jax.music import harmony
from nemui_jax.music.song import Song
from nemui_jax.sampling.analysis import AnalyzedSong
from nemui_jax.sampling.lines import topmost
from nemui_jax.sampling.mix import Factors, analyze, mix

FACTORS = ("harmony", "melody", "rhythm", "dynamics", "tempo", "instruments")
STEPS, WINDOW = 12, 4  # a beat; beats
LINE_NOTES = 4


class Heard:
    """What is heard in a mix, at 12 steps a beat."""

    def __init__(self, song: Song):
        pitched = [part for part in song.parts if not part.is_drums]
        notes = np.sort(np.concatenate([part.notes for part in pitched]), order=["onset", "pitch"])
        onset, end = (song.tempo_map.beats_at(notes[name]) for name in ("onset", "end"))
        self.beats = int(onset.max()) + 1
        self.chords = harmony.chords(onset, end, notes["pitch"].astype(np.int64), self.beats)
        step = np.round(onset * STEPS).astype(int)
        grid = np.zeros(len(notes), [("step", "i4"), ("end", "i4"), ("pitch", "i2")])
        grid["step"], grid["pitch"] = step, notes["pitch"]
        grid["end"] = np.maximum(np.round(end * STEPS), step + 1)
        upper = topmost(grid, int(grid["end"].max()))
        line = grid[upper]
        moves = list(zip(np.diff(line["step"]).tolist(), np.diff(line["pitch"].astype(int)).tolist(), strict=True))
        self.line = [tuple(moves[first : first + LINE_NOTES - 1]) for first in range(len(moves) - LINE_NOTES + 2)]
        rhythm = np.zeros((self.beats + WINDOW) * STEPS)
        rhythm[step[~upper]] = 1
        self.windows = np.stack([rhythm[beat * STEPS : (beat + WINDOW) * STEPS] for beat in range(self.beats)])
        self.velocity = float(notes["velocity"].mean())
        self.beat_seconds = float(np.log(song.seconds / max(song.tempo_map.beats_at(song.seconds), 1)))
        self.programs = np.array([part.program for part in pitched for _ in part.notes])
        self.notes = set(zip(step.tolist(), notes["pitch"].tolist(), strict=True))

    def nearness(self, other: "Heard") -> dict[str, float]:
        """How near this is to a song, by each factor."""
        beats = min(self.beats, other.beats)
        here = self.windows[::WINDOW]
        total = here.sum(1)[:, None] + other.windows.sum(1)
        alike = (2 * here @ other.windows.T / np.maximum(total, 1)).max(1)
        return {
            "harmony": float((self.chords[:beats] == other.chords[:beats]).mean()),
            "melody": float(np.mean([found in set(other.line) for found in self.line])) if self.line else 0.0,
            "rhythm": float(alike[here.any(1)].mean()) if here.any() else 0.0,
            "dynamics": -abs(self.velocity - other.velocity),
            "tempo": -abs(self.beat_seconds - other.beat_seconds),
            "instruments": float(np.isin(self.programs, other.programs).mean()),
        }


def place(piece: Heard, songs: tuple[Heard, Heard]) -> np.ndarray:
    """How much nearer a piece is to the second song than to the first, by each factor."""
    near, nearer = (piece.nearness(song) for song in songs)
    return np.array([nearer[name] - near[name] for name in FACTORS])


def measure(pair: tuple[AnalyzedSong, AnalyzedSong]) -> tuple[np.ndarray, list[float]]:
    """The effect [factor, property] of each factor, and the size of each step from the first song to the second."""

    def heard(second: float, **factors: int) -> Heard:
        weights = np.array([[1 - second], [second]])
        return Heard(mix(pair, lambda bars: np.repeat(weights, bars, 1), factors=Factors(**factors), shift=0))

    path = [heard(second) for second in np.linspace(0, 1, 11).tolist()]
    ends = (path[0], path[-1])
    way = place(ends[1], ends) - place(ends[0], ends)
    way[np.abs(way) < [0.05, 0.05, 0.05, 2, 0.05, 0.05]] = np.nan  # the songs are alike
    effects = [(place(heard(0.5, **{name: 1}), ends) - place(heard(0.5, **{name: 0}), ends)) / way for name in FACTORS]
    steps = [1 - 2 * len(one.notes & two.notes) / (len(one.notes) + len(two.notes)) for one, two in pairwise(path)]
    return np.stack(effects), steps


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--dir", type=Path, help="a folder of songs (default: the built-in tunes)")
    parser.add_argument("--pairs", type=int, default=6)
    args: argparse.Namespace = parser.parse_args()
    with report.songs(args.dir) as folder:
        config, corpus = report.load(folder)
    songs = [dataset.on_grid(song, entry, config) for song, entry in zip(corpus.songs, corpus.entries, strict=True)]
    pairs = list(combinations(range(len(songs)), 2))
    chosen = [pairs[index] for index in np.random.default_rng(0).permutation(len(pairs))[: args.pairs]]
    found = [measure((analyze(songs[one]), analyze(songs[two]))) for one, two in chosen]
    effects = np.ma.masked_invalid([effect for effect, _ in found]).mean(0).filled(np.nan)
    steps = np.mean([step for _, step in found], 0)
    rows = [(name, *row) for name, row in zip(FACTORS, effects.tolist(), strict=True)]
    report.show("what each factor moves", ("factor", *FACTORS), rows)
    report.show(
        "notes that change in each step", [str(number) for number in range(1, len(steps) + 1)], [steps.tolist()]
    )
    effect = {name: dict(zip(FACTORS, row, strict=True)) for name, *row in rows}
    figures: dict[str, Any] = {"factors": effect, "steps": steps.tolist()}
    report.write(args, figures)


if __name__ == "__main__":
    main()
