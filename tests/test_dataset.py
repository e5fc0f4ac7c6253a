"""A folder to a corpus: every file is accounted for, the cache can be trusted, packed rolls hold the songs."""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALLEST, SONGS, chorale, make_song, repeats, rubato, write_songs
from midi_bytes import midi as file_of
from midi_bytes import notes as note_bytes
from midi_bytes import track

from nemui_jax import config
from nemui_jax.config import RollConfig
from nemui_jax.data import cache, dataset, layout, pianoroll
from nemui_jax.errors import MidiError
from nemui_jax.music import midi_writer
from nemui_jax.music.song import PEDAL, Text

GRID = RollConfig()


@pytest.fixture
def caches_here(tmp_path, monkeypatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("NEMUI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_songs(tmp_path / "songs")


@pytest.fixture(scope="module")
def corpus(songs_folder) -> dataset.Corpus:
    return dataset.load(songs_folder, GRID)[0]


def assert_same(corpus: dataset.Corpus, other: dataset.Corpus) -> None:
    assert corpus.entries == other.entries
    for song, again in zip(corpus.songs, other.songs, strict=True):
        for part, other_part in zip(song.parts, again.parts, strict=True):
            np.testing.assert_array_equal(part.notes, other_part.notes)
            np.testing.assert_array_equal(part.controls, other_part.controls)
            assert (part.program, part.channel, part.name) == (other_part.program, other_part.channel, other_part.name)
        for name in ("tempo_map", "meters", "key_signatures"):
            np.testing.assert_array_equal(getattr(song, name), getattr(again, name))
        assert (song.name, song.texts, song.warnings) == (again.name, again.texts, again.warnings)


# What becomes of files


def by_name(folder: Path, reports: list[dataset.FileReport]) -> dict[str, dataset.FileReport]:
    return {os.fsdecode(report.path.relative_to(folder)): report for report in reports}


def test_every_file_is_accounted_for(tmp_path):
    good = midi_writer.encode(chorale())
    undecodable = os.fsdecode(b"\xff.mid")
    files = {
        "good.mid": good,
        "Again.mid": good,
        "broken.mid": b"not a song at all",
        "cut.mid": good[:10],
        "empty.mid": b"",
        "drums.mid": file_of(track(note_bytes(36, 38, channel=9))),
        "mixed.mid": file_of(track(note_bytes(36, channel=9), note_bytes(60, 64))),
        "deep/deeper/x.MIDI": midi_writer.encode(repeats()),
        "line\nbreak \x1b[2J.mid": midi_writer.encode(rubato()),
        undecodable: file_of(track(note_bytes(60))),
        "-rf.mid": file_of(track(note_bytes(61))),
        "readme.txt": b"no song",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe.mid")
    (tmp_path / "gone.mid").symlink_to("nowhere")

    corpus, reports = dataset.load(tmp_path, GRID)
    assert [os.fsencode(report.path) for report in reports] == sorted(os.fsencode(report.path) for report in reports)
    found = by_name(tmp_path, reports)
    assert set(found) == set(files) - {"readme.txt"} | {"pipe.mid", "gone.mid"}
    reasons = {name: report.reason for name, report in found.items() if report.reason}
    assert reasons == {
        "good.mid": f"same content as {tmp_path / 'Again.mid'}",
        "broken.mid": "is not a MIDI file (it has no MThd header)",
        "cut.mid": "is cut short inside its header",
        "empty.mid": "is empty",
        "drums.mid": "has only drums (2 notes), which are not learned",
        "pipe.mid": "is a named pipe, not a file",
        "gone.mid": "cannot be read: No such file or directory",
    }
    used = [report.entry for report in reports if report.entry]
    assert tuple(used) == corpus.entries  # in the order of the paths
    assert [entry.name for entry in used] == [
        "-rf",
        "Again",
        "x",
        r"line\nbreak \x1b[2J",
        "mixed",
        r"\udcff",
    ]
    assert all(entry.path.isprintable() for entry in used)
    assert found["mixed.mid"].remarks == ("1 drum notes left out",)
    assert [len(song.notes) for song in corpus.songs] == [entry.notes for entry in used]


def test_row_of_the_manifest(tmp_path):
    notes = [(0.0, 1.0, 57, 80, 0, 24), (0.0, 1.0, 60, 80, 0, 24), (1.0, 2.0, 64, 80, 1, 7), (1.01, 3.3, 64, 90, 0, 24)]
    song = make_song([*notes, (2.0, 3.0, 69, 80, 0, 24)])
    entry, remarks = dataset.make_entry(song, tmp_path / "a tune.mid", "00ff", RollConfig(grid="seconds"))
    assert entry == dataset.SongEntry(
        name="a tune",
        path=str(tmp_path / "a tune.mid"),
        sha256="00ff",
        seconds=3.3,
        steps=67,
        notes=5,
        key="Am",
        shift=3,
        program=24,
        clock="steady",
        beats_per_quarter=1.0,
        merged=1,
    )
    assert remarks == ("1 notes left out, where a louder one has the same step and pitch",)
    on_beats, _ = dataset.make_entry(song, tmp_path / "a tune.mid", "00ff", GRID)
    assert (on_beats.clock, on_beats.steps) == ("file", round(3.3 / 0.5 * 12) + 1)
    own_key = dataset.make_entry(song, tmp_path / "a tune.mid", "00ff", RollConfig(common_key=False))[0]
    assert (own_key.key, own_key.shift) == ("Am", 0)


def test_empty_folder(tmp_path):
    assert dataset.load(tmp_path, GRID) == (dataset.Corpus((), ()), [])


def test_too_long(folder):
    corpus, reports = dataset.load(folder, GRID, max_seconds=7.0)
    found = by_name(folder, reports)
    seconds = round(rubato().seconds, 1)
    assert found["rubato.mid"].reason == (f"lasts {seconds} s, more than the limit of 7 s; raise it with --max-seconds")
    assert len(corpus.entries) == 2
    assert len(dataset.load(folder, GRID)[0].entries) == 3  # refused once, taken when asked for
    assert len(dataset.load(folder, GRID, max_seconds=7.0)[0].entries) == 2  # though it is in the cache by now


def test_progress(folder):
    calls: list[tuple[int, int]] = []
    dataset.load(folder, GRID, progress=lambda done, of: calls.append((done, of)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_load_file(folder):
    entry, song = dataset.load_file(folder / "rubato.mid", GRID)
    assert (entry.name, entry.notes) == ("rubato", len(song.notes))
    (folder / "bad.mid").write_bytes(b"")
    with pytest.raises(MidiError, match="is empty"):
        dataset.load_file(folder / "bad.mid", GRID)


def test_fingerprint_is_of_content_and_order(corpus, folder):
    assert dataset.load(folder, GRID)[0].fingerprint() == corpus.fingerprint()  # in another folder
    (folder / "rubato.mid").rename(folder / "a.mid")
    assert dataset.load(folder, GRID)[0].fingerprint() != corpus.fingerprint()


def test_processes_answer_as_one(folder, caches_here, monkeypatch):
    (folder / "bad.mid").write_bytes(b"MThd")
    for index in range(6):
        song = make_song([(0.0, 0.5, 50 + index)])
        midi_writer.write(song, folder / f"{index}.mid")
    monkeypatch.setenv("NEMUI_CACHE", str(caches_here / "one"))
    alone, alone_reports = dataset.load(folder, GRID)
    monkeypatch.setenv("NEMUI_CACHE", str(caches_here / "several"))
    monkeypatch.setattr(cache, "POOL_BYTES", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    several, several_reports = dataset.load(folder, GRID)
    assert len(alone.entries) == 9
    assert_same(alone, several)
    assert alone_reports == several_reports


# The cache


def forbid_parsing(patch: pytest.MonkeyPatch) -> None:
    def fail(*_):
        raise AssertionError("parsed again")

    patch.setattr("nemui_jax.music.midi_reader.parse", fail)


def test_second_load_is_from_the_cache(folder, caches_here, monkeypatch):
    first, reports = dataset.load(folder, GRID)
    assert len(list(caches_here.rglob("*.song"))) == 3
    forbid_parsing(monkeypatch)
    (folder / "rubato.mid").rename(folder / "z.mid")  # the same content under another name
    again, _ = dataset.load(folder, GRID)
    (folder / "z.mid").rename(folder / "rubato.mid")
    assert [entry.name for entry in again.entries] == ["a chorale", "repeats", "z"]
    again, again_reports = dataset.load(folder, GRID)
    assert_same(first, again)
    assert reports == again_reports


def test_a_file_that_changed_is_read_again(folder, caches_here):
    before = dataset.load(folder, GRID)[0]
    midi_writer.write(chorale(), folder / "rubato.mid")
    after = dataset.load(folder, GRID)[0]
    assert len(after.entries) == 2
    assert after.entries[0].sha256 == before.entries[0].sha256


def test_an_older_reader_s_cache_is_not_used(folder, caches_here, monkeypatch):
    dataset.load(folder, GRID)
    monkeypatch.setattr(cache, "READER", cache.READER + 1)
    forbid_parsing(monkeypatch)
    with pytest.raises(AssertionError, match="parsed again"):
        dataset.load(folder, GRID)


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "swapped", "flipped", "folder", "others"])
def test_damaged_cache_is_made_again(folder, caches_here, damage, monkeypatch):
    first, _ = dataset.load(folder, GRID)
    entries = sorted(caches_here.rglob("*.song"))
    whole = [path.read_bytes() for path in entries]
    for path, data, other in zip(entries, whole, [*whole[1:], whole[0]], strict=True):
        if damage == "folder":
            path.unlink()
            path.mkdir()
            continue
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 1
        kinds = {"empty": b"", "cut": data[: len(data) // 2], "garbage": b"\0" * 500, "swapped": other}
        kinds |= {"flipped": bytes(flipped), "others": b"PK\5\6" + bytes(18)}
        path.write_bytes(kinds[damage])
    assert_same(dataset.load(folder, GRID)[0], first)
    if damage != "folder":  # that one is no file to replace; it costs time, nothing else
        assert [path.read_bytes() for path in entries] == whole


def test_cache_that_cannot_be_written(folder, caches_here):
    caches_here.write_text("a file where a folder should be")
    assert len(dataset.load(folder, GRID)[0].entries) == 3


def flips(data: bytes) -> list[bytes]:
    """The data with one bit the other way, at 400 places."""
    rng = np.random.default_rng(0)
    places = rng.choice(8 * len(data), 400, replace=False)
    return [
        data[: place // 8] + bytes([data[place // 8] ^ 1 << place % 8]) + data[place // 8 + 1 :] for place in places
    ]


def test_any_flipped_bit_of_a_stored_song_is_noticed(tmp_path):
    path, sha256 = tmp_path / "a.song", "ab" * 32
    cache.save_song(path, rubato(), sha256)
    for damaged in flips(path.read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.song: does not match its checksum"):
            cache.load_song(path, sha256)


def test_stored_song_returns(tmp_path):
    song = dataclasses.replace(rubato(), texts=(Text(1.0, "lyrics", "la"),), warnings=("odd",), name="№ \u202e")
    cache.save_song(tmp_path / "new" / "a.song", song, "abc")
    again = cache.load_song(tmp_path / "new" / "a.song", "abc")
    assert_same(dataset.Corpus((), (song,)), dataset.Corpus((), (again,)))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.song"]
    with pytest.raises(ValueError, match="holds another song"):
        cache.load_song(tmp_path / "new" / "a.song", "abd")
    with pytest.raises(ValueError, match=r"none\.song"):
        cache.load_song(tmp_path / "none.song", "abc")


@pytest.mark.parametrize("content", [b"", b"\n", b"[]\n", b"{}\n", b'{"reader": 1, "sha256": "abc"}\n', b"\xff\n"])
def test_a_whole_file_of_something_else(tmp_path, content):
    (tmp_path / "a.song").write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(ValueError, match=r"a\.song: "):
        cache.load_song(tmp_path / "a.song", "abc")


def test_arrays_of_another_kind(tmp_path):
    wrong = dataclasses.replace(rubato(), meters=np.zeros(3, PEDAL))
    cache.save_song(tmp_path / "a.song", wrong, "abc")
    with pytest.raises(ValueError, match="arrays of other types"):
        cache.load_song(tmp_path / "a.song", "abc")


def test_cache_folder(monkeypatch, tmp_path):
    assert cache.cache_folder() == Path(os.environ["NEMUI_CACHE"])
    monkeypatch.delenv("NEMUI_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "nemui_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "nemui_jax"


# Packed


def test_pitches_fit_the_songs(corpus):
    fitted = dataset.fit_pitches(SMALLEST, corpus)
    pitches = [
        pitch + entry.shift
        for entry, song in zip(corpus.entries, corpus.songs, strict=True)
        for pitch in song.notes["pitch"].tolist()
    ]
    assert (fitted.roll.low, fitted.roll.high) == (min(pitches), max(pitches))
    assert fitted == dataclasses.replace(SMALLEST, roll=fitted.roll)
    original = config.preset("original")
    assert dataset.fit_pitches(original, corpus) == original


@pytest.mark.parametrize("block", [1, 4, 16])
def test_packed_rolls_are_the_songs(corpus, block):
    settings = dataset.fit_pitches(SMALLEST, corpus)
    settings = dataclasses.replace(
        settings, model=dataclasses.replace(settings.model, block_steps=block, knot_steps=2 * block)
    )
    packed, low, high = dataset.pack(corpus, settings), settings.roll.low, settings.roll.high
    assert packed.bits.shape == (len(packed.pedal), 2, -(-(high - low + 1) // 8))
    assert len(packed.note_start) == len(packed.pedal) + 1
    cells = np.unpackbits(packed.bits, axis=-1, count=high - low + 1, bitorder="little")
    start = first = 0
    for entry, song in zip(corpus.entries, corpus.songs, strict=True):
        steps = layout.count_blocks(entry.steps, settings.model) * block
        grid = dataset.grid_of(song, entry)
        roll = pianoroll.to_roll(grid, steps, low, high)
        np.testing.assert_array_equal(cells[start : start + steps], roll[:, [pianoroll.ONSET, pianoroll.FRAME]])
        pedal = pianoroll.quantize_pedal(song.pedal, steps, dataset.entry_clock(song, entry))
        np.testing.assert_allclose(packed.pedal[start : start + steps] / 255, pedal, atol=0.5 / 255 + 1e-9)
        mine = slice(first, first + len(grid))
        np.testing.assert_array_equal(packed.note_step[mine], grid["step"] + start)
        np.testing.assert_array_equal(packed.note_column[mine], grid["pitch"] - low)
        np.testing.assert_array_equal(packed.note_velocity[mine], grid["velocity"])
        np.testing.assert_array_equal(packed.note_timing[mine], grid["timing"])
        for step in range(steps):
            here = slice(packed.note_start[start + step], packed.note_start[start + step + 1])
            np.testing.assert_array_equal(packed.note_step[here], np.full(here.stop - here.start, start + step))
        start, first = start + steps, first + len(grid)
    assert start == len(packed.pedal)
    most = dataset.max_notes_per_block(packed.note_start, block)
    counts = [packed.note_start[step + block] - packed.note_start[step] for step in range(0, start, block)]
    assert most == max(counts)
    assert len(packed.note_step) == first + most  # a block's worth of padding


@pytest.mark.parametrize("knot_steps", [0, 8, 12])
def test_queries_of_a_corpus(corpus, knot_steps):
    settings = dataclasses.replace(SMALLEST, model=dataclasses.replace(SMALLEST.model, knot_steps=knot_steps))
    found = layout.corpus_queries(corpus.lengths, settings)
    step = row = query = 0
    for entry in corpus.entries:
        alone = layout.song_queries(entry.steps, settings.model)
        part = slice(query, query + len(alone.step))
        np.testing.assert_array_equal(found.step[part], alone.step + step)
        np.testing.assert_array_equal(found.row[part], alone.row + row)
        np.testing.assert_array_equal(found.time[part], alone.time)
        query += len(alone.step)
        step += len(alone.step) * settings.model.block_steps
        row += layout.count_song_rows(entry.steps, settings.model)
    assert query == len(found.step)
    assert step == len(dataset.pack(corpus, dataset.fit_pitches(settings, corpus)).pedal)
    assert set(found.row) == set(range(row))
    assert len(SONGS) == len(corpus.entries)


def test_a_large_library_has_longer_rows(monkeypatch, songs_folder):
    corpus, _ = dataset.load(songs_folder, Config())
    default = config.preset("default")
    assert dataset.fit_size(default, corpus) == default
    monkeypatch.setattr(dataset, "LARGE_SECONDS", 10.0)
    assert dataset.fit_size(default, corpus).model.latent_size == 2 * default.model.latent_size
    assert dataset.fit_size(config.preset("original"), corpus) == config.preset("original")
