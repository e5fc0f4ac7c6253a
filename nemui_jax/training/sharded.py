"""Training on more music than fits into device memory: shards of whole songs are trained on in rotation.

The music of all shards is in memory-mapped files and padded to one shape, so that one compiled update serves all; the
table and its optimiser state stay on the host. While the device trains on one shard, a thread loads the next; then the
shard's rows are written back to the table (no two shards share rows). A visit is about one pass over a shard.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from nemui_jax.config import Config, TrainConfig
from nemui_jax.data import dataset, layout
from nemui_jax.data.cells import Rolls, curve_names
from nemui_jax.errors import UsageError
from nemui_jax.model.decoder import Decoder, DecoderClass
from nemui_jax.training import batches
from nemui_jax.training.optimizer import make_optimizer
from nemui_jax.training.step import ROW_MULTIPLE, UPDATES_PER_CALL, OptimizerOf, TrainState, train_loop

FILL = 0.8  # share of the memory that the music and rows of two shards may take


@dataclass(frozen=True)
class Shards:
    """Songs in groups, with their music in memory-mapped arrays."""

    music: tuple[tuple[Rolls, layout.Queries], ...]
    rows: tuple[tuple[int, int], ...]  # first row of each shard in the table, and the row after its last

    def max_length(self, array_of: Callable[[Rolls, layout.Queries], Any]) -> int:
        """The largest length of one of the arrays over all shards."""
        return max(len(array_of(*music)) for music in self.music)

    def visit_steps(self, config: TrainConfig) -> int:
        """Updates in a visit: about a pass over the longest shard, in whole calls."""
        batch = config.batch_windows * config.window_blocks
        calls = self.max_length(lambda _, queries: queries.step) / batch / UPDATES_PER_CALL
        return max(round(calls), 1) * UPDATES_PER_CALL


def bytes_needed(corpus: dataset.Corpus, config: Config) -> int:
    """An estimate of the device memory, in bytes, for music, table and optimiser moments."""
    steps = layout.count_blocks(corpus.entries, config.model) * config.model.block_steps
    notes = sum(entry.notes for entry in corpus.entries)
    step_bytes = 2 * -(-(config.roll.high - config.roll.low + 1) // 8) + 2 * len(curve_names(config.model)) + 4
    table = 3 * 4 * layout.count_rows(corpus.entries) * config.model.latent_size
    return steps * step_bytes + notes * 5 + table + 12 * steps // config.model.block_steps


def device_memory() -> float:
    """The memory limit in bytes of the device with the least; infinite if it has none, such as a CPU."""
    limits = [(device.memory_stats() or {}).get("bytes_limit", float("inf")) for device in jax.local_devices()]
    return min(limits)


def refuse_little_memory(needed: int, path: Path = Path("/proc/meminfo")) -> None:
    """UsageError where this machine has fewer than `needed` bytes of memory free, as far as the system says."""
    free = _free_memory(path)
    if needed > free:
        raise UsageError(
            f"the music and its rows need {needed / 2**30:.2f} GiB of memory, and {free / 2**30:.2f} GiB are free; "
            f"free some, learn fewer songs, or train on shards of it: --device-memory {free / 2**31:.2f}"
        )


def _free_memory(path: Path) -> float:
    try:
        line = next(line for line in path.read_text().splitlines() if line.startswith("MemAvailable:"))
        return float(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return float("inf")


def split_corpus(corpus: dataset.Corpus, config: Config, memory: float) -> list[range]:
    """Groups of successive songs, two of which fit into `memory` bytes; one group if all songs fit at once.

    A song that is too long for that is a group by itself.
    """
    total, steps = bytes_needed(corpus, config), [entry.rows for entry in corpus.entries]
    if total <= FILL * memory:
        return [range(len(steps))]
    max_steps, edges, filled = FILL * memory / 2 * sum(steps) / total, [0], 0
    for song, length in enumerate(steps):
        if filled and filled + length > max_steps:
            edges.append(song)
            filled = 0
        filled += length
    return [range(*pair) for pair in itertools.pairwise([*edges, len(steps)])]


def write_shards(corpus: dataset.Corpus, groups: Sequence[range], config: Config, folder: Path) -> Shards:
    """Packs the shards of a corpus into files in a folder, which is emptied first, and maps them into memory."""
    shutil.rmtree(folder, ignore_errors=True)
    starts = layout.row_starts(corpus.entries)
    music = []
    for number, group in enumerate(groups):
        part = dataset.Corpus(corpus.entries[group.start : group.stop], corpus.songs[group.start : group.stop])
        rolls = dataset.pack(part, config)
        (folder / str(number)).mkdir(parents=True)
        queries = batches.repeat_dense(layout.corpus_queries(part.entries, config.model), rolls, config)
        music.append((_mapped(folder / str(number), rolls), queries))
    return Shards(tuple(music), tuple((starts[group.start], starts[group.stop]) for group in groups))


def _mapped(folder: Path, rolls: Rolls) -> Rolls:
    for name, array in rolls._asdict().items():
        np.save(folder / f"{name}.npy", array)
    return Rolls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in Rolls._fields))


def load_shard(shards: Shards, number: int) -> batches.Data:
    """A shard's music on the device, with every array padded to its largest length over all shards."""
    rolls, queries = shards.music[number]
    steps = shards.max_length(lambda rolls, _: rolls.bits)
    notes = shards.max_length(lambda rolls, _: rolls.note_velocity)
    lengths = Rolls(steps, steps, steps + 1, notes, notes)
    padded = Rolls(*(_pad(array, length) for array, length in zip(rolls, lengths, strict=True)))
    padded.note_start[len(rolls.note_start) :] = rolls.note_start[-1]
    again = np.arange(shards.max_length(lambda _, queries: queries.step)) % len(queries.step)
    return jax.device_put(batches.Data(padded, layout.Queries(*(column[again] for column in queries)), np.int32(0)))


def _pad(array: np.ndarray, length: int) -> np.ndarray:
    found = np.zeros((length, *array.shape[1:]), array.dtype)
    found[: len(array)] = array
    return found


def train_loop_sharded(
    state: TrainState,
    shards: Shards,
    key: Key[Array, ""],
    total: int,
    config: Config,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    decoder: DecoderClass = Decoder,
    optimizer: OptimizerOf = make_optimizer,
) -> Iterator[tuple[TrainState, np.ndarray]]:
    """Trains up to update `total`, one visit at a time; yields the state, with rows on the host, and the losses.

    If `should_stop` returns True, the visit ends after the current call. Training that is interrupted in the middle of
    a visit can be continued with the same results.
    """
    visit_steps, count, done = shards.visit_steps(config.train), len(shards.music), int(state.step)
    table, table_opt = jax.tree.map(np.array, (state.latents, state.latents_opt))
    step, params, params_opt = jax.device_put(jax.tree.map(np.asarray, (state.step, state.params, state.params_opt)))
    room = -(-max(end - start for start, end in shards.rows) // ROW_MULTIPLE) * ROW_MULTIPLE
    with ThreadPoolExecutor(1) as thread:
        loading = thread.submit(load_shard, shards, done // visit_steps % count)
        while done < total:
            visit = done // visit_steps
            start, end = shards.rows[visit % count]
            until, losses = min((visit + 1) * visit_steps, total), []
            data = loading.result()._replace(skipped=jnp.int32((visit - visit // count) * visit_steps))
            if until < total:
                loading = thread.submit(load_shard, shards, (visit + 1) % count)
            shard_rows = jax.tree.map(lambda leaf: _pad(leaf[start:end], room), (table, table_opt))  # noqa: B023
            loop = train_loop(
                TrainState(step, params, params_opt, *jax.device_put(shard_rows)),
                data,
                key,
                total,
                config,
                until,
                decoder=decoder,
                optimizer=optimizer,
            )
            for visited, part in loop:
                step, params, params_opt, *shard_rows = visited
                losses.append(part)
                if should_stop():
                    break
            for all_rows, rows in zip(jax.tree.leaves((table, table_opt)), jax.tree.leaves(shard_rows), strict=True):
                all_rows[start:end] = np.asarray(rows)[: end - start]
            done = int(step)
            yield TrainState(step, params, params_opt, table, table_opt), np.concatenate(losses)
