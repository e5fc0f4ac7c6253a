"""A large library of different music, made from a small one: for measurements at sizes that a folder does not have.

    python benchmarks/library.py --dir midis/ bands/ --hours 20 [--seconds 30] --out library/

With `--seconds`, of each song only so much of its beginning is used, for libraries of many songs. The songs themselves
come first, then variations of them all, in rounds, until there are so many hours. In each round songs are played
backwards (onsets reversed, lengths kept), mirrored in pitch, both or neither; their two halves are transposed apart;
velocities are drawn anew. Where notes follow the file's tempo map, beats stay, and each velocity of a part is mapped to
another one, so that what was repeated still is. Elsewhere time is bent by a smooth curve, and velocities follow a
smooth curve, half their own distance from the mean, and noise. Equal cells are shared within a song only, so that no
variation gains from its source by being alike.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import report
from jaxtyping import Float

from nemui_jax.music import midi_writer
from nemui_jax.music.song import SUSTAIN, Part, Song, TempoMap, cut_song

ROUNDS = ((True, False), (False, True), (True, True), (False, False))  # backwards, mirrored
BEND, LOUDNESS, NOISE = 0.15, 14.0, 5.0  # of tempo as a share; of velocities, slowly and note by note
CURVE_SECONDS = 6.0  # between the knots of a curve of loudness; four times that for tempo


def curve(rng: np.random.Generator, seconds: float, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Times, and values that wander smoothly about 0 with a standard deviation of 1."""
    knots = int(seconds / spacing) + 3
    times = np.linspace(0, seconds, 8 * knots)
    return times, np.interp(times, np.linspace(0, seconds, knots), rng.normal(size=knots))


def vary(song: Song, rng: np.random.Generator, on_beats: bool, backwards: bool, mirrored: bool) -> Song:
    """A variation of a song, on a steady tempo map."""
    seconds = song.seconds
    if on_beats:
        beats = float(song.tempo_map.beats_at(seconds))
        end, clock = float(np.ceil(beats)), TempoMap.steady(seconds / beats)
        place = song.tempo_map.beats_at
    else:
        times, bend = curve(rng, seconds, 4 * CURVE_SECONDS)
        warped = np.concatenate([[0.0], np.cumsum(np.diff(times) * np.exp(BEND * bend[1:]))])
        end, clock = warped[-1], TempoMap.steady(1.0)
        place = lambda time: np.interp(time, times, warped)  # noqa: E731
    loud = curve(rng, seconds, CURVE_SECONDS)
    halves = rng.choice([-5, -4, -3, -2, -1, 1, 2, 3, 4, 5], 2, replace=False)

    def moved(time: np.ndarray) -> np.ndarray:
        return clock.seconds_at(np.clip(end - place(time) if backwards else place(time), 0, None))

    def varied(part: Part) -> Part:
        notes, controls = part.notes.copy(), part.controls.copy()
        ends = np.stack([moved(part.notes["onset"]), moved(part.notes["end"])])
        notes["onset"], notes["end"] = ends[0], ends[0] + np.maximum(np.abs(ends[1] - ends[0]), 0.01)
        if not part.is_drums and len(notes):
            pitch = notes["pitch"].astype(int)
            pitch = int(pitch.min()) + int(pitch.max()) - pitch if mirrored else pitch
            pitch += halves[(part.notes["onset"] > seconds / 2).astype(int)]
            notes["pitch"] = np.clip(pitch, 21, 108)
        notes["velocity"] = louder(part.notes, rng, on_beats, loud)
        controls["time"] = moved(controls["time"])
        if backwards:  # what a control was set to then holds before its time
            pedals = controls["controller"] == SUSTAIN
            controls["value"][pedals] = 127 - np.clip(controls["value"][pedals], 0, 127)
        return replace(
            part,
            notes=notes[np.lexsort((notes["pitch"], notes["onset"]))],
            controls=controls[np.argsort(controls["time"], kind="stable")],
        )

    tempo = TempoMap.steady(clock.beat_seconds[0] if on_beats else 0.5)
    return Song(tuple(map(varied, song.parts)), tempo_map=tempo, name=song.name)


def louder(
    notes: np.ndarray, rng: np.random.Generator, repeats: bool, loud: tuple[np.ndarray, np.ndarray]
) -> Float[np.ndarray, " note"]:
    """Other velocities for a part's notes; equal ones stay equal where it `repeats`."""
    old = notes["velocity"].astype(float)
    if repeats:
        return np.clip(np.round(old + rng.normal(0, LOUDNESS / 2, 128)[notes["velocity"]]), 1, 127)
    level = old.mean() if len(old) else 64.0
    new = level + LOUDNESS * np.interp(notes["onset"], *loud) + (old - level) / 2 + rng.normal(0, NOISE, len(old))
    return np.clip(np.round(new), 1, 127)


def library(folders: list[Path], hours: float, seconds: float = np.inf) -> Iterator[tuple[str, Song]]:
    """Names and songs of at most so many seconds, until they last so many hours."""
    corpora = [report.load(folder)[1] for folder in folders]
    songs = [
        (entry, cut_song(song, seconds))
        for corpus in corpora
        for entry, song in zip(corpus.entries, corpus.songs, strict=True)
    ]
    left, number = hours * 3600, 0
    while left > 0:
        this, (entry, song) = number // len(songs), songs[number % len(songs)]
        rng = np.random.default_rng(number)
        made = song if not this else vary(song, rng, entry.clock == "file", *ROUNDS[(this - 1) % len(ROUNDS)])
        yield f"{number:04d}-{entry.name}", made
        left, number = left - made.seconds, number + 1


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--dir", type=Path, nargs="+", required=True, help="folders of songs")
    parser.add_argument("--hours", type=float, required=True, help="of music to make")
    parser.add_argument("--seconds", type=float, default=np.inf, help="most of each song (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    args: argparse.Namespace = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    seconds = []
    for name, song in library(args.dir, args.hours, args.seconds):
        midi_writer.write(song, args.out / f"{name}.mid")
        seconds.append(song.seconds)
    print(f"{len(seconds)} songs, {sum(seconds) / 3600:.1f} h in {args.out}")
    report.write(args, {"songs": len(seconds), "hours": sum(seconds) / 3600})


if __name__ == "__main__":
    main()
