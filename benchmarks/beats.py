"""How well beats are tracked: the beats found in a folder of performances against their annotations.

    python benchmarks/beats.py --dir performances/ [--left-out] [--json beats.json]

Beside each file.mid are its beats, as file_annotations.txt or file.txt in the format of ASAP (Foscarin et al., 2020): a
time in seconds, the time again, and `db` for a downbeat or `b` for another beat. Nothing is trained. F is that of beats
within 70 ms; at any level the best of the beats found and of these twice, half, three times or a third as fast.

With --left-out, beats are tracked in each file by the networks that were not trained on it, if this is the folder that
`train_beats.py` had. The other weights, those in `beat_scores`, were fitted to all of it.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import report

from nemui_jax.evaluation import beats
from nemui_jax.music import midi_reader
from nemui_jax.music.beat_network import Weights, load_weights, without
from nemui_jax.music.beats import track_beats

FIELDS = ("f", "any_level", "downbeat_f", "confidence")


def annotated(folder: Path) -> list[tuple[Path, Path]]:
    """The performances of a folder and their annotations, in the order of their names."""
    found = []
    for path in sorted(folder.rglob("*.mid")):
        texts = (path.with_name(path.stem + ending) for ending in ("_annotations.txt", ".txt"))
        found += [(path, text) for text in texts if text.exists()][:1]
    if not found:
        raise SystemExit(f"{folder}: no .mid there has its beats beside it; see {Path(__file__).name} --help")
    return found


def measure(path: Path, text: Path, weights: Weights) -> dict[str, Any]:
    """How well the beats of a performance are found, and the seconds of CPU time for a minute of music."""
    song = midi_reader.read(path)
    began = time.process_time()
    found = track_beats(song.notes, song.pedal, weights)
    seconds = time.process_time() - began
    return {
        "name": path.stem,
        **beats.compare(*beats.read_annotations(text), found),
        "seconds_a_minute": 60 * seconds / song.seconds,
    }


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--left-out", action="store_true", help="use the networks not trained on a file")
    args: argparse.Namespace = parser.parse_args()
    weights = load_weights()
    rows = [
        measure(*files, without(weights, piece) if args.left_out else weights)
        for piece, files in enumerate(annotated(args.dir))
    ]
    names = (*FIELDS, "seconds_a_minute")
    mean = {name: float(np.mean([row[name] for row in rows if row[name] is not None])) for name in names}
    table = [(row["name"], *("-" if row[name] is None else row[name] for name in names)) for row in rows]
    report.show("beats found", ("performance", *names), [*table, ("mean", *mean.values())])
    report.write(args, {"performances": rows, "mean": mean})


if __name__ == "__main__":
    main()
