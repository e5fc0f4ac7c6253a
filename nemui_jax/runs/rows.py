"""The latent rows of a checkpoint, read song by song.

    latents/table       rows of the songs that were trained together, in order
    song-<number>/rows  rows of a song that was added later, so that the table is not written again

Arrays are plain Zarr in chunks, a file each: only those with the rows of a song are read.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

TABLE, ADDED = "latents/table", "song-"
MOMENTS = "moments"  # the part of a checkpoint that only training needs


def part_of(song: int) -> str:
    """The part of a checkpoint that holds the rows of a song that was added."""
    return f"{ADDED}{song}"


def read_song(folder: Path, row_starts: Sequence[int], song: int) -> Float[np.ndarray, "row latent"]:
    """The rows of one song; no others are read but those that share its chunks."""
    if (folder / part_of(song)).exists():
        return _open_array(folder / part_of(song) / "rows").read().result()
    return _open_array(folder / TABLE)[row_starts[song] : row_starts[song + 1]].read().result()


def read_all(folder: Path, row_starts: Sequence[int], every: int = 1) -> Float[np.ndarray, "row latent"]:
    """The rows of all songs, in order; or one in so `every` many."""
    later = [song for song in range(len(row_starts) - 1) if (folder / part_of(song)).exists()]
    trained = _open_array(folder / TABLE)[: row_starts[len(row_starts) - 1 - len(later)] : every].read().result()
    return np.concatenate([trained, *(read_song(folder, row_starts, song)[::every] for song in later)])


def files_that_play(folder: Path, row_starts: Sequence[int], songs: Sequence[int]) -> Callable[[str], bool]:
    """Says of a file of a checkpoint whether it is needed to play these songs: it has their rows, or none at all.

    ValueError where the checkpoint's description of the table is damaged.
    """
    try:
        zarr = json.loads((folder / TABLE / "zarr.json").read_bytes())
        chunk = int(zarr["chunk_grid"]["configuration"]["chunk_shape"][0])
        later = {song for song in songs if (folder / part_of(song)).exists()}
        spans = [(row_starts[song] // chunk, (row_starts[song + 1] - 1) // chunk + 1) for song in {*songs} - later]
    except (OSError, KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{TABLE}: {error}") from error
    needed = *(f"{TABLE}/c/{n}/" for span in spans for n in range(*span)), *(f"{part_of(song)}/" for song in later)
    others = (f"{TABLE}/c/", ADDED, f"{MOMENTS}/")
    return lambda name: name.startswith(needed) or not name.startswith(others)


def _open_array(folder: Path) -> Any:
    import tensorstore  # Orbax stores through it, but only reads whole arrays

    where = {"driver": "file", "path": str(folder)}
    return tensorstore.open({"driver": "zarr3", "kvstore": where}, open=True, read=True).result()
