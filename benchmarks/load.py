"""Reading a folder of MIDI files, with and without a cache, compared with pretty_midi on the same files.

    python benchmarks/load.py [--dir midis/] [--copies 8] [--json FILE]

All three take turns and use all cores. pretty_midi runs in a pool of processes that have started and imported it before
timing begins, and only parses (it returns the number of notes). Ours starts processes, if it does, while it is timed;
it hashes and parses files, estimates keys, lays notes on the grid and, without a cache, writes one. `--copies` makes so
many copies of every song, files of different bytes in a temporary folder. Times are the minimum of several rounds,
ratios the median over rounds. Needs the extra `benchmark`.
"""

import argparse
import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import report

from nemui_jax.config import Config
from nemui_jax.data import cache, dataset
from nemui_jax.errors import MidiError
from nemui_jax.music import midi_files, midi_reader, midi_writer


def count_notes(path: Path) -> int:
    """The number of notes that pretty_midi reads from a file; -1 if it cannot read it."""
    import pretty_midi

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return sum(len(part.notes) for part in pretty_midi.PrettyMIDI(str(path)).instruments)
        except Exception:  # damaged files raise all kinds of errors
            return -1


@contextlib.contextmanager
def copied(folder: Path, copies: int) -> Iterator[Path]:
    """The folder, or a temporary one with this many copies of every song."""
    if copies == 1:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        for index, path in enumerate(midi_files.find(folder)[0]):
            with contextlib.suppress(MidiError):
                song = midi_reader.read(path)
                for copy in range(copies):
                    midi_writer.write(song, Path(temporary) / f"{index:05d}-{copy:03d}.mid", text=f"copy {copy}")
        yield Path(temporary)


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    """Times all three on one folder."""
    paths, _ = midi_files.find(folder)
    settings = Config()
    corpus, _ = dataset.load(folder, settings)
    if not corpus.entries:
        raise SystemExit(f"{folder}: no song there")
    notes, songs = sum(entry.notes for entry in corpus.entries), cache.cache_folder() / "songs"

    def cached() -> None:
        dataset.load(folder, settings)

    def uncached() -> None:  # deleting the cache takes about a millisecond
        shutil.rmtree(songs)
        dataset.load(folder, settings)

    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with get_context("spawn").Pool(workers) as pool:
        pool.map(count_notes, paths[:workers])
        theirs = pool.map(count_notes, paths)
        contenders = {
            "nothing cached": uncached,
            "cached": cached,
            "pretty_midi": lambda: pool.map(count_notes, paths, chunksize=max(len(paths) // (workers * 16), 1)),
        }
        seconds = report.in_turns(contenders, repeats)
    return {
        "files": len(paths),
        "songs": len(corpus.entries),
        "notes": notes,
        "bytes": sum(path.stat().st_size for path in paths),
        "pretty_midi_refused": theirs.count(-1),
        "seconds": seconds,
        "best": {name: min(values) for name, values in seconds.items()},
        "ratio": {name: report.ratio(seconds["pretty_midi"], values) for name, values in seconds.items()},
    }


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--dir", type=Path, help="songs (default: the built-in tunes)")
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 8], help="of each song (default: 1, then 8)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    args: argparse.Namespace = parser.parse_args()
    found = []
    with report.songs(args.dir) as folder, tempfile.TemporaryDirectory() as cache:
        os.environ["NEMUI_CACHE"] = cache
        for copies in args.copies:
            with copied(folder, copies) as many:
                found.append(measure(many, args.repeats))
    rows = [
        (name, row["ratio"][name], f"{row['files']:,}", row["files"] / best, round(row["notes"] / best), best)
        for row in found
        for name, best in row["best"].items()
    ]
    columns = ("reading", "x pretty_midi's speed", "files", "files/s", "notes/s", "s")
    report.show("reading a folder", columns, rows)
    report.write(args, found)


if __name__ == "__main__":
    main()
