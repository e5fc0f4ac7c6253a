"""Time and memory of an update for 16 to 100,000 songs, and its time on several devices.

    python benchmarks/scale.py [--dir midis/] [--songs 16 100 1000 10000 100000] [--json FILE]

The music of a few real excerpts of `--seconds` is reused for all songs; only the latent table, its moments and the list
of queries grow with their number. All sizes are in memory at once and timed in turns; a size that does not fit is left
out with a message. Times are the minimum of several rounds, ratios to the smallest table the median over rounds; at
most 1.15 is expected.

With several devices an update is also timed on 1, 2, 4, ... of them: with one batch split over them (ideally in
proportionally less time) and with a batch for each (ideally in the same time). What devices then send each other is
read from the compiled program.
"""

import argparse
import math
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import report
from throughput import training, with_sizes

from nemui_jax.config import Config
from nemui_jax.data import dataset, layout
from nemui_jax.music.song import cut_song
from nemui_jax.training import batches, distributed
from nemui_jax.training.step import init_state, place_state, train_steps

REAL = 16  # songs whose music is reused
ROOM = 0.7  # share of free memory that all tables together may take


def excerpts(folder: Path, seconds: float) -> tuple[Config, dataset.Corpus]:
    """The beginnings of a few songs, as a corpus."""
    settings, corpus = report.load(folder)
    songs = dataset.from_songs([cut_song(song, seconds) for song in corpus.songs[:REAL]], settings)
    return dataset.fit_pitches(settings, songs), songs


def queries(count: int, corpus: dataset.Corpus, settings: Config) -> layout.Queries:
    """The queries of this many songs: each has its own rows, and they share the music in rotation."""
    real = layout.corpus_queries(corpus.entries, settings.model)
    rows, rounds = layout.count_rows(corpus.entries), -(-count // len(corpus.entries))
    row = (real.row + np.arange(rounds, dtype=np.int32)[:, None] * rows).reshape(-1)
    kept = np.searchsorted(row, count_rows(count, corpus))
    return layout.Queries(np.tile(real.step, rounds)[:kept], row[:kept], np.tile(real.time, rounds)[:kept])


def count_rows(count: int, corpus: dataset.Corpus) -> int:
    """The rows of this many songs."""
    rounds, rest = divmod(count, len(corpus.entries))
    return rounds * layout.count_rows(corpus.entries) + layout.count_rows(corpus.entries[:rest])


def bytes_of(count: int, corpus: dataset.Corpus, settings: Config) -> int:
    """Bytes of this many songs on the device: rows, with two moments and a count each, and queries."""
    rows, blocks = count_rows(count, corpus), settings.model.knot_steps // settings.model.block_steps
    return rows * ((3 * settings.model.latent_size + 1) * 4 + blocks * 12)


def free_bytes() -> int:
    """Bytes of memory that are free for arrays."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def over_songs(
    counts: list[int], settings: Config, corpus: dataset.Corpus, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """The time and memory of an update at each size of the table."""
    real = batches.load_data(corpus, settings)
    key, total, room = jax.random.key(0), jnp.int32(10**6), ROOM * free_bytes()
    runs, memory = {}, {}
    for count in sorted(counts):
        need = bytes_of(count, corpus, settings)
        if 2 * need > room:  # initialisation needs it twice
            print(f"{count:,} songs: about {need / 2**30:.1f} GiB would not fit; left out")
            continue
        room -= need
        data = jax.device_put(real._replace(queries=queries(count, corpus, settings)))
        rows = count_rows(count, corpus)
        init = jax.jit(partial(init_state, rows=rows, config=settings))
        state = jax.block_until_ready(init(key))
        compiled = train_steps.lower(state, data, key, total, config=settings, length=args.steps).compile()
        analysis = compiled.memory_analysis()
        held = sum(
            leaf.nbytes
            for leaf in jax.tree.leaves((state, data))
            if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        )
        memory[count] = {"state_and_data": held, "while_training": analysis.temp_size_in_bytes if analysis else None}
        runs[count] = training(compiled, state, data, key, total)
    seconds = report.in_turns({str(count): run for count, run in runs.items()}, args.repeats)
    first = seconds[str(min(runs))]
    return [
        {
            "songs": count,
            "rows": count_rows(count, corpus),
            "step_seconds": min(seconds[str(count)]) / args.steps,
            "ratio": report.ratio(seconds[str(count)], first),
            "bytes": memory[count],
            "seconds": seconds[str(count)],
        }
        for count in runs
    ]


def collectives(program: str) -> dict[str, dict[str, int]]:
    """What devices send each other in an optimised program (a loop's body counted once): calls and bytes by kind."""
    found: dict[str, dict[str, int]] = {}
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    for shapes, kind in re.findall(rf" = (.*?) ({kinds})(?:-start)?\(", program):
        sizes = re.findall(r"([a-z]+)(\d+)\[([\d,]*)\]", shapes)
        row = found.setdefault(kind, {"calls": 0, "bytes": 0})
        row["calls"] += 1
        row["bytes"] += (
            sum(int(bits) * math.prod(map(int, filter(None, dims.split(",")))) for _, bits, dims in sizes) // 8
        )
    return found


def over_devices(settings: Config, corpus: dataset.Corpus, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The time of an update on 1, 2, 4, ... devices, with one batch split over them and with a batch for each."""
    counts = [2**power for power in range(jax.device_count().bit_length()) if 2**power <= jax.device_count()]
    runs, sent = {}, {}
    for count in counts:
        for batch, times in (("shared", 1), ("own", count)):
            if (batch, count) == ("own", 1):
                continue  # the same as shared
            mesh, wanted = (
                distributed.make_mesh(count),
                with_sizes(settings, batch=times * settings.train.batch_windows),
            )
            data = batches.load_data(corpus, wanted, mesh)
            key, total = distributed.place_tree((jax.random.key(0), jnp.int32(10**6)), mesh)
            rows = layout.count_rows(corpus.entries)
            state = place_state(init_state(jax.random.key(0), rows, wanted), mesh)
            with distributed.mesh_scope(state.latents):
                step = train_steps.lower(state, data, key, total, config=wanted, length=args.steps).compile()
            runs[f"{count} {batch}"] = training(step, state, data, key, total)
            sent[f"{count} {batch}"] = collectives(step.as_text() or "")
    seconds = report.in_turns(runs, args.repeats)
    return [
        {
            "collectives": sent[name],
            "devices": int(name.split()[0]),
            "batch": name.split()[1],
            "step_seconds": min(values) / args.steps,
            "ratio": report.ratio(values, seconds["1 shared"]),
            "seconds": values,
        }
        for name, values in seconds.items()
    ]


def sent_as_text(found: dict[str, dict[str, int]]) -> str:
    """Collectives, such as `4 all-reduce of 1.20 MiB`."""
    parts = (f"{row['calls']} {kind} of {row['bytes'] / 2**20:.2f} MiB" for kind, row in found.items())
    return ", ".join(parts) or "nothing"


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--dir", type=Path, help="songs (default: the built-in tunes)")
    parser.add_argument("--songs", type=int, nargs="+", default=[16, 100, 1_000, 10_000, 100_000])
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a song (default: 30)")
    parser.add_argument("--steps", type=int, default=5, help="updates a call (default: 5)")
    parser.add_argument("--repeats", type=int, default=21, help="rounds (default: 21)")
    args = parser.parse_args()
    with report.songs(args.dir) as folder:
        settings, corpus = excerpts(folder, args.seconds)
    found = over_songs(args.songs, settings, corpus, args)
    rows = [
        (
            f"{row['songs']:,}",
            row["ratio"],
            row["step_seconds"] * 1e3,
            row["rows"],
            row["bytes"]["state_and_data"] / 2**20,
            (row["bytes"]["while_training"] or float("nan")) / 2**20,
        )
        for row in found
    ]
    columns = ("songs", f"update, to {found[0]['songs']} songs", "ms an update", "rows", "MiB", "MiB more in an update")
    report.show(f"songs of {args.seconds:g} s", columns, rows)
    spread = over_devices(settings, corpus, args) if jax.device_count() > 1 else []
    if spread:
        rows = [
            (
                str(row["devices"]),
                row["batch"],
                row["ratio"],
                row["step_seconds"] * 1e3,
                sent_as_text(row["collectives"]),
            )
            for row in spread
        ]
        report.show("devices", ("devices", "batch", "update, to 1 device", "ms an update", "sent in an update"), rows)
    report.write(args, {"songs": found, "devices": spread})


if __name__ == "__main__":
    main()
