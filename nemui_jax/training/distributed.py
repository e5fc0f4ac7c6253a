"""Many devices, on one host or on several: how a state is laid over them, and what processes exchange.

The batch and the rows of the table are split over one axis, DATA; weights and music are on every device. On one device
nothing of this happens.
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
    """Makes this process one of several that train together; call it before anything is computed.

    `coordinator` is host:port of the first of `count` processes, or `auto` on SLURM, Cloud TPU and Kubernetes, where
    JAX finds out for itself. ValueError or RuntimeError where they do not come together.
    """
    if coordinator == "auto":
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(coordinator, count, index)


def leave() -> None:
    """Ends what `join` began, when all processes are here; one that just ends may take the others down."""
    if jax.process_count() > 1:
        barrier("all done")
        jax.distributed.shutdown()


def make_mesh(count: int | None = None) -> Mesh | None:
    """The first `count` devices, by default those of all processes, in a row; None where that is one."""
    count = jax.device_count() if count is None else count
    if count == 1:
        return None
    return jax.make_mesh((count,), (DATA,), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


def make_sharding(mesh: Mesh | None, split: bool) -> Sharding:
    """How an array lies over a mesh: whole on each device, or `split` along its first axis."""
    if mesh is None:
        with jax.ensure_compile_time_eval():  # a run may be read while a function is traced
            return SingleDeviceSharding(next(iter(jnp.zeros(()).devices())))  # the default one
    return NamedSharding(mesh, P(DATA) if split else P())


def place_tree(tree: Any, mesh: Mesh | None, split: bool = False) -> Any:
    """Arrays laid over a mesh; as they are where there is none. Every process must pass the same numbers."""
    if mesh is None:
        return tree

    def put(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, make_sharding(mesh, split), lambda index: whole[index])

    return jax.tree.map(put, tree)


def mesh_scope(array: Any) -> Any:
    """A context in which the mesh that an array lies on is in force, for `constrain`; none for one device's array."""
    mesh = getattr(array.sharding, "mesh", None)
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def constrain(tree: Any, split: bool) -> Any:
    """Inside a jitted function: arrays `split` over the mesh in force, or whole; as they are where there is none."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, P(DATA) if split else P())


def gather(tree: Any) -> Any:
    """Arrays that lie over a mesh as whole arrays of this host; others as they are. All processes must call it."""

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or not isinstance(leaf.sharding, NamedSharding):
            return leaf
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)


def is_coordinator() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def broadcast(number: float) -> float:
    """The coordinator's number, in all processes."""
    return float(multihost_utils.broadcast_one_to_all(np.float32(number))) if jax.process_count() > 1 else number


def largest(number: int) -> int:
    """The largest of all processes' numbers."""
    return int(np.max(multihost_utils.process_allgather(np.int32(number)))) if jax.process_count() > 1 else number
