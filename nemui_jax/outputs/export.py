"""A run as files that other programs can read, without this package.

weights.safetensors   the decoder's weights, by names such as `hidden_0.kernel`
rows.safetensors      `rows`, [row latent]: the latent rows of all songs, one song after another
decoder.jaxexport     a function of weights (as in the file), latents [query latent] and times [query], for any number
                      of queries on CPU, CUDA and TPU, to a dictionary of heads [query step pitch]
export.json           configuration and songs; also in the metadata of both .safetensors, each part as JSON text
"""

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemui_jax import shell
from nemui_jax.config import Config, to_json
from nemui_jax.data import layout
from nemui_jax.data.dataset import SongEntry
from nemui_jax.errors import UsageError
from nemui_jax.files import write_bytes

if TYPE_CHECKING:
    from nemui_jax.model.decoder import Params
else:
    Params = Any
FORMAT = 1
PLATFORMS = ("cpu", "cuda", "tpu")


def write(
    folder: Path, params: Params, rows: Any, config: Config, entries: Sequence[SongEntry], fingerprint: str
) -> list[Path]:
    """Writes the four files, each atomically, and returns their paths. UsageError without the extra `export`."""
    save = import_safetensors().save
    import jax
    import numpy as np

    params, rows = jax.device_get((params, rows))
    information = run_information(config, entries, fingerprint)
    metadata = {name: json.dumps(part) for name, part in information.items()}
    contents = {
        "weights.safetensors": save(flatten(params), metadata),
        "rows.safetensors": save({"rows": np.asarray(rows)}, metadata),
        "decoder.jaxexport": decoder(params, config),
        "export.json": json.dumps(information, indent=1).encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        write_bytes(folder / name, data)
    return [folder / name for name in contents]


def import_safetensors() -> Any:
    """The module `safetensors.numpy`; UsageError says which extra is missing."""
    try:
        import flatbuffers  # noqa: F401 - jax.export writes with it
        import safetensors.numpy
    except ImportError as error:
        raise UsageError(f"exporting needs optional packages ({error}): {shell.install('export')}") from error
    return safetensors.numpy


def run_information(config: Config, entries: Sequence[SongEntry], fingerprint: str) -> dict[str, Any]:
    """The configuration, and the songs with their first row and number of rows, as plain data for JSON."""
    starts = layout.row_starts(entries)
    songs = [
        dataclasses.asdict(entry) | {"index": index, "first_row": starts[index]} for index, entry in enumerate(entries)
    ]
    return {"format": FORMAT, "run": fingerprint, "config": json.loads(to_json(config)), "songs": songs}


def flatten(params: Params) -> dict[str, Any]:
    """The weights by names such as `hidden_0.kernel`."""
    from flax.traverse_util import flatten_dict

    return flatten_dict(params["params"], sep=".")


def decoder(params: Params, settings: Config) -> bytes:
    """The decoder, mapped over queries and with its gradient, serialized for `jax.export.deserialize`."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import unflatten_dict

    from nemui_jax.model import decoder

    def decode(weights, latent, time):
        decode_one = partial(decoder.decode, {"params": unflatten_dict(weights, sep=".")}, config=settings)
        return jax.vmap(decode_one)(latent, time)

    (query,) = jax.export.symbolic_shape("query")
    latent = jax.ShapeDtypeStruct((query, settings.model.latent_size), jnp.float32)
    time = jax.ShapeDtypeStruct((query,), jnp.float32)
    weights = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), flatten(params))
    exported = jax.export.export(jax.jit(decode), platforms=PLATFORMS)(weights, latent, time)
    return bytes(exported.serialize(vjp_order=1))
