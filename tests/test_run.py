"""Runs on disk: what was written comes back, what is damaged is noticed, and one process writes."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, SMALLEST, rubato
from damage import DAMAGES, contents

from nemui_jax.data import cache, dataset, layout
from nemui_jax.errors import RunError
from nemui_jax.files import write_text
from nemui_jax.music import midi_writer
from nemui_jax.runs import integrity
from nemui_jax.runs import run as run_module
from nemui_jax.runs.run import (
    FORMAT,
    Run,
    create_run,
    lock_run,
    locked_run,
    read_log,
    read_run,
    read_scores,
    run_exists,
    set_aside,
    write_manifest,
    write_scores,
)


@pytest.fixture(scope="module")
def corpus(songs_folder) -> dataset.Corpus:
    return dataset.load(songs_folder, SMALLEST)[0]


@pytest.fixture
def run(corpus, tmp_path) -> Run:
    """A run before its training."""
    return create_run(tmp_path / "run", dataset.fit_pitches(SMALLEST, corpus), 5, 300, corpus)


def test_a_run_returns(run, corpus):
    assert read_run(run.path) == run
    assert (run.seed, run.total, run.entries) == (5, 300, corpus.entries)
    again = read_run(run.path).corpus()
    for song, source in zip(again.songs, corpus.songs, strict=True):
        for name in ("notes", "pedal", "tempo_map", "meters"):
            np.testing.assert_array_equal(getattr(song, name), getattr(source, name))
        assert song.name == source.name
    assert again.fingerprint() == corpus.fingerprint()
    assert run.rows == int(layout.corpus_queries(corpus.entries, run.config.model).row.max()) + 1


@pytest.mark.parametrize("path", ["here", "../b/here", "link", "link/../here", "none/../here"])
def test_a_run_is_found_however_its_path_is_written(run, corpus, tmp_path, monkeypatch, path):
    """Orbax takes neither relative paths nor `..`."""
    (tmp_path / "b").mkdir()
    run.path.rename(tmp_path / "b" / "here")
    (tmp_path / "b" / "link").symlink_to("here")
    monkeypatch.chdir(tmp_path / "b")
    found = read_run(Path(path))
    assert found.path == tmp_path / "b" / "here"
    assert run_exists(Path(path))
    with locked_run(Path(path)) as held:
        assert held.path == found.path
        assert set_aside(Path(path)) == tmp_path / "b" / "here.old-1"
        assert create_run(Path(path), run.config, 5, 300, corpus).path == found.path
    assert sorted(os.listdir()) == ["here", "here.old-1", "link"]


def test_a_run_half_created_is_none(corpus, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("nemui_jax.runs.run.write_manifest", fail)
    with pytest.raises(OSError, match="disk full"):
        create_run(tmp_path / "run", SMALLEST, 0, 1, corpus)
    assert not run_exists(tmp_path / "run")
    with pytest.raises(RunError, match=r"no run here; make one with: .*train --dir FOLDER"):
        read_run(tmp_path / "run")


def test_checkpoints_without_a_run_are_not_taken_over(run, corpus):
    (run.path / "checkpoints").mkdir()
    (run.path / "run.json").unlink()
    before = contents(run.path)
    with pytest.raises(RunError, match=r"holds checkpoints but no run\.json; name another --run"):
        create_run(run.path, run.config, 0, 1, corpus)
    assert contents(run.path) == before


# run.json


REMEDY = r"(?s)run\.json is damaged \(.*\); put a copy back, train again with --fresh or use another --run"


def edit(path: Path, **changes) -> None:
    """Changes run.json, with a checksum that is right."""
    what = integrity.unseal(integrity.read_json(path / "run.json"))
    what["config"] |= changes.pop("config", {})
    (path / "run.json").write_text(integrity.seal(what | changes))


def test_a_newer_format_is_refused(run):
    edit(run.path, format=FORMAT + 1)
    with pytest.raises(RunError, match=rf"format {FORMAT + 1} is newer than this program's {FORMAT}; update"):
        read_run(run.path)


@pytest.mark.parametrize("format", range(1, FORMAT))
def test_an_older_format_is_refused(run, format):
    before = {"format": format, "seed": 0, "songs": [{"name": "a", "program": 3}]}
    text = json.dumps(before) if format < 3 else integrity.seal(before)  # the first ones had no checksum
    (run.path / "run.json").write_text(text)
    told = rf"format {format}, and this one reads {FORMAT}; train its songs again with --fresh or use another --run$"
    with pytest.raises(RunError, match=told) as caught:
        read_run(run.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]" * 2, "[]", "{}", "null", "3", '{"format": "new"}', '{"format": []}', "\ud800", "[" * 10**5]
)
def test_a_damaged_description_is_refused(run, text):
    (run.path / "run.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunError, match=REMEDY):
        read_run(run.path)


def test_any_changed_digit_of_a_description_is_noticed(run):
    """As a flipped bit or an editor leaves it."""
    path = run.path / "run.json"
    data = path.read_bytes()
    places = [place for place, byte in enumerate(data) if chr(byte).isdigit()]
    assert len(places) > 200
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with contextlib.suppress(ValueError):  # no JSON any more, such as 00
            if json.loads(path.read_bytes()) == json.loads(data):
                continue  # the last digit of a fraction may change nothing
        with pytest.raises(RunError, match=REMEDY):
            read_run(run.path)


def leaves(value: object, way: tuple = ()) -> list[tuple]:
    """The way to each item of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(leaf for name, item in items for leaf in leaves(item, (*way, name)))]


@pytest.mark.parametrize("other", ["DROP", None, [], {}, "text", 7], ids=repr)
def test_a_description_without_an_item_or_with_another_type_is_refused(run, other):
    path = run.path / "run.json"
    text = path.read_text()
    for way in leaves(json.loads(text))[1:]:
        changed = place = json.loads(text)
        for name in way[:-1]:
            place = place[name]
        if place[way[-1]] == other:
            continue
        if other == "DROP":
            del place[way[-1]]
        else:
            place[way[-1]] = other
        path.write_text(json.dumps(changed))
        with pytest.raises(RunError):
            read_run(run.path)


@pytest.mark.parametrize("change", [{"songs": [{"name": "x"}]}, {"songs": None}, {"config": {"model": None}}])
def test_a_description_of_something_else_is_refused(run, change):
    edit(run.path, **change)
    with pytest.raises(RunError, match=REMEDY):
        read_run(run.path)


def test_an_unknown_field_is_refused(run):
    edit(run.path, config={"model": {"layers": 2}})
    with pytest.raises(RunError, match=r"damaged.*layers"):
        read_run(run.path)


# Its songs


@pytest.mark.parametrize("damage", DAMAGES, ids=["flipped", "cut", "zeroed", "deleted"])
def test_a_damaged_song_is_made_again_from_its_file(run, damage):
    copy = run.path / "songs" / f"{run.entries[1].sha256}.song"
    before = copy.read_bytes()
    damage(copy)
    assert len(run.song(1).notes) == run.entries[1].notes
    assert copy.read_bytes() == before


@pytest.mark.parametrize("change", ["gone", "changed", "no song"])
def test_a_damaged_song_without_its_file_is_named(run, tmp_path, change):
    path = tmp_path / "a.mid"
    if change == "changed":
        midi_writer.write(rubato(), path)
    elif change == "no song":
        path.write_bytes(b"no song")
    entries = (run.entries[0], dataclasses.replace(run.entries[1], path=str(path)), run.entries[2])
    run = dataclasses.replace(run, entries=entries)
    zero_copy = run.path / "songs" / f"{run.entries[1].sha256}.song"
    zero_copy.write_bytes(bytes(zero_copy.stat().st_size))
    reason = {"gone": "cannot be read: No such file", "changed": "has changed since", "no song": "is not a MIDI file"}
    told = f"its copy of song 1 repeats is damaged or gone, and its file {path} {reason[change]}.*; put that file back"
    with pytest.raises(RunError, match=told):
        run.song(1)
    assert len(run.song(0).notes) == run.entries[0].notes


def test_a_run_keeps_the_songs_that_an_older_reader_read(run, monkeypatch):
    monkeypatch.setattr("nemui_jax.data.cache.READER", cache.READER + 1)
    monkeypatch.setattr("nemui_jax.data.cache.parse_file", None)
    assert len(run.song(1).notes) == run.entries[1].notes


def test_a_damaged_song_that_would_have_other_beats_is_named(run):
    """As where beats are tracked in another way than when the run was trained."""
    entries = (run.entries[0], dataclasses.replace(run.entries[1], steps=run.entries[1].steps + 12), run.entries[2])
    run = dataclasses.replace(run, entries=entries)
    (run.path / "songs" / f"{run.entries[1].sha256}.song").unlink()
    with pytest.raises(RunError, match=r"reads other beats or notes.*train again with --fresh"):
        run.song(1)


# Logs


def test_only_whole_lines_of_the_log_count(run):
    assert read_log(run) == []
    row = {"step": 1, "loss": 0.5, "seconds": 2.0}
    lines = [
        b"null",
        b"[]",
        b"{}",
        b'{"step": 1}',
        b'{"step": "1", "loss": 1, "seconds": 1}',
        b"\xff\x00",
        b"[" * 10**5,
    ]
    lines += [b'{"step": NaN, "loss": 1, "seconds": 1}']
    whole = json.dumps(row).encode()
    (run.path / "metrics.jsonl").write_bytes(b"\n".join([whole, *lines, whole, whole[:-4]]))
    assert read_log(run) == [row, row]


def test_scores_that_are_damaged_do_not_count(run):
    none, scores = [{}, {}, {}], [{"onset": 1.0, "onset_error_seconds": None}, {}, {"onset": 0.5}]
    assert read_scores(run) == none
    write_scores(run, scores)
    assert read_scores(run) == scores
    data = (run.path / "scores.json").read_bytes()
    for damaged in (b"", b"null", b"[]", b"{}", b"\xff", b"[" * 10**5, data.replace(b"0.5", b"0.7"), data[:-9]):
        (run.path / "scores.json").write_bytes(damaged)
        assert read_scores(run) == none
    write_scores(run, [*scores, {}])  # of more songs
    assert read_scores(run) == none
    write_scores(run, scores[:2])  # the third was added since
    assert read_scores(run) == [*scores[:2], {}]


def test_write_text_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file.json"
    write_text(path, "old")

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            write_text(path, "new")
    assert path.read_text() == "old"
    write_text(path, "new")
    assert contents(tmp_path) == {"new/file.json": b"new"}


WRITTEN = ("run.json", "scores.json", "metrics.jsonl", "checkpoints/9/a", "checkpoints/9.json", "tensorboard/a")


def test_set_aside_moves_what_the_run_wrote(run):
    for name in (*WRITTEN[1:], "recall.json", f"songs/{'0' * 64}.npz", "checkpoints/10.orbax-checkpoint-tmp/a"):
        write_text(run.path / name, name)
    before = contents(run.path)
    with lock_run(run.path):
        first = set_aside(run.path)
        assert contents(first) == before
        assert [path.name for path in run.path.iterdir()] == ["lock"]
        (run.path / "run.json").write_text("second")
        second = set_aside(run.path)
    assert (first.name, second.name) == ("run.old-1", "run.old-2")
    assert contents(first) == before
    assert contents(second) == {"run.json": b"second"}


def test_set_aside_leaves_a_person_s_own_files(run):
    """`train --dir music --run music`, and then once more with --fresh."""
    mine = dict.fromkeys(("a.mid", "b/c.mid", "songs/d.mid", "checkpoints/e.mid", "notes.json"), b"mine")
    for name in mine:
        write_text(run.path / name, "mine")
    with lock_run(run.path):
        aside = set_aside(run.path)
    assert contents(run.path) == mine | {"lock": str(os.getpid()).encode()}
    assert not contents(aside).keys() & mine.keys()
    assert (aside / "run.json").exists()


# The lock


def test_one_process_writes(run):
    with lock_run(run.path):
        with (
            pytest.raises(RunError, match=f"process {os.getpid()} is using this run; wait for it or name another"),
            lock_run(run.path),
        ):
            pass
        assert (run.path / "lock").read_text() == str(os.getpid())  # still ours
    with lock_run(run.path):
        pass


HOLD = """
import sys
from pathlib import Path
from nemui_jax.runs import run
with run.lock_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(run) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the run."""
    command = [sys.executable, "-c", HOLD, run.path]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_named_and_a_dead_one_is_not_in_the_way(run, holder):
    with pytest.raises(RunError, match=f"process {holder.pid} is using this run"), lock_run(run.path):
        pass
    holder.kill()
    holder.communicate()
    assert (run.path / "lock").read_text() == str(holder.pid)  # stale
    with lock_run(run.path):
        assert (run.path / "lock").read_text() == str(os.getpid())


@pytest.mark.parametrize("before", ["", "99999999"], ids=["nothing", "a dead process"])
def test_a_process_that_has_just_taken_the_lock_is_named(run, holder, before):
    """It locks the file first and then says which it is; until then the file may still name the last one."""
    (run.path / "lock").write_text(before)
    timer = threading.Timer(0.2, (run.path / "lock").write_text, [str(holder.pid)])
    timer.start()
    with pytest.raises(RunError, match=f"process {holder.pid} is using this run"), lock_run(run.path):
        pass
    timer.join()


def test_what_another_process_changed_before_the_lock_is_seen(run, monkeypatch):
    """As by two `add`s at once: the second is told of the first, or finds its song in the run."""
    grown = dataclasses.replace(run, total=400, entries=(*run.entries, run.entries[0]))
    lock = run_module._take_lock

    def late(*arguments) -> None:
        write_manifest(grown)  # by one that held the lock until now
        lock(*arguments)

    monkeypatch.setattr(run_module, "_take_lock", late)
    with locked_run(run.path) as held:
        assert held == grown
        with pytest.raises(RunError, match=f"process {os.getpid()} is using"), locked_run(run.path):
            pass


def test_no_run_is_not_locked(tmp_path):
    with pytest.raises(RunError, match="no run here"), locked_run(tmp_path / "none"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_leaves_no_folder_without_a_run(tmp_path, run):
    with lock_run(tmp_path / "none"):
        (tmp_path / "none" / "songs").mkdir()
    assert not (tmp_path / "none").exists()
    before = contents(run.path)
    with lock_run(run.path):
        pass
    assert contents(run.path) | {"lock": b""} == before | {"lock": b""}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("not a run's")
    with lock_run(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine" / "letter.txt").exists()


def test_a_person_s_own_songs_beside_the_lock_stay(tmp_path, corpus):
    """`train --dir music/songs --run music` that fails before there is a run."""
    (tmp_path / "music" / "songs").mkdir(parents=True)
    (tmp_path / "music" / "songs" / "mine.mid").write_bytes(b"a life's work")
    with lock_run(tmp_path / "music"):
        copy = tmp_path / "music" / "songs" / f"{corpus.entries[0].sha256}.song"
        cache.save_song(copy, corpus.songs[0], corpus.entries[0].sha256)
    assert contents(tmp_path / "music") | {"lock": b""} == {"songs/mine.mid": b"a life's work", "lock": b""}
