"""Fuzzes the reader of MIDI files until it is stopped or has tried so many: python tests/slow/fuzz_midi.py [TRIES].

Starts from the built-in tunes: bytes changed, cut out, doubled, spliced in from another tune. Any answer but a song or
MidiError, and any that takes more than SECONDS, is written to crash-<hash>.mid here, and ends it.
"""

import hashlib
import random
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from nemui_jax.config import Config
from nemui_jax.data import dataset
from nemui_jax.errors import MidiError
from nemui_jax.music import midi_reader, midi_writer, tunes

SECONDS = 10.0
Mutation = Callable[[bytes, bytes, random.Random], bytes]


def _place(data: bytes, rng: random.Random) -> int:
    return rng.randrange(len(data) + 1)


def _change(data: bytes, _: bytes, rng: random.Random) -> bytes:
    place = _place(data, rng)
    return data[:place] + bytes([rng.choice([0, 0x7F, 0x80, 0xFF, rng.randrange(256)])]) + data[place + 1 :]


def _cut(data: bytes, _: bytes, rng: random.Random) -> bytes:
    place = _place(data, rng)
    return data[:place] + data[place + rng.choice([1, 2, 10, 10**6]) :]


def _double(data: bytes, _: bytes, rng: random.Random) -> bytes:
    place, length = _place(data, rng), rng.choice([1, 4, 100, 1000])
    return data[:place] + data[place : place + length] * rng.choice([2, 3, 50]) + data[place + length :]


def _splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)] + other[_place(other, rng) :]


MUTATIONS: tuple[Mutation, ...] = (_change, _change, _change, _cut, _double, _splice)


def mutant(seeds: list[bytes], rng: random.Random) -> bytes:
    data = rng.choice(seeds)
    for _ in range(rng.choice([1, 2, 4, 16])):
        data = rng.choice(MUTATIONS)(data, rng.choice(seeds), rng)[: 2**20]
    return data


def survives(data: bytes) -> None:
    try:
        song = midi_reader.parse(data)
    except MidiError:
        return
    dataset.make_entry(song, Path("a.mid"), "", Config())
    assert len(midi_reader.parse(midi_writer.encode(song), max_seconds=2 * song.seconds + 1).notes) == len(song.notes)


def main(tries: int | None = None, seed: int = 0) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tunes.write_all(Path(folder))
        seeds = [path.read_bytes() for path in sorted(Path(folder).glob("*.mid"))]
    rng = random.Random(seed)
    for number in count() if tries is None else range(tries):
        data, began = mutant(seeds, rng), time.process_time()
        try:
            survives(data)
            assert time.process_time() - began < SECONDS, "takes too long"
        except BaseException:
            path = Path(f"crash-{hashlib.sha256(data).hexdigest()[:12]}.mid")
            path.write_bytes(data)
            print(f"try {number}: {path}", flush=True)
            raise
        if number % 1000 == 999:
            print(f"{number + 1:,} tried", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
