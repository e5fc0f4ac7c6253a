"""Many devices, on one host or several: the placement of arrays, and communication between processes.

The batch and the rows of the table are split over one mesh axis, DATA; weights and music are on every device. With one
device there is no mesh, and arrays stay where they are.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

DATA = "data"


def join(coordinator: str, count: int | None, index: int | None) -> None:
    """Makes this process number `index` of `count` that train together; call it before any computation.

    `coordinator` is host:port of process 0, or `auto` on SLURM, Cloud TPU and Kubernetes, where JAX finds all three
    itself. ValueError or RuntimeError if they cannot connect.
    """
    if coordinator == "auto":
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(coordinator, count, index)


def leave() -> None:
    """Disconnects from the other processes once all have reached this point; else one that exits may end the others."""
    if jax.process_count() > 1:
        barrier("all done")
        jax.distributed.shutdown()


def make_mesh(count: int | None = None) -> Mesh | None:
    """A mesh of the first `count` devices, by default those of all processes; None for one device."""
    count = jax.device_count() if count is None else count
    if count == 1:
        return None
    return jax.make_mesh((count,), (DATA,), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


def make_sharding(mesh: Mesh | None, split: bool) -> Sharding:
    """The sharding of an array over a mesh: replicated on each device, or `split` along its first axis."""
    if mesh is None:
        with jax.ensure_compile_time_eval():  # a checkpoint may be read while a function is traced
            return SingleDeviceSharding(next(iter(jnp.zeros(()).devices())))  # the default one
    return NamedSharding(mesh, P(DATA) if split else P())


def place_tree(tree: Any, mesh: Mesh | None, split: bool = False) -> Any:
    """Arrays placed on a mesh, or unchanged without one. Every process must pass the same values."""
    if mesh is None:
        return tree

    def put(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, make_sharding(mesh, split), lambda index: values[index])

    return jax.tree.map(put, tree)


def mesh_scope(array: Any) -> Any:
    """A context that sets the mesh of an array, for `constrain`; it does nothing for an array on one device."""
    mesh = getattr(array.sharding, "mesh", None)
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def constrain(tree: Any, split: bool) -> Any:
    """In a jitted function: arrays `split` over the mesh that is set, or replicated; unchanged if none is set."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, P(DATA) if split else P())


def gather(tree: Any) -> Any:
    """Arrays on a mesh as complete arrays on this host; others unchanged. All processes must call it."""

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or not isinstance(leaf.sharding, NamedSharding):
            return leaf
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)


def is_coordinator() -> bool:
    """Whether this is process 0, the one that writes and prints."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes have reached the barrier of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def broadcast(number: float) -> float:
    """The coordinator's number, in all processes."""
    return float(multihost_utils.broadcast_one_to_all(np.float32(number))) if jax.process_count() > 1 else number


def largest(number: int) -> int:
    """The largest of all processes' numbers."""
    return int(np.max(multihost_utils.process_allgather(np.int32(number)))) if jax.process_count() > 1 else number
