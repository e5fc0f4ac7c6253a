"""How long a user waits for a recall and for a mix: cold, with the compilation cache filled, and in a warm process.

    python benchmarks/sample.py [--run runs/default] [--seconds 60 300 3600] [--json FILE]

Each output is asked of `run.py sample` in a process of its own, first with an empty compilation cache, then again with
the one that left behind, both wall times of the whole process. A third process, the cache still filled, runs the same
command inside itself with a clock in its parts, and then again, warm: what the studio, or a second output, waits for.
Without --run a small one is trained on the built-in tunes (few steps: what it plays matters little, how long it takes
does not). Wall times are the least of `--repeats` rounds, the parts of a cold start those of the last, warm figures
the least of three.
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

RUN_PY = [sys.executable, str(report.ROOT / "run.py")]
RECIPES = {"recall": ("--song", "0"), "mix": ("--mix", "0:0.5,1:0.5")}
WARM = 3
PARTS = ("import", "restore", "compile", "decode", "write", "rest")


def inside(arguments: list[str]) -> None:
    """The command in this process: prints the seconds of its parts, the first time and warm, as JSON."""
    began = time.perf_counter()
    from nemui_jax.cli import console
    from nemui_jax.cli.main import main

    console.start_jax()
    from orbax.checkpoint import v1  # noqa: F401

    from nemui_jax.music import midi_writer
    from nemui_jax.runs import checkpoint
    from nemui_jax.sampling import decode, play, select
    from nemui_jax.training import finetune  # noqa: F401

    imported = time.perf_counter() - began
    spent: dict[str, float] = {}
    running: list[float] = []  # when the calls began that are under way

    def clock(part: str, module: Any, *names: str) -> None:
        """Counts what these functions take; not what one of them takes inside another."""

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
    for module in (decode, play, select):
        clock("decode", module, "decode_latents")
    clock("write", midi_writer, "encode")

    def command() -> dict[str, float]:
        spent.update(restore=0.0, decode=0.0, write=0.0)
        start = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            code = main(arguments)
        if code:
            raise SystemExit(code)
        whole = time.perf_counter() - start
        return {"whole": whole} | spent

    first = command()
    warm = min((command() for _ in range(WARM)), key=lambda found: found["whole"])
    first |= {"import": imported, "whole": first["whole"] + imported}
    first["compile"] = max(first["decode"] - warm["decode"], 0)  # and the weights' first way to the device
    first["decode"] -= first["compile"]
    for found in (first, warm):
        found["rest"] = found["whole"] - sum(found.get(part, 0) for part in PARTS if part != "rest")
    print(json.dumps({"cold": first, "warm": warm}))


def measure(run: Path, recipe: str, seconds: float, folder: Path, repeats: int) -> dict[str, Any]:
    """One output, three processes a round."""
    arguments = ["sample", *RECIPES[recipe], "--seconds", str(seconds), "--run", str(run)]
    arguments += ["--out", str(folder / "out.mid")]
    walls, told = [], ""
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            programs = str(Path(cache) / "programs")
            environment = os.environ | {"NEMUI_CACHE": cache, "JAX_COMPILATION_CACHE_DIR": programs}
            for _ in range(2):
                began = time.perf_counter()
                subprocess.run([*RUN_PY, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
                walls.append(time.perf_counter() - began)
            program = [sys.executable, __file__, "--inside", *arguments]
            told = subprocess.check_output(program, text=True, env=environment, stderr=subprocess.DEVNULL)
    found = json.loads(told.splitlines()[-1])
    return {"recipe": recipe, "seconds": seconds, "first": min(walls[::2]), "second": min(walls[1::2]), "inside": found}


@contextlib.contextmanager
def a_run(path: Path | None, folder: Path, steps: int) -> Iterator[Path]:
    """The run asked for, or one made for the occasion."""
    if path is None:
        path = folder / "run"
        with report.songs(None) as midis:
            arguments = ["--dir", str(midis), "--run", str(path), "--steps", str(steps)]
            subprocess.run([*RUN_PY, "train", *arguments], check=True, stdout=subprocess.DEVNULL)
    yield path


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        return inside(sys.argv[2:])
    parser = report.parser(__doc__)
    parser.add_argument("--run", type=Path, help="a run of two songs or more (default: one is made)")
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0, 300.0, 3600.0], help="lengths of the output")
    parser.add_argument("--what", choices=tuple(RECIPES), nargs="+", default=list(RECIPES), help="recall, mix or both")
    parser.add_argument("--steps", type=int, default=200, help="of the run that is made (default: 200)")
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
