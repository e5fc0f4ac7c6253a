"""How long playing back a song and a mix take: at a first start, with a compilation cache, and in a warm process.

    python benchmarks/sample.py [--run runs/default] [--seconds 60 300 3600] [--json FILE]

Each output is made by `run.py sample` in two processes, the first with an empty compilation cache, the second with the
cache that the first one filled; both are timed as a whole. A third process, also with the cache, runs the same command
with its parts timed, and then again, warm, as for the studio or a second output. Without --run a run is trained on the
built-in tunes for a few updates, as its quality does not matter. Times of processes are the minimum of `--repeats`
rounds, the parts of a cold start those of the last round, warm times the minimum of three.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import report

RECIPES = {"recall": ("--song", "0"), "mix": ("--mix", "0:0.5,1:0.5")}
WARM = 3
PARTS = ("import", "restore", "compile", "decode", "write", "rest")


def inside(arguments: list[str]) -> None:
    """Runs the command in this process, and prints the seconds of its parts, cold and warm, as JSON."""
    began = time.perf_counter()
    from nemui_jax.cli import console
    from nemui_jax.cli.main import main

    console.start_jax()
    from orbax.checkpoint import v1  # noqa: F401

    from nemui_jax.music import midi_writer
    from nemui_jax.runs import checkpoint
    from nemui_jax.sampling import decode
    from nemui_jax.training import finetune  # noqa: F401

    imported = time.perf_counter() - began
    spent: dict[str, float] = {}
    running: list[float] = []  # start times of the timed calls in progress

    def clock(part: str, module: Any, *names: str) -> None:
        """Adds up the time of these functions, without counting nested calls twice."""

        def clocked(call: Callable[..., Any]) -> Callable[..., Any]:
            def timed(*args: Any, **options: Any) -> Any:
                running.append(time.perf_counter())
                try:
                    return call(*args, **options)
                finally:
                    start = running.pop()
                    spent[part] += 0 if running else time.perf_counter() - start

            return timed

        for name in names:
            setattr(module, name, clocked(getattr(module, name)))

    clock("restore", checkpoint, "whole_step", *(name for name in vars(checkpoint) if name.startswith("restore")))
    clock("decode", decode, "decode_song")
    clock("write", midi_writer, "encode")

    def command() -> dict[str, float]:
        spent.update(restore=0.0, decode=0.0, write=0.0)
        start = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            code = main(arguments)
        if code:
            raise SystemExit(code)
        return {"whole": time.perf_counter() - start} | spent

    first = command()
    warm = min((command() for _ in range(WARM)), key=lambda found: found["whole"])
    first |= {"import": imported, "whole": first["whole"] + imported}
    first["compile"] = max(first["decode"] - warm["decode"], 0)  # and moving the weights to the device
    first["decode"] -= first["compile"]
    for found in (first, warm):
        found["rest"] = found["whole"] - sum(found.get(part, 0) for part in PARTS if part != "rest")
    print(json.dumps({"cold": first, "warm": warm}))


def measure(run: Path, recipe: str, seconds: float, folder: Path, repeats: int) -> dict[str, Any]:
    """Times one output, with three processes a round."""
    arguments = ["sample", *RECIPES[recipe], "--seconds", str(seconds), "--run", str(run)]
    arguments += ["--out", str(folder / "out.mid")]
    walls, printed = [], ""
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            programs = str(Path(cache) / "programs")
            environment = os.environ | {"NEMUI_CACHE": cache, "JAX_COMPILATION_CACHE_DIR": programs}
            for _ in range(2):
                began = time.perf_counter()
                subprocess.run([*report.RUN_PY, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
                walls.append(time.perf_counter() - began)
            program = [sys.executable, __file__, "--inside", *arguments]
            printed = subprocess.check_output(program, text=True, env=environment, stderr=subprocess.DEVNULL)
    found = json.loads(printed.splitlines()[-1])
    return {"recipe": recipe, "seconds": seconds, "first": min(walls[::2]), "second": min(walls[1::2]), "inside": found}


@contextlib.contextmanager
def a_run(path: Path | None, folder: Path, steps: int) -> Iterator[Path]:
    """The given run, or one that is trained now."""
    if path is None:
        path = folder / "run"
        with report.songs(None) as midis:
            arguments = ["--dir", str(midis), "--run", str(path), "--steps", str(steps)]
            subprocess.run([*report.RUN_PY, "train", *arguments], check=True, stdout=subprocess.DEVNULL)
    yield path


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        return inside(sys.argv[2:])
    parser = report.parser(__doc__)
    parser.add_argument("--run", type=Path, help="a run of two songs or more (default: one is trained)")
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0, 300.0, 3600.0], help="lengths of the output")
    parser.add_argument("--what", choices=tuple(RECIPES), nargs="+", default=list(RECIPES), help="recall, mix or both")
    parser.add_argument("--steps", type=int, default=200, help="updates of the run that is trained (default: 200)")
    parser.add_argument("--repeats", type=int, default=2, help="rounds (default: 2)")
    args: argparse.Namespace = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, a_run(args.run, Path(temporary), args.steps) as run:
        found = [
            measure(run, recipe, seconds, Path(temporary), args.repeats)
            for recipe in args.what
            for seconds in args.seconds
        ]
    rows = []
    for row in found:
        cold, warm = row["inside"]["cold"], row["inside"]["warm"]
        rows.append(
            (
                f"{row['recipe']} of {row['seconds'] / 60:g} min",
                row["first"],
                row["second"] / row["first"],
                warm["whole"] / row["first"],
                round(row["seconds"] / warm["whole"]),
                *(cold[part] / cold["whole"] for part in PARTS),
                warm["decode"],
                warm["write"],
                warm["whole"],
            )
        )
    columns = ("output", "first s", "second/first", "warm/first", "warm, x real time")
    shares = tuple(f"{part} %" for part in PARTS)
    rows = [(*row[:5], *(f"{share * 100:.0f}" for share in row[5:11]), *row[11:]) for row in rows]
    report.show(
        "sample; % are shares of the second cold start",
        (*columns, *shares, "warm decode s", "write s", "in all s"),
        rows,
    )
    report.write(args, found)


if __name__ == "__main__":
    main()
