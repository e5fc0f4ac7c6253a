"""Training on more music than the device holds: shards of whole songs take turns on it.

The music of every shard lies in memory-mapped files of one shape, so that one compiled step serves all; the table and
its optimiser's state stay on the host. While the device trains on one shard, a thread loads the next one, and the rows
of the last one are written back: shards share no rows. A visit is about one pass over a shard.
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
from nemui_jax.model.decoder import Decoder, DecoderClass
from nemui_jax.training import batches
from nemui_jax.training.optimizer import make_optimizer
from nemui_jax.training.step import ROW_MULTIPLE, UPDATES_PER_CALL, OptimizerOf, TrainState, train_loop

FILL = 0.8  # of the memory, that the music and the rows of two shards may take


@dataclass(frozen=True)
class Shards:
    """Songs in groups, with their music in memory-mapped arrays."""

    music: tuple[tuple[dataset.Rolls, layout.Queries], ...]
    rows: tuple[tuple[int, int], ...]  # of each shard, in the whole table
    max_notes_per_block: int  # that begin in it

    def longest(self, pick: Callable[[dataset.Rolls, layout.Queries], Any]) -> int:
        """The most that a shard has of what is picked."""
        return max(len(pick(*music)) for music in self.music)

    def visit_steps(self, config: TrainConfig) -> int:
        """Updates that a shard is trained for at a time: about a pass over it, in whole calls."""
        batch = config.batch_windows * config.window_blocks
        calls = self.longest(lambda _, queries: queries.step) / batch / UPDATES_PER_CALL
        return max(round(calls), 1) * UPDATES_PER_CALL


def bytes_needed(corpus: dataset.Corpus, config: Config) -> int:
    """About how many bytes the music, the table and its moments take on a device."""
    steps = layout.count_corpus_blocks(corpus.lengths, config) * config.model.block_steps
    notes = sum(entry.notes for entry in corpus.entries)
    cells = 2 * -(-(config.roll.high - config.roll.low + 1) // 8)
    table = 3 * 4 * layout.count_corpus_rows(corpus.lengths, config) * config.model.latent_size
    return steps * (cells + 5) + notes * 10 + table + 12 * steps // config.model.block_steps


def device_memory() -> float:
    """Bytes that the smallest device has for arrays; endless where it does not say, as on a CPU."""
    limits = [(device.memory_stats() or {}).get("bytes_limit", float("inf")) for device in jax.local_devices()]
    return min(limits)


def split_corpus(corpus: dataset.Corpus, config: Config, memory: float) -> list[range]:
    """The songs in groups that fit into the memory two at a time; all in one if they fit at once.

    A song that is longer than that has a group of its own.
    """
    total, steps = bytes_needed(corpus, config), [entry.steps for entry in corpus.entries]
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
    """The shards of a corpus, packed into a folder of their own and read from there when they are used."""
    shutil.rmtree(folder, ignore_errors=True)
    starts = layout.row_starts(corpus.lengths, config)
    music, max_notes = [], 1
    for number, group in enumerate(groups):
        part = dataset.Corpus(corpus.entries[group.start : group.stop], corpus.songs[group.start : group.stop])
        rolls = dataset.pack(part, config)
        max_notes = max(max_notes, dataset.max_notes_per_block(rolls.note_start, config.model.block_steps))
        (folder / str(number)).mkdir(parents=True)
        music.append((_mapped(folder / str(number), rolls), layout.corpus_queries(part.lengths, config)))
    return Shards(tuple(music), tuple((starts[group.start], starts[group.stop]) for group in groups), max_notes)


def _mapped(folder: Path, rolls: dataset.Rolls) -> dataset.Rolls:
    for name, array in rolls._asdict().items():
        np.save(folder / f"{name}.npy", array)
    return dataset.Rolls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in dataset.Rolls._fields))


def load_shard(shards: Shards, number: int) -> batches.Data:
    """A shard's music on the device, with as much of everything as the longest shard has."""
    rolls, queries = shards.music[number]
    steps = shards.longest(lambda rolls, _: rolls.pedal)
    notes = shards.longest(lambda rolls, _: rolls.note_step) + shards.max_notes_per_block
    lengths = dataset.Rolls(steps, steps, steps + 1, notes, notes, notes, notes)
    padded = dataset.Rolls(*(_pad(array, length) for array, length in zip(rolls, lengths, strict=True)))
    padded.note_start[len(rolls.note_start) :] = rolls.note_start[-1]
    again = np.arange(shards.longest(lambda _, queries: queries.step)) % len(queries.step)
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
    """Trains up to update `total`, a visit to a shard at a time; yields the state, its rows on the host, and losses.

    A visit ends early, at the end of a call, where `should_stop`. A run that was interrupted goes on in the middle of a
    visit as if it had not been.
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
            own = jax.tree.map(lambda leaf: _pad(leaf[start:end], room), (table, table_opt))  # noqa: B023
            loop = train_loop(
                TrainState(step, params, params_opt, *jax.device_put(own)),
                data,
                key,
                total,
                config,
                shards.max_notes_per_block,
                until,
                decoder=decoder,
                optimizer=optimizer,
            )
            for visited, part in loop:
                step, params, params_opt, *own = visited
                losses.append(part)
                if should_stop():
                    break
            for whole, rows in zip(jax.tree.leaves((table, table_opt)), jax.tree.leaves(own), strict=True):
                whole[start:end] = np.asarray(rows)[: end - start]
            done = int(step)
            yield TrainState(step, params, params_opt, table, table_opt), np.concatenate(losses)
