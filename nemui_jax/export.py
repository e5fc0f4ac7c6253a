"""A run for programs that do not have this package.

weights.safetensors   the decoder's weights, by names such as `hidden_0.kernel`
rows.safetensors      `rows`, [row latent]: the latent rows of all songs, one song after another
decoder.jaxexport     a function of weights (as in the file), latents [query latent] and times [query], for any number
                      of queries on CPU, CUDA and TPU, to a dictionary of heads [query step pitch], as `model.decode`
export.json           configuration and songs; the metadata of both .safetensors have the same, each part as JSON text
"""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemui_jax import config, midi
from nemui_jax.interface import LoadedRun
from nemui_jax.terminal import UsageError

if TYPE_CHECKING:
    from nemui_jax.model import Params
else:
    Params = Any

FORMAT = 1
PLATFORMS = ("cpu", "cuda", "tpu")


def write(run: LoadedRun, folder: Path) -> list[Path]:
    """Writes all four files, each whole or not at all; returns their paths. UsageError without the extra `export`."""
    save = import_safetensors().save
    import jax
    import numpy as np

    params, rows = jax.device_get((run.params, run.table))
    about = describe(run)
    metadata = {name: json.dumps(part) for name, part in about.items()}
    contents = {
        "weights.safetensors": save(flatten(params), metadata),
        "rows.safetensors": save({"rows": np.asarray(rows)}, metadata),
        "decoder.jaxexport": decoder(params, run.config),
        "export.json": json.dumps(about, indent=1).encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        midi.write_bytes(folder / name, data)
    return [folder / name for name in contents]


def import_safetensors() -> Any:
    """The module `safetensors.numpy`; UsageError says which extra is missing."""
    try:
        import flatbuffers  # noqa: F401 - jax.export writes with it
        import safetensors.numpy
    except ImportError as error:
        raise UsageError(f"exporting needs the extra export: pip install 'nemui-jax[export]' ({error})") from error
    return safetensors.numpy


def describe(run: LoadedRun) -> dict[str, Any]:
    """What the numbers mean: the configuration, and the songs with the rows (`first_row`, `rows`) that are theirs."""
    starts = run.run.row_starts
    songs = [
        dataclasses.asdict(entry)
        | {"index": index, "first_row": starts[index], "rows": starts[index + 1] - starts[index]}
        for index, entry in enumerate(run.run.entries)
    ]
    return {"format": FORMAT, "run": run.fingerprint, "config": json.loads(config.to_json(run.config)), "songs": songs}


def flatten(params: Params) -> dict[str, Any]:
    """Weights by names such as `hidden_0.kernel`."""
    from flax.traverse_util import flatten_dict

    return flatten_dict(params["params"], sep=".")


def decoder(params: Params, settings: config.Config) -> bytes:
    """The decoder, mapped over queries, as `jax.export.deserialize` reads it; it has a gradient too."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import unflatten_dict

    from nemui_jax import model

    def decode(weights, latent, time):
        one = partial(model.decode, {"params": unflatten_dict(weights, sep=".")}, config=settings)
        block = jax.vmap(one)(latent, time)
        return {head: getattr(block, head) for head in settings.model.heads}

    (query,) = jax.export.symbolic_shape("query")
    latent = jax.ShapeDtypeStruct((query, settings.model.latent_size), jnp.float32)
    time = jax.ShapeDtypeStruct((query,), jnp.float32)
    weights = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), flatten(params))
    exported = jax.export.export(jax.jit(decode), platforms=PLATFORMS)(weights, latent, time)
    return bytes(exported.serialize(vjp_order=1))
