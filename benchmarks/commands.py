"""Time and memory of whole commands on a run, for runs of many songs.

    python benchmarks/commands.py [--run runs/default] [--repeats 3] [--evaluate] [--json FILE]

Each command is a process of its own: its time is the least of `--repeats`, its memory the most that it held at once.
`studio` is what the studio does before its page can be opened. With `--evaluate` that command is run once, too.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import report

COMMANDS = {
    "songs": ("songs",),
    "sample, one song": ("sample", "--song", "0", "--seconds", "60"),
    "sample, a mix": ("sample", "--mix", "0:0.5,1:0.5", "--seconds", "60"),
    "sample, a new song": ("sample", "--random", "--seconds", "60"),
}
STUDIO = "import sys, pathlib; from nemui_jax.studio.state import Studio; Studio(pathlib.Path(sys.argv[1]))"


def measure(command: Sequence[object]) -> tuple[float, float]:
    """Seconds of a process, and the MiB that it held at most. What it says is kept from the screen unless it fails."""
    with tempfile.TemporaryFile("w+") as said:
        began = time.perf_counter()
        process = subprocess.Popen(list(map(str, command)), stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(said.read())
    return seconds, used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/default"), help="a trained run (default: runs/default)")
    parser.add_argument("--repeats", type=int, default=3, help="of each command (default: 3)")
    parser.add_argument("--evaluate", action="store_true", help="measure `evaluate`, too, once")
    args: argparse.Namespace = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as out:
        commands: dict[str, list[object]] = {
            name: [*report.RUN_PY, *words, "--run", args.run, *(("--out", out) if words[0] == "sample" else ())]
            for name, words in COMMANDS.items()
        }
        commands["studio"] = [sys.executable, "-c", STUDIO, args.run]
        if args.evaluate:
            commands["evaluate"] = [*report.RUN_PY, "evaluate", "--run", args.run]
        for name, command in commands.items():
            repeats = 1 if name == "evaluate" else args.repeats
            seconds, memory = zip(*(measure(command) for _ in range(repeats)), strict=True)
            found[name] = {"seconds": min(seconds), "mebibytes": max(memory)}
    rows = [(name, row["seconds"], round(row["mebibytes"])) for name, row in found.items()]
    report.show("whole commands", ("command", "s", "MiB"), rows)
    report.write(args, found)


if __name__ == "__main__":
    main()
