"""Files that appear whole or not at all, and names made printable."""

import contextlib
import os
import secrets
from pathlib import Path


def write_bytes(path: str | os.PathLike, data: bytes, durable: bool = False) -> None:
    """Writes a file that appears whole or not at all; a `durable` one also outlasts a loss of power. Raises OSError."""
    path = Path(path)
    # Not tempfile: its files are readable by their owner alone, and os.replace would keep that.
    partial = path.parent / f".{path.name[:100]}.{os.getpid()}-{secrets.token_hex(4)}.partial"
    try:
        with open(partial, "xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folders(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a durable text file, and the folders above it where there are none. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode(), durable=True)


def sync(folder: Path) -> None:
    """Returns when all that is below a folder would outlast a loss of power."""
    for path in (folder, *folder.rglob("*")):
        _sync(path)
    _sync_folders(folder.parent)


def resolve(path: str | os.PathLike) -> Path:
    """The absolute path without links and `..`, whether or not anything is there."""
    return Path(os.path.realpath(path))  # not Path.resolve, which raises for a loop of links


def escape(name: str | bytes | os.PathLike) -> str:
    r"""A name or path fit for a terminal: what does not print becomes \x1b, \n, \udc80 and the like."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in os.fsdecode(name))


def _sync_folders(folder: Path) -> None:
    """Makes the names in a folder last, and its own and those of the folders above it."""
    for path in (folder, *folder.absolute().parents):
        with contextlib.suppress(OSError):  # one above that may not be read has long been there
            _sync(path)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
