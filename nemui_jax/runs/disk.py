"""Room on the disk for a run."""

import math
import resource
import shutil
from pathlib import Path

from nemui_jax.config import Config
from nemui_jax.errors import UsageError
from nemui_jax.files import escape
from nemui_jax.model.decoder import Decoder, DecoderClass
from nemui_jax.runs import checkpoint
from nemui_jax.training.optimizer import make_optimizer
from nemui_jax.training.step import OptimizerOf


def refuse_full_disk(
    path: Path,
    rows: int,
    config: Config,
    more: int = 0,
    decoder: DecoderClass = Decoder,
    optimizer: OptimizerOf = make_optimizer,
) -> None:
    """UsageError where it is known before training that checkpoints of so many rows, and more bytes, will not fit."""
    needed, largest = checkpoint.needs(rows, config, decoder, optimizer)
    needed += more - sum(file.stat().st_size for file in (path / "checkpoints").rglob("*") if file.is_file())
    free, limit = shutil.disk_usage(path).free, resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if needed > free:
        tenths = math.ceil(10 * needed / 2**20), math.floor(10 * free / 2**20)  # so that they differ
        reason = f"needs {tenths[0] / 10:,.1f} MiB, and {tenths[1] / 10:,.1f} MiB are free; make room"
    elif limit != resource.RLIM_INFINITY and largest > limit:
        reason = f"has files of {largest:,} bytes, and the limit is {limit:,}; raise it (ulimit -f)"
    else:
        return
    raise UsageError(f"{escape(path)}: the run {reason} or name another --run")
