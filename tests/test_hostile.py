"""Folders and files that mean harm, and what code may not do: nothing blocks, falls over or runs what it reads."""

import contextlib
import os
import random
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, SMALLEST, Trained, call, finish, start, write_songs
from damage import contents
from midi_bytes import midi as file_of
from midi_bytes import notes, track

from nemui_jax.config import Config, RollConfig
from nemui_jax.data import dataset
from nemui_jax.errors import MidiError
from nemui_jax.music import midi_reader, tunes
from nemui_jax.music.song import MAX_SECONDS
from nemui_jax.runs.run import read_run

FAR = "ff ff ff 7f "  # the longest gap between two events: 77 hours
MUTATIONS = 170  # ten of each tune; tests/slow/fuzz_midi.py has more
HOSTILE = {  # what a name stands for -> how it is printed
    b"line\nbreak.mid": r"line\nbreak.mid",
    b"\x1b[2J\x1b]0;title\x07.mid": r"\x1b[2J\x1b]0;title\x07.mid",
    b"\xff\xfe.mid": r"\udcff\udcfe.mid",
    "\u202egnp.mid".encode(): r"\u202egnp.mid",
    b"--dir=x.mid": "--dir=x.mid",
    b"-rf.mid": "-rf.mid",
    b"[bold red]*$(id) ;.mid": "[bold red]*$(id) ;.mid",
}


def hostile(folder: Path) -> Path:
    """Three songs among all that can stand in a folder."""
    write_songs(folder)
    os.mkfifo(folder / "pipe.mid")
    (folder / "endless.mid").symlink_to("/dev/zero")
    (folder / "terminal.mid").symlink_to("/dev/tty")
    (folder / "self.mid").symlink_to("self.mid")
    (folder / "to.mid").symlink_to("fro.mid")
    (folder / "fro.mid").symlink_to("to.mid")
    (folder / "up").symlink_to("..")
    (folder / "here.mid").symlink_to(".")
    (folder / "x.mid").mkdir()
    (folder / "x.mid" / "loop").symlink_to("../..")
    (folder / "sparse.mid").touch()
    os.truncate(folder / "sparse.mid", 2**40)  # a terabyte of nothing
    for name in HOSTILE:
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(b"no song")
    deep = folder
    for _ in range(50):
        deep /= "d" * 60  # a path longer than most systems' PATH_MAX when it is done
        deep.mkdir()
    return folder


@pytest.mark.trains
def test_a_hostile_folder_is_learned(tmp_path):
    """As a process of its own, with a bound on its memory, because it could block or eat all there is."""
    folder = hostile(tmp_path / "songs")
    process = start(
        "train", "--dir", folder, "--run", tmp_path / "run", "--steps", 50, settings=SMALLEST, stdin=subprocess.DEVNULL
    )
    answer = finish(process)
    assert (answer.code, answer.err) == (0, ""), answer
    assert "3 of 18 files used" in answer.out
    assert [entry.name for entry in read_run(tmp_path / "run").entries] == ["a chorale", "repeats", "rubato"]
    for name, reason in {
        "pipe.mid": "is a named pipe, not a file",
        "endless.mid": "is a device, not a file",
        "terminal.mid": "is a device, not a file",
        "self.mid": "cannot be read: Too many levels of symbolic links",
        "to.mid": "cannot be read: Too many levels of symbolic links",
        "x.mid": "is a folder, not a file",
        "sparse.mid": "is larger than the limit of 64 MiB",
        **dict.fromkeys(HOSTILE.values(), "is not a MIDI file (it has no MThd header)"),
    }.items():
        assert f"not used  {folder}/{name}: {reason}\n" in answer.out
    assert all(line.isprintable() for line in answer.out.splitlines())


@pytest.mark.parametrize("command", [["train", "--dir"], ["add", "--file"], ["evaluate", "--held-out"]])
@pytest.mark.parametrize("kind", ["pipe", "device", "loop"])
def test_what_is_no_folder_or_file_is_named(trained, tmp_path, command, kind):
    path = tmp_path / "x\n\x1b.mid"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.name)
    answer = call(*command, path, "--run", tmp_path / "run" if command[0] == "train" else trained.path)
    assert answer.code == 2, answer
    assert answer.err.count("\n") == 1
    assert r"x\n\x1b.mid" in answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all files")
def test_files_that_may_not_be_read_are_named(tmp_path):
    write_songs(tmp_path)
    (tmp_path / "rubato.mid").chmod(0)
    _, reports = dataset.load(tmp_path, Config())
    assert [report.reason for report in reports if report.reason] == ["cannot be read: Permission denied"]


# Mutations


def mutants(data: bytes, count: int, rng: random.Random) -> list[bytes]:
    """Copies with one byte changed."""
    places = [rng.randrange(len(data)) for _ in range(count)]
    return [data[:place] + bytes([data[place] ^ rng.randrange(1, 256)]) + data[place + 1 :] for place in places]


def test_one_byte_changed_in_good_files(tmp_path):
    """All built-in tunes: each mutant is a song or refused, in little time and memory."""
    tunes.write_all(tmp_path)
    files = sorted(tmp_path.glob("*.mid"))
    rng, read = random.Random(0), 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(MUTATIONS):
        (data,) = mutants(files[number % len(files)].read_bytes(), 1, rng)
        began = time.process_time()
        song = None
        with contextlib.suppress(MidiError):
            song = midi_reader.parse(data)
        assert time.process_time() - began < 5
        if song is None:
            continue
        read += 1
        entry, _ = dataset.make_entry(song, Path("mutant.mid"), "", Config())
        assert entry.notes == sum(len(part.notes) for part in song.parts) > 0
        assert 0 < entry.seconds <= MAX_SECONDS
    assert read > MUTATIONS / 2  # else nothing was looked at
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024  # KiB


@pytest.mark.trains
def test_a_folder_of_mutants_is_learned(tmp_path):
    tunes.write_all(tmp_path / "tunes")
    rng = random.Random(1)
    (tmp_path / "mutants").mkdir()
    for path in (tmp_path / "tunes").glob("*.mid"):
        for number, data in enumerate(mutants(path.read_bytes(), 2, rng)):
            (tmp_path / "mutants" / f"{number} {path.name}").write_bytes(data)
    arguments = ("train", "--dir", tmp_path / "mutants", "--run", tmp_path / "run", "--steps", 50)
    answer = call(*arguments, "--max-seconds", 600, settings=SMALLEST)  # a changed tempo can make hours of a tune
    assert (answer.code, answer.err) == (0, ""), answer


# Lengths


def test_a_length_bomb_is_refused_with_the_flag_that_allows_it(trained, tmp_path):
    bomb = tmp_path / "songs" / "bomb.mid"
    bomb.parent.mkdir()
    bomb.write_bytes(file_of(track(notes(60), FAR, "90 3c 50 60 80 3c 00")))
    told = "lasts 77.7 h, more than the limit of 4 h; raise it with --max-seconds"
    for command in (["add", "--file", bomb], ["sample", "--song", bomb], ["sample", "--mix", f"0:1,{bomb}:1"]):
        answer = call(*command, "--run", trained.path)
        assert (answer.code, answer.err.count("\n")) == (2, 1), answer
        assert told in answer.err
    answer = call("train", "--dir", bomb.parent, "--run", tmp_path / "run")
    assert answer.code == 2
    assert told in answer.out
    for command in (["add", "--file", bomb], ["sample", "--song", bomb], ["train", "--dir", bomb.parent]):
        answer = call(*command, "--run", trained.path, "--max-seconds", 60)
        assert "more than the limit of 60 s" in answer.out + answer.err
        assert answer.code == 2


def test_a_longer_song_is_taken_when_asked_for(tmp_path):
    song = file_of(track(notes(60), "87 00 90 3c 50 60 80 3c 00"))  # 1 s
    (tmp_path / "a.mid").write_bytes(song)
    assert dataset.load(tmp_path, Config(), max_seconds=0.9)[0].entries == ()
    assert len(dataset.load(tmp_path, Config(), max_seconds=1.2)[0].entries) == 1


def test_more_music_than_a_song_may_last_is_not_played(trained, tmp_path):
    answer = call("sample", "--run", trained.path, "--song", 0, "--seconds", 1e9, "--out", tmp_path / "a.mid")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "--seconds: 1000000000.0 is out of range" in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_tempo_beyond_all_bounds_makes_no_endless_grid():
    """A microsecond a quarter note, for a minute: millions of beats, with 12 steps of the grid each."""
    events = track(notes(60), "00 ff 51 03 00 00 01", "9f ff ff 7f 90 3c 50 60 80 3c 00")
    song = midi_reader.parse(file_of(events, division=1))
    assert song.seconds > 60
    entry, _ = dataset.make_entry(song, Path("a.mid"), "", Config(roll=RollConfig(grid="beats")))
    assert entry.steps <= song.seconds / 0.03 + 12  # no step is shorter than 30 ms, on average


# Runs that are damaged, and paths to them


def damaged_copy(trained: Trained, folder: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """A run with another content of one of its files."""
    run = shutil.copytree(trained.path, folder / "run")
    (run / name).write_bytes(change((run / name).read_bytes()))
    return run


@pytest.mark.parametrize("command", ["train", "songs", "sample", "evaluate", "add"])
def test_a_changed_number_in_a_run_s_description_is_answered_in_one_line(trained, songs_folder, tmp_path, command):
    """A training of more steps than it has had would go on over a finished run."""
    total = read_run(trained.path).total
    old, new = f'"total": {total}'.encode(), f'"total": {total + 1}'.encode()
    run = damaged_copy(trained, tmp_path, "run.json", lambda data: data.replace(old, new))
    before = contents(run)
    arguments = {"train": ("--dir", songs_folder), "sample": ("--song", 0, "--out", tmp_path / "a.mid")}
    arguments |= {"add": ("--file", songs_folder / "rubato.mid")}
    answer = call(command, *arguments.get(command, ()), "--run", run)
    assert (answer.code, answer.err.count("\n")) == (2, 1), answer
    assert "run.json is damaged (does not match its checksum); put a copy back, train again with --fresh" in answer.err
    assert contents(run) | {"lock": b""} == before | {"lock": b""}


@pytest.mark.parametrize("name", ["metrics.jsonl", "scores.json"])
@pytest.mark.parametrize("content", [b"", b"null", b"[1, 2, 3]", b'{"step": {}}\n', b"\xff\0", b"[" * 10**5])
def test_damaged_logs_stop_nothing(trained, songs_folder, tmp_path, name, content):
    run = damaged_copy(trained, tmp_path, name, lambda _: content)
    answer = call("songs", "--run", run)
    assert (answer.code, answer.err) == (0, "")
    assert "rubato" in answer.out
    answer = call("train", "--dir", songs_folder, "--run", run, "--json")
    assert answer.code == 0, answer


def test_a_damaged_song_of_a_run_is_mended(trained, tmp_path):
    song = next(entry for entry in read_run(trained.path).entries if entry.name == "rubato").sha256
    run = damaged_copy(trained, tmp_path, f"songs/{song}.song", lambda data: data[:40] + b"?" + data[41:])
    sample = ("sample", "--run", run, "--song", "rubato", "--out", tmp_path / "a.mid")
    assert call(*sample).code == 0
    assert contents(run)[f"songs/{song}.song"] == contents(trained.path)[f"songs/{song}.song"]


def test_a_path_to_a_run_may_lead_up(trained, songs_folder, tmp_path, monkeypatch):
    """Orbax takes no `..`."""
    shutil.copytree(trained.path, tmp_path / "run")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for command in (
        ("songs",),
        ("sample", "--song", "all", "--out", tmp_path / "out"),
        ("sample", "--mix", "0,1", "--out", tmp_path / "out"),
        ("train", "--dir", songs_folder),
        ("plots",),
    ):
        answer = call(*command, "--run", "../run")
        assert (answer.code, answer.err) == (0, ""), answer
    answer = call("train", "--dir", songs_folder, "--run", "../new", "--steps", 50, settings=SMALLEST)
    assert answer.code == 0, answer
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.trains
def test_fresh_leaves_a_person_s_own_files(songs_folder, tmp_path):
    """`train --dir music --run music`."""
    music = shutil.copytree(songs_folder, tmp_path / "music")
    train = ("train", "--dir", music, "--run", music, "--steps", 50)
    mine = contents(music)
    for flags in ((), ("--fresh",)):
        answer = call(*train, *flags, settings=SMALLEST)
        assert answer.code == 0, answer
        assert mine.items() <= contents(music).items()


# What the code may not do


@pytest.mark.parametrize(
    "forbidden",
    [
        r"\bimport (c?pickle|marshal|shelve|dill|joblib|cloudpickle)\b|\bfrom (c?pickle|marshal|shelve|dill|joblib) ",
        r"allow_pickle\s*=\s*True",
        r"(?<![\w.])(eval|exec|compile|__import__)\(",
        r"shell\s*=\s*True|os\.(system|popen)\(",
        r"yaml\.load\(|jsonpickle|torch\.load",
    ],
)
def test_nothing_that_is_read_can_run(forbidden):
    sources = [ROOT / "run.py", *(ROOT / "nemui_jax").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    assert len(sources) > 20
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sources
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(forbidden, line)
    ]
    assert found == []
