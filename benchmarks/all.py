"""Every figure of speed on whatever device is there, in under ten minutes: one table and one JSON file.

    python benchmarks/all.py [--dir midis/] [--json FILE]

The peak is this device's own: the fastest square matrix product of each type, and the fastest copy of memory. Training
is timed, in turns with such products, at several batches and hidden sizes, in float32 and with products in bfloat16
(where the device has them: a CPU computes both in float32): steps of music a second, share of the peak (MFU), bytes
moved. The batch that suits the device is the smallest with 95 % of the speed of the fastest, the hidden size the
largest that halves the speed of the smallest at most. Then a run is trained until its note F1 is 0.99, and a mix is
made again in a warm process. Sizes that there is no time left for are left out, and named in the JSON.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import report
from throughput import kernels, model_flops, training, with_sizes
from time_to_quality import Contender, result

from nemui_jax.config import Config
from nemui_jax.data import dataset
from nemui_jax.sampling.decode import decode_song, latent_songs
from nemui_jax.sampling.mix import analyze, mix
from nemui_jax.training import batches
from nemui_jax.training.step import init_state, train_steps

SECONDS = 540.0  # for everything
TRAINING_SHARE, QUALITY_SHARE = 0.6, 0.3  # of them
PRECISIONS = ("float32", "bfloat16")  # of the products; everything else is float32
SQUARES = {"cpu": (1024, 2048), "other": (4096, 8192, 16384)}  # sides of the products of the peak
BATCHES = {"cpu": (256, 512, 1024), "other": (512, 2048, 8192, 32768)}
HIDDEN = {"cpu": (320, 640), "other": (320, 640, 1280, 2560)}
NEARLY = 0.95  # of the best speed


def for_device(choices: dict[str, Sequence[int]]) -> Sequence[int]:
    """What is tried on this device where nothing else is asked for."""
    return choices.get(jax.default_backend(), choices["other"])


def fastest(call: Callable[[], Any], repeats: int = 5) -> float:
    """The least seconds of a call, after one that is not timed."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def peaks(sides: Sequence[int]) -> dict[str, float]:
    """FLOP/s of square products by precision, the best of a few sizes, and bytes/s of a copy."""
    found = {
        precision: max(2 * side**3 / fastest(square_product(side, precision)) for side in sides)
        for precision in PRECISIONS
    }
    row = jnp.ones(2**26)  # 256 MiB, read and written
    return found | {"bytes": 2 * row.nbytes / fastest(partial(jax.jit(lambda x: x + 1), row))}


def square_product(side: int, precision: str) -> Callable[[], jax.Array]:
    """A product of two square matrices."""
    square = jnp.ones((side, side), precision)
    return partial(
        jax.jit(partial(jnp.matmul, precision="highest" if precision == "float32" else None)), square, square
    )


def update(
    settings: Config, corpus: dataset.Corpus, precision: str, sides: Sequence[int], length: int = 5
) -> dict[str, Any]:
    """The speed of an update with these sizes, in turns with square products: a load slows both."""
    data = batches.load_data(corpus, settings)
    key, rows = jax.random.key(0), int(data.queries.row.max()) + 1
    state, total = init_state(key, rows, settings), jnp.int32(10**6)
    queries = settings.train.batch_windows * settings.train.window_blocks
    flops = model_flops(kernels(state.params), queries)
    with jax.default_matmul_precision(precision):
        static: dict[str, Any] = {"config": settings, "length": length}
        run = train_steps.lower(state, data, key, total, **static).compile()
    moved = (run.cost_analysis() or {}).get("bytes accessed")  # of one update: XLA counts the body of a loop once
    turns = {str(side): square_product(side, precision) for side in sides}
    timed = report.in_turns({"update": training(run, state, data, key, total)} | turns, repeats=5)
    seconds = min(timed["update"]) / length
    peak = np.max([2 * int(side) ** 3 / np.array(timed[side]) for side in turns], axis=0)
    return {
        "batch": settings.train.batch_windows,
        "hidden": settings.model.hidden_size,
        "precision": precision,
        "update_seconds": seconds,
        "music_steps_per_second": queries * settings.model.block_steps / seconds,
        "flops_per_second": flops / seconds,
        "mfu": float(np.median(flops * length / np.array(timed["update"]) / peak)),
        "bytes": moved,
        "bytes_per_second": None if moved is None else moved / seconds,
    }


def updates(folder: Path, args: argparse.Namespace, until: float, left_out: list[str]) -> Iterator[dict[str, Any]]:
    """The speed of an update at each size, until there is no time left."""
    measured = 0  # one at least
    for hidden in args.hidden or for_device(HIDDEN):
        for batch in args.batch or for_device(BATCHES):
            for precision in PRECISIONS:
                if measured and time.monotonic() > until:
                    left_out.append(f"batch {batch}, hidden {hidden}, {precision}")
                    continue
                measured += 1
                yield update(
                    *report.load(folder, with_sizes(Config(), batch=batch, hidden=hidden)), precision, args.square
                )


def suitable(found: list[dict[str, Any]]) -> dict[str, int]:
    """The batch and the hidden size that suit the device."""
    speed = {
        (row["hidden"], row["batch"]): row["music_steps_per_second"] for row in found if row["precision"] == "float32"
    }
    first = min(hidden for hidden, _ in speed)
    best = max(value for (hidden, _), value in speed.items() if hidden == first)
    batch = min(batch for (hidden, batch), value in speed.items() if hidden == first and value >= NEARLY * best)
    enough = [hidden for (hidden, size), value in speed.items() if size == batch and value >= best / 2]
    return {"batch": batch, "hidden": max(enough)}


def quality(folder: Path, seconds: float) -> tuple[Contender, dict[str, Any]]:
    """Training until note F1 is 0.99, or for so many seconds."""
    contender = Contender("default", folder, {"notes": 0.99})
    while contender.is_running(seconds):
        contender.train_chunk(seconds)
    minutes = sum(entry.seconds for entry in contender.corpus.entries) / 60
    return contender, result(contender, "notes", minutes)


def mix_seconds(trained: Contender) -> float:
    """The seconds of a mix of two songs at equal weights, once everything is compiled and decoded."""
    songs = latent_songs(trained.corpus, trained.state.latents, trained.settings)[:2]
    played = [analyze(decode_song(trained.state.params, song, trained.settings)) for song in songs]
    return fastest(lambda: len(mix(played, lambda bars: np.full((2, bars), 0.5)).parts))


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--dir", type=Path, help="songs (default: the built-in tunes)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for everything (default: {SECONDS:g})")
    for name, choices in (("batch", BATCHES), ("hidden", HIDDEN), ("square", SQUARES)):
        parser.add_argument(f"--{name}", type=int, nargs="+", help=f"sizes to try (default, by device: {choices})")
    args: argparse.Namespace = parser.parse_args()
    began, left_out = time.monotonic(), list[str]()
    with report.songs(args.dir) as folder:
        args.square = args.square or for_device(SQUARES)
        peak = peaks(args.square)
        found = list(updates(folder, args, began + TRAINING_SHARE * args.seconds, left_out))
        trained, reached = quality(folder, QUALITY_SHARE * args.seconds)
        mixing = mix_seconds(trained)
    print(f"peak: {', '.join(f'{peak[name] / 1e9:,.0f} GFLOP/s in {name}' for name in PRECISIONS)}; "
          f"{peak['bytes'] / 1e9:,.1f} GB/s copied")  # fmt: skip
    columns = ("batch", "hidden", "products", "steps of music/s", "MFU", "ms an update", "MB moved", "GB/s")
    rows = [
        (
            *(str(row[name]) for name in ("batch", "hidden", "precision")),
            round(row["music_steps_per_second"]),
            row["mfu"],
            row["update_seconds"] * 1e3,
            (row["bytes"] or float("nan")) / 1e6,
            (row["bytes_per_second"] or float("nan")) / 1e9,
        )
        for row in found
    ]
    device = jax.devices()[0]
    report.show(f"training on {device.platform}: {device.device_kind}", columns, rows)
    suits, done = suitable(found), "reached" if reached["reached"] else f"not reached (best {reached['best']:.3f})"
    report.show(
        "",
        ("", ""),
        [
            ("batch and hidden size that suit the device", f"{suits['batch']}, {suits['hidden']}"),
            (f"s of training to note F1 0.99, {done}", reached["training_seconds"]),
            ("s to compile", reached["compile_seconds"]),
            ("ms for a warm mix of two songs", mixing * 1e3),
            ("sizes left out for want of time", len(left_out)),
        ],
    )
    figures = {"peak": peak, "updates": found, "suits": suits, "note_f1_0.99": reached, "warm_mix_seconds": mixing}
    report.write(args, figures | {"left_out": left_out})


if __name__ == "__main__":
    main()
