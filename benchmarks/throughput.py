"""Speed of training compared with this machine's matrix products at the same sizes: model FLOP utilisation (MFU).

    python benchmarks/throughput.py [--dir midis/] [--batch 256 512 1024] [--block ...] [--hidden ...] [--json FILE]

Model FLOPs of an update = 6 * weights * queries, where weights are the entries of the kernels: every layer has three
products (forward, gradient of its weights, gradient of its input), each of 2 * inputs * outputs * queries. The first
layer's input gradient counts in full, as it is the gradient of the latents. Everything else in an update (drawing and
unpacking music, losses, optimiser) counts as time but not as FLOPs.

The peak is measured with only these products of all layers in one jitted scan, at the same sizes, in turns with the
update. MFU is the update's FLOP/s over the peak's: 1 if an update took no longer than its products. Times are the
minimum of several rounds, ratios the median over rounds. One of batch, block and hidden varies at a time; the first
value of each is the default.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import report

from nemui_jax.config import Config
from nemui_jax.data import dataset
from nemui_jax.training import batches
from nemui_jax.training.step import TrainState, batch_loss, init_state, train_steps

DTYPES = ("float32", "bfloat16")  # of the peak; updates are in float32
PARTS = ("data", "forward", "backward", "all")


def kernels(params: Any) -> list[tuple[int, int]]:
    """The numbers of inputs and outputs of every layer."""
    return [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 2]


def model_flops(sizes: list[tuple[int, int]], queries: int) -> int:
    """Floating-point operations of the products of one update."""
    return 6 * queries * sum(inputs * outputs for inputs, outputs in sizes)


@partial(jax.jit, static_argnames="length")
def products(inputs: list[jax.Array], weights: list[jax.Array], length: int) -> Any:
    """`length` times the three products of every layer; each uses the last one's results, so that XLA removes none."""

    def turn(carry, _):
        inputs, _ = carry
        outputs = [value @ weight for value, weight in zip(inputs, weights, strict=True)]
        weight_grads = [value.T @ output for value, output in zip(inputs, outputs, strict=True)]
        input_grads = [output @ weight.T for output, weight in zip(outputs, weights, strict=True)]
        return (input_grads, weight_grads), None

    return jax.lax.scan(turn, (inputs, jax.tree.map(jnp.zeros_like, weights)), length=length)[0]


def peak(sizes: list[tuple[int, int]], queries: int, dtype: str, length: int) -> Callable[[], Any]:
    """A function that computes the products of `length` updates.

    Weights have orthonormal rows or columns, so that repeated products neither vanish nor overflow.
    """
    rng = np.random.default_rng(0)

    def orthonormal(size: tuple[int, int]) -> jax.Array:
        tall, _ = np.linalg.qr(rng.normal(size=(max(size), min(size))))
        return jnp.asarray(tall if size[0] >= size[1] else tall.T, dtype)

    inputs = [jnp.asarray(rng.normal(size=(queries, size[0])), dtype) for size in sizes]
    return partial(products, inputs, [orthonormal(size) for size in sizes], length=length)


@partial(jax.jit, static_argnames=("part", "config", "length"))
def first_parts(state: TrainState, data: batches.Data, key: Any, *, part: str, config: Config, length: int) -> Any:
    """`length` updates that end after one of PARTS; the rest of a whole update is the optimiser's."""

    def cost(params, latent, batch, target):
        return batch_loss(params, latent, batch.time, target, config)

    def turn(_, step):
        batch = batches.sample_batch(key, step, data, config.train)
        target = batches.make_targets(data.rolls, batch.step, config)
        if part == "data":
            return zeros, sum(jnp.sum(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(target))
        reads = state.params, state.latents[batch.row]
        if part == "forward":
            return zeros, cost(*reads, batch, target)
        value, gradients = jax.value_and_grad(cost, (0, 1))(*reads, batch, target)
        return gradients, value

    rows = jnp.zeros((config.train.batch_windows * config.train.window_blocks, config.model.latent_size))
    zeros = (jax.tree.map(jnp.zeros_like, state.params), rows) if part == "backward" else ()
    return jax.lax.scan(turn, zeros, state.step + jnp.arange(length))


def training(run: Callable[..., Any], state: TrainState, *others: Any) -> Callable[[], Any]:
    """A function that continues training at each call."""

    def call() -> Any:
        nonlocal state
        state, losses = run(state, *others)
        return losses

    return call


def measure(settings: Config, corpus: dataset.Corpus, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one configuration."""
    data = batches.load_data(corpus, settings)
    key, rows = jax.random.key(0), int(data.queries.row.max()) + 1
    state = init_state(key, rows, settings)
    queries = settings.train.batch_windows * settings.train.window_blocks
    sizes, total = kernels(state.params), jnp.int32(10**6)
    began = time.perf_counter()
    run = train_steps.lower(state, data, key, total, config=settings, length=args.steps).compile()
    compile_seconds = time.perf_counter() - began
    contenders = {"step": training(run, state, data, key, total)}
    contenders |= {dtype: peak(sizes, queries, dtype, args.steps) for dtype in DTYPES}
    seconds = {
        name: [value / args.steps for value in values]
        for name, values in report.in_turns(contenders, args.repeats).items()
    }
    best, flops = {name: min(values) for name, values in seconds.items()}, model_flops(sizes, queries)
    return {
        "batch": settings.train.batch_windows,
        "block": settings.model.block_steps,
        "hidden": settings.model.hidden_size,
        "weights": sum(inputs * outputs for inputs, outputs in sizes),
        "compile_seconds": compile_seconds,
        "step_seconds": best["step"],
        "music_steps_per_second": queries * settings.model.block_steps / best["step"],
        "model_flops": flops,
        "xla_flops": (run.cost_analysis() or {}).get("flops"),  # of one update: XLA counts the body of a loop once
        "flops_per_second": flops / best["step"],
        "peak_flops_per_second": {dtype: flops / best[dtype] for dtype in DTYPES},
        "mfu": report.ratio(seconds["float32"], seconds["step"]),
        "bfloat16_peak_ratio": report.ratio(seconds["float32"], seconds["bfloat16"]),
        "seconds": seconds,
    }


def split(settings: Config, corpus: dataset.Corpus, args: argparse.Namespace) -> dict[str, Any]:
    """The time of the parts of an update."""
    data = batches.load_data(corpus, settings)
    key, rows = jax.random.key(0), int(data.queries.row.max()) + 1
    state, length = init_state(key, rows, settings), args.steps
    static = {"config": settings, "length": length}
    calls: dict[str, Callable[[], Any]] = {
        part: partial(first_parts, state, data, key, part=part, **static) for part in PARTS[:-1]
    }
    donated = init_state(key, rows, settings)  # `train_steps` donates its state
    calls["all"] = training(partial(train_steps, **static), donated, data, key, jnp.int32(10**6))
    queries = settings.train.batch_windows * settings.train.window_blocks
    calls["products"] = peak(kernels(state.params), queries, "float32", length)
    seconds = report.in_turns(calls, args.repeats)
    until = np.array([np.array(seconds[part]) / length for part in PARTS])  # [part, round]
    part_seconds = np.median(np.diff(until, axis=0, prepend=0), axis=1)
    names = ("draw and unpack", "forward", "backward", "rows and optimiser")
    return {
        "parts": {
            name: {"seconds": float(value), "share": float(value / np.median(until[-1]))}
            for name, value in zip(names, part_seconds, strict=True)
        },
        "step_seconds": float(np.median(until[-1])),
        "products_share": report.ratio(seconds["products"], seconds["all"]),
        "seconds": seconds,
    }


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--dir", type=Path, help="songs (default: the built-in tunes)")
    parser.add_argument("--batch", type=int, nargs="+", default=[512, 256, 1024])
    parser.add_argument("--block", type=int, nargs="+", default=[12, 8, 24])
    parser.add_argument("--hidden", type=int, nargs="+", default=[320, 160, 640])
    parser.add_argument("--steps", type=int, default=5, help="updates a call (default: 5)")
    parser.add_argument("--repeats", type=int, default=9, help="rounds (default: 9)")
    args = parser.parse_args()
    base = with_sizes(Config(), args.batch[0], args.block[0], args.hidden[0])
    others = [with_sizes(base, batch=batch) for batch in args.batch[1:]]
    others += [with_sizes(base, block=block) for block in args.block[1:]]
    others += [with_sizes(base, hidden=hidden) for hidden in args.hidden[1:]]
    with report.songs(args.dir) as folder:
        found = [measure(*report.load(folder, settings), args) for settings in (base, *others)]
        parts = split(*report.load(folder, base), args)
    columns = (
        "batch",
        "block",
        "hidden",
        "MFU",
        "steps of music/s",
        "ms an update",
        "GFLOP/s",
        "peak",
        "bf16/f32 peak",
    )
    rows = [
        (
            *(str(row[name]) for name in ("batch", "block", "hidden")),
            row["mfu"],
            round(row["music_steps_per_second"]),
            row["step_seconds"] * 1e3,
            row["flops_per_second"] / 1e9,
            row["peak_flops_per_second"]["float32"] / 1e9,
            row["bfloat16_peak_ratio"],
            row["model_flops"] / 1e9,
            (row["xla_flops"] or float("nan")) / 1e9,
            row["compile_seconds"],
        )
        for row in found
    ]
    report.show("training", (*columns, "GFLOP an update", "XLA says", "s to compile"), rows)
    rows = [(name, part["share"], part["seconds"] * 1e3) for name, part in parts["parts"].items()]
    rows.append(
        ("matrix products alone", parts["products_share"], parts["products_share"] * parts["step_seconds"] * 1e3)
    )
    report.show("the time of an update (medians)", ("part", "share", "ms"), rows)
    report.write(args, {"training": found, "step": parts})


def with_sizes(settings: Config, batch: int = 0, block: int = 0, hidden: int = 0) -> Config:
    """The configuration with these sizes; 0 keeps the size as it is."""
    return dataclasses.replace(
        settings,
        train=dataclasses.replace(settings.train, batch_windows=batch or settings.train.batch_windows),
        model=dataclasses.replace(
            settings.model,
            block_steps=block or settings.model.block_steps,
            knot_steps=2 * block or settings.model.knot_steps,
            hidden_size=hidden or settings.model.hidden_size,
        ),
    )


if __name__ == "__main__":
    main()
