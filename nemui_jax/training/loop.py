"""One kind of loop, wherever the music is: on the devices, or in shards that take turns on one of them."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from nemui_jax.config import Config
from nemui_jax.data import cache, dataset, layout
from nemui_jax.errors import UsageError
from nemui_jax.model.decoder import Decoder, DecoderClass
from nemui_jax.training import batches, distributed, sharded
from nemui_jax.training.optimizer import make_optimizer
from nemui_jax.training.step import OptimizerOf, TrainState, init_state_once, place_state, steps_in_time, train_loop


class Loop(NamedTuple):
    """How a corpus is trained on."""

    chunks: Callable[[TrainState, int], Iterator[tuple[TrainState, np.ndarray]]]
    """From a state up to a step: the state after each chunk of steps, and the losses of these."""
    mesh: Mesh | None  # devices that the state lies over; None: one
    state_device: Any  # the jax.Device, where that is not the default one
    steps_in: Callable[[float], int] | None  # how many steps take so many seconds; None where it cannot be tried
    notes_per_step: float  # notes in a step of the music as it is drawn; 0 where not all of it is held

    def place(self, make: Callable[[Mesh | None], TrainState]) -> TrainState:
        """A state, made where this loop wants it."""
        with jax.default_device(self.state_device) if self.state_device else contextlib.nullcontext():
            return make(self.mesh)


def make_loop(
    corpus: dataset.Corpus,
    config: Config,
    seed: int,
    memory: float | None,
    should_stop: Callable[[], bool],
    report: Callable[[str], None],
    decoder: DecoderClass = Decoder,
    optimizer: OptimizerOf = make_optimizer,
) -> Loop:
    """The loop for this corpus, with its music loaded.

    `memory` is the room for music and latents on all devices, in bytes (by default as these say). Where it is too
    small, songs take turns in shards, which is reported; `should_stop` then ends a visit early. UsageError where that
    would need more than one device, or where this machine has less memory free.
    """
    if memory is None:
        sharded.refuse_little_memory(sharded.bytes_needed(corpus, config))
        memory = sharded.device_memory() * jax.device_count()
    groups, mesh = sharded.split_corpus(corpus, config, memory), distributed.make_mesh()
    if len(groups) == 1:
        return _whole(corpus, config, seed, mesh, decoder, optimizer)
    if mesh is not None:
        raise UsageError(f"music in {len(groups)} shards is trained on by one device; for more, use more memory")
    report(f"more music than the device holds at once: {len(groups)} shards take turns")
    folder, key = cache.cache_folder() / "shards" / str(os.getpid()), jax.random.key(seed)
    shards = sharded.write_shards(corpus, groups, config, folder)
    shutil.rmtree(folder)  # what is mapped stays until the process ends, however that is

    def chunks(state: TrainState, total: int) -> Iterator[tuple[TrainState, np.ndarray]]:
        return sharded.train_loop_sharded(
            state, shards, key, total, config, should_stop, decoder=decoder, optimizer=optimizer
        )

    return Loop(chunks, None, jax.local_devices(backend="cpu")[0], None, 0.0)


def _whole(
    corpus: dataset.Corpus,
    config: Config,
    seed: int,
    mesh: Mesh | None,
    decoder: DecoderClass,
    optimizer: OptimizerOf,
) -> Loop:
    data = batches.load_data(corpus, config, mesh)
    key = distributed.place_tree(jax.random.key(seed), mesh)

    def chunks(state: TrainState, total: int) -> Iterator[tuple[TrainState, np.ndarray]]:
        return train_loop(state, data, key, total, config, decoder=decoder, optimizer=optimizer)

    def steps_in(seconds: float) -> int:
        rows = layout.count_rows(corpus.entries)
        state = place_state(init_state_once(jax.random.key(seed), rows, config, decoder, optimizer), mesh)
        return steps_in_time(seconds, state, data, key, config, decoder=decoder, optimizer=optimizer)

    return Loop(chunks, mesh, None, steps_in, batches.notes_per_step(data, config))
