"""MIDI files on disk: found in folders, and read as bytes.

Messages of MidiError never name the file: the caller does, through `escape`.
"""

import contextlib
import os
import stat
from pathlib import Path

from nemui_jax.errors import MidiError

MAX_BYTES = 64 * 2**20
ENDINGS = (".mid", ".midi", ".rmi", ".kar")


def find(folder: str | os.PathLike) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Files below a folder with one of ENDINGS, and the paths that cannot be used, each with the reason.

    Both lists are sorted by the bytes of the path. Links to files and folders are followed; each folder is searched
    once, under its own path if that is below `folder`, and those above it never are. A folder that cannot be listed is
    among the problems; nothing is raised.
    """
    files: list[Path] = []
    problems: list[tuple[Path, str]] = []
    folders, links, seen = [Path(folder)], [], _above(folder)
    while folders or links:
        parent = folders.pop() if folders else links.pop(links.index(min(links)))
        try:
            status = os.stat(parent)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = list(os.scandir(parent))
        except OSError as error:
            problems.append((parent, f"cannot be listed: {error.strerror}"))
            continue
        folders += [parent / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        linked = [entry.name for entry in entries if entry.is_symlink() and os.path.isdir(entry.path)]
        links += [parent / name for name in linked]
        names = {entry.name for entry in entries} - {*linked}
        for path in (parent / name for name in names if name.lower().endswith(ENDINGS)):
            try:
                _check_regular(os.stat(path))
                files.append(path)
            except (OSError, MidiError) as error:
                problems.append((path, _reason(error)))
    return sorted(files, key=os.fsencode), sorted(problems, key=lambda problem: os.fsencode(problem[0]))


def _above(folder: str | os.PathLike) -> set[tuple[int, int]]:
    """The device and inode of each folder above one."""
    found = set()
    for path in Path(os.path.realpath(folder)).parents:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            found.add((status.st_dev, status.st_ino))
    return found


def read_bytes(path: str | os.PathLike, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a regular file; MidiError if it is not one, cannot be opened or is larger than `max_bytes`.

    Only regular files are opened, so a named pipe or a device never blocks.
    """
    try:
        _check_regular(os.stat(path))
        # The path may name something else by now: open it without blocking, and check again.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            _check_regular(os.fstat(file.fileno()))
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise MidiError(_reason(error)) from error
    if len(data) > max_bytes:
        raise MidiError(f"is larger than the limit of {max_bytes / 2**20:,.9g} MiB")
    return data


def _check_regular(status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        names = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        raise MidiError(f"is {names.get(kind, 'a device')}, not a file")


def _reason(error: Exception) -> str:
    if isinstance(error, MidiError):
        return str(error)
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"
