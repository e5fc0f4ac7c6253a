"""A folder to a corpus: every file is accounted for, the cache can be trusted, packed rolls hold the songs."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALLEST, band, chorale, make_song, repeats, rubato, transposed, write_songs
from midi_bytes import midi as file_of
from midi_bytes import notes as note_bytes
from midi_bytes import track

from nemui_jax import config
from nemui_jax.config import Config, RollConfig
from nemui_jax.data import cache, cells, curves, dataset, layout, pianoroll
from nemui_jax.errors import MidiError, UsageError
from nemui_jax.music import midi_writer
from nemui_jax.music.song import PEDAL, Text

DEFAULT = Config()


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
    return dataset.load(songs_folder, SMALLEST)[0]


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

    corpus, reports = dataset.load(tmp_path, DEFAULT)
    assert [os.fsencode(report.path) for report in reports] == sorted(os.fsencode(report.path) for report in reports)
    found = by_name(tmp_path, reports)
    assert set(found) == set(files) - {"readme.txt"} | {"pipe.mid", "gone.mid"}
    reasons = {name: report.reason for name, report in found.items() if report.reason}
    assert reasons == {
        "good.mid": f"same content as {tmp_path / 'Again.mid'}",
        "broken.mid": "is not a MIDI file (it has no MThd header)",
        "cut.mid": "is cut short inside its header",
        "empty.mid": "is empty",
        "drums.mid": "has only drums (2 notes); a song needs notes with pitches too",
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
    remarks = {report.entry.name: report.remarks for report in reports if report.entry and report.remarks}
    assert set(remarks) == {"x", r"line\nbreak \x1b[2J"}  # which clock they have
    assert [song.drums + len(song.notes) for song in corpus.songs] == [entry.notes for entry in used]


def test_a_song_s_entry_in_the_manifest(tmp_path):
    notes = [(0.0, 1.0, 57, 80, 0, 24), (0.0, 1.0, 60, 80, 0, 24), (1.0, 2.0, 64, 80, 1, 7), (1.01, 3.3, 64, 90, 0, 24)]
    drums = [(0.0, 0.1, 36, 80, 9, 0), (2.0, 9.9, 36, 80, 9, 0), (2.004, 2.1, 36, 90, 9, 0)]  # an end means nothing
    song = make_song([*notes, (2.0, 3.0, 69, 80, 0, 24), *drums, (2.01, 2.2, 36, 70, 9, 0)])
    steady = Config(roll=RollConfig(grid="seconds"))
    entry, remarks = dataset.make_entry(song, tmp_path / "a tune.mid", "00ff", steady)
    assert entry == dataset.SongEntry(
        name="a tune",
        path=str(tmp_path / "a tune.mid"),
        sha256="00ff",
        seconds=3.3,
        steps=67,
        rows=8,  # of three cells of three parts, of which two rest in the last one, and of the doubled drum
        notes=9,
        key="Am",
        shift=3,
        parts=(
            dataset.PartEntry("", program=24, channel=0, notes=4),
            dataset.PartEntry("", program=7, channel=1, notes=1),
            dataset.PartEntry("", program=0, channel=9, notes=4),
        ),
        clock="steady",
        beats_per_quarter=1.0,
        merged=1,
    )
    assert remarks == ("1 notes left out, where two louder ones of the part have the same step and pitch",)
    assert [part.instrument for part in entry.parts] == ["Nylon Guitar", "Clavinet", "Drums"]
    assert dataset.SongEntry.from_json(json.loads(json.dumps(dataclasses.asdict(entry)))) == entry
    on_beats, _ = dataset.make_entry(song, tmp_path / "a tune.mid", "00ff", DEFAULT)
    assert (on_beats.clock, on_beats.steps) == ("file", round(3.3 / 0.5 * 12) + 1)
    own_key = dataset.make_entry(song, tmp_path / "a tune.mid", "00ff", Config(roll=RollConfig(common_key=False)))[0]
    assert (own_key.key, own_key.shift) == ("Am", 0)


def test_the_original_preset_merges_parts_and_leaves_drums_out_and_says_so(tmp_path):
    original = config.preset("original")
    corpus = dataset.from_songs([band()], original)
    assert (corpus.entries[0].rows, len(corpus.entries[0].parts)) == (1, 1)
    assert corpus.entries[0].notes == len(band().notes)
    midi_writer.write(band(), tmp_path / "band.mid")
    (report,) = dataset.load(tmp_path, original)[1]
    assert report.remarks == (f"{band().drums} drum notes left out",)
    assert dataset.load(tmp_path, DEFAULT)[1][0].remarks == ()


@pytest.mark.parametrize("settings", [DEFAULT, config.preset("original")], ids=["default", "original"])
def test_songs_in_memory_have_notes_with_pitches(settings):
    drums = make_song([(0.0, 0.1, 36, 80, 9, 0)])
    for song in (drums, make_song([])):
        with pytest.raises(UsageError, match=r"song 1 \(\): has no notes with pitches"):
            dataset.from_songs([chorale(), song], settings)


def test_empty_folder(tmp_path):
    assert dataset.load(tmp_path, DEFAULT) == (dataset.Corpus((), ()), [])


def test_too_long(folder):
    corpus, reports = dataset.load(folder, DEFAULT, max_seconds=7.0)
    found = by_name(folder, reports)
    seconds = round(rubato().seconds, 1)
    assert found["rubato.mid"].reason == (f"lasts {seconds} s, more than the limit of 7 s; raise it with --max-seconds")
    assert len(corpus.entries) == 2
    assert len(dataset.load(folder, DEFAULT)[0].entries) == 3  # refused once, taken when asked for
    assert len(dataset.load(folder, DEFAULT, max_seconds=7.0)[0].entries) == 2  # though it is in the cache by now


def test_progress(folder):
    calls: list[tuple[int, int]] = []
    dataset.load(folder, DEFAULT, progress=lambda done, of: calls.append((done, of)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_load_file(folder):
    entry, song = dataset.load_file(folder / "rubato.mid", DEFAULT)
    assert (entry.name, entry.notes) == ("rubato", len(song.notes))
    (folder / "bad.mid").write_bytes(b"")
    with pytest.raises(MidiError, match="is empty"):
        dataset.load_file(folder / "bad.mid", DEFAULT)


def test_fingerprint_is_of_content_and_order(corpus, folder):
    assert dataset.load(folder, DEFAULT)[0].fingerprint() == corpus.fingerprint()  # in another folder
    (folder / "rubato.mid").rename(folder / "a.mid")
    assert dataset.load(folder, DEFAULT)[0].fingerprint() != corpus.fingerprint()


def test_processes_answer_as_one(folder, caches_here, monkeypatch):
    (folder / "bad.mid").write_bytes(b"MThd")
    for index in range(6):
        song = make_song([(0.0, 0.5, 50 + index)])
        midi_writer.write(song, folder / f"{index}.mid")
    monkeypatch.setenv("NEMUI_CACHE", str(caches_here / "one"))
    alone, alone_reports = dataset.load(folder, DEFAULT)
    monkeypatch.setenv("NEMUI_CACHE", str(caches_here / "several"))
    monkeypatch.setattr(cache, "POOL_BYTES", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    several, several_reports = dataset.load(folder, DEFAULT)
    assert len(alone.entries) == 9
    assert_same(alone, several)
    assert alone_reports == several_reports


# The cache


def forbid_parsing(patch: pytest.MonkeyPatch) -> None:
    def fail(*_):
        raise AssertionError("parsed again")

    patch.setattr("nemui_jax.music.midi_reader.parse", fail)


def test_second_load_is_from_the_cache(folder, caches_here, monkeypatch):
    first, reports = dataset.load(folder, DEFAULT)
    assert len(list(caches_here.rglob("*.song"))) == 3
    forbid_parsing(monkeypatch)
    (folder / "rubato.mid").rename(folder / "z.mid")  # the same content under another name
    again, _ = dataset.load(folder, DEFAULT)
    (folder / "z.mid").rename(folder / "rubato.mid")
    assert [entry.name for entry in again.entries] == ["a chorale", "repeats", "z"]
    again, again_reports = dataset.load(folder, DEFAULT)
    assert_same(first, again)
    assert reports == again_reports


def test_a_file_that_changed_is_read_again(folder, caches_here):
    before = dataset.load(folder, DEFAULT)[0]
    midi_writer.write(chorale(), folder / "rubato.mid")
    after = dataset.load(folder, DEFAULT)[0]
    assert len(after.entries) == 2
    assert after.entries[0].sha256 == before.entries[0].sha256


def test_an_older_reader_s_cache_is_not_used(folder, caches_here, monkeypatch):
    dataset.load(folder, DEFAULT)
    monkeypatch.setattr(cache, "READER", cache.READER + 1)
    forbid_parsing(monkeypatch)
    with pytest.raises(AssertionError, match="parsed again"):
        dataset.load(folder, DEFAULT)


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "swapped", "flipped", "folder", "others"])
def test_damaged_cache_is_made_again(folder, caches_here, damage, monkeypatch):
    first, _ = dataset.load(folder, DEFAULT)
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
    assert_same(dataset.load(folder, DEFAULT)[0], first)
    if damage != "folder":  # that one is no file to replace; it costs time, nothing else
        assert [path.read_bytes() for path in entries] == whole


def test_cache_that_cannot_be_written(folder, caches_here):
    caches_here.write_text("a file where a folder should be")
    assert len(dataset.load(folder, DEFAULT)[0].entries) == 3


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


def test_pitches_fit_the_songs():
    corpus = dataset.from_songs([band(), rubato()], SMALLEST)
    fitted = dataset.fit_pitches(SMALLEST, corpus)
    pitches = [
        pitch + (0 if part.is_drums else entry.shift)
        for entry, song in zip(corpus.entries, corpus.songs, strict=True)
        for part in song.parts
        for pitch in part.notes["pitch"].tolist()
    ]
    assert (fitted.roll.low, fitted.roll.high) == (min(pitches), max(pitches))
    assert fitted == dataclasses.replace(SMALLEST, roll=fitted.roll)
    original = config.preset("original")
    assert dataset.fit_pitches(original, corpus) == original


def test_heads_fit_the_songs(corpus):
    assert dataset.fit_heads(SMALLEST, corpus) == SMALLEST  # piano and organ with a pedal
    both = dataset.from_songs([rubato(), band()], SMALLEST)
    fitted = dataset.fit_heads(SMALLEST, both)
    assert fitted.model.heads == (*SMALLEST.model.heads, *("half_pedal", "bend", "modulation", "expression"))
    assert dataset.fit_heads(fitted, both) == fitted
    original = config.preset("original")
    assert dataset.fit_heads(original, both) == original


@pytest.mark.parametrize("block", [1, 4, 16])
def test_packed_rolls_are_the_cells_of_the_songs(songs_folder, block):
    """Read through its score, each part of each song is as it is on the grid."""
    settings = dataclasses.replace(
        SMALLEST, model=dataclasses.replace(SMALLEST.model, block_steps=block, knot_steps=2 * block)
    )
    folder, _ = dataset.load(songs_folder, settings)
    of_bands = dataset.from_songs([band(), transposed(band(), 3)], settings)
    corpus = dataset.Corpus(folder.entries + of_bands.entries, folder.songs + of_bands.songs)
    settings = dataset.fit_heads(dataset.fit_pitches(settings, corpus), corpus)
    packed, low, high = dataset.pack(corpus, settings), settings.roll.low, settings.roll.high
    steps = layout.count_rows(corpus.entries) * 2 * block
    assert packed.bits.shape == (steps, 2, -(-(high - low + 1) // 8))
    assert packed.curves.shape == (steps, len(cells.curve_names(settings.model)))
    found = np.unpackbits(packed.bits, axis=-1, count=high - low + 1, bitorder="little")
    for entry, song, row in zip(corpus.entries, corpus.songs, layout.row_starts(corpus.entries), strict=False):
        on_grid = dataset.on_grid(song, entry, settings)
        score = cells.make_score(on_grid, settings.model)
        assert score.max() + 1 == entry.rows
        for part, rows in zip(on_grid.parts, score, strict=True):
            assert_part_returns(packed, found, part, np.where(rows < 0, -1, rows + row), settings)


def assert_part_returns(packed, found, part, rows, settings) -> None:
    """The music of these rows, one after another, is that of the part."""
    knot, low, high = settings.model.knot_steps, settings.roll.low, settings.roll.high
    step = np.where(rows[:, None] < 0, -1, rows[:, None] * knot + np.arange(knot)).reshape(-1)
    roll = pianoroll.to_roll(part.notes, len(step), low, high)
    heard = (step >= 0)[:, None, None]
    np.testing.assert_array_equal(found[step] * heard, roll[:, [pianoroll.ONSET, pianoroll.FRAME]])
    values, last = np.array([curves.rest(name) for name in cells.curve_names(settings.model)]), 0
    for place, at in enumerate(step[: len(next(iter(part.curves.values()), []))]):
        values = packed.curves[at] / cells.CURVE_LEVELS if at >= 0 else values  # in silence a curve stays as it was
        for value, name in zip(values, cells.curve_names(settings.model), strict=True):
            wanted = part.curves[name][place] if name in part.curves else curves.rest(name)
            assert value == pytest.approx(wanted, abs=1 / cells.CURVE_LEVELS)
    for note in part.notes:
        at = step[note["step"]]
        here = slice(packed.note_start[at], packed.note_start[at + 1])
        last += here.stop - here.start
        lower = (part.notes["step"] == note["step"]) & (part.notes["pitch"] < note["pitch"])
        place = here.start + np.count_nonzero(lower)
        assert packed.note_timing[place] == pytest.approx(note["timing"], abs=1 / cells.TIMING_LEVELS)
        lowest, highest = part.velocities
        velocity = lowest + packed.note_velocity[place] / cells.VELOCITY_LEVELS * (highest - lowest)
        assert velocity == pytest.approx(note["velocity"], abs=0.5)


def test_notes_outside_the_grid_are_left_out(corpus):
    """As of a song that is fitted to a trained model: its rows are those of the whole song."""
    settings = dataclasses.replace(SMALLEST, roll=RollConfig(low=60, high=66))
    packed = dataset.pack(corpus, settings)
    assert len(packed.bits) == layout.count_rows(corpus.entries) * settings.model.knot_steps
    whole = dataset.pack(corpus, dataset.fit_pitches(SMALLEST, corpus))
    low = dataset.fit_pitches(SMALLEST, corpus).roll.low
    onsets = np.unpackbits(whole.bits[:, pianoroll.ONSET], axis=-1, bitorder="little")
    assert packed.note_start[-1] == onsets[:, 60 - low : 67 - low].sum()
    inside = np.unpackbits(packed.bits[:, pianoroll.ONSET], axis=-1, count=7, bitorder="little")
    np.testing.assert_array_equal(inside, onsets[:, 60 - low : 67 - low])


def test_a_large_library_has_longer_rows(monkeypatch, corpus):
    default = config.preset("default")
    assert dataset.fit_size(default, corpus) == default
    monkeypatch.setattr(dataset, "LARGE_ROWS", layout.count_rows(corpus.entries))
    large = dataset.fit_size(default, corpus)
    assert large.model.latent_size == 2 * default.model.latent_size
    assert large.train.passes < default.train.passes and large.train.row_rate < default.train.row_rate
    assert large.train.batch_windows == default.train.batch_windows
    assert dataset.fit_size(config.preset("original"), corpus) == config.preset("original")


@pytest.mark.parametrize(
    ("rows", "batch"), [(3_000, 512), (30_000, 512), (50_000, 1024), (91_000, 2048), (10**6, 4096)]
)
def test_batches_of_a_large_library_are_larger_on_an_accelerator(corpus, rows, batch):
    """As large as leaves 4,000 updates: the number of passes stays."""
    default, entry = config.preset("default"), dataclasses.replace(corpus.entries[0], rows=rows)
    library = dataset.Corpus((entry,), corpus.songs[:1])
    plain = dataset.fit_size(default, library)
    assert plain.train.batch_windows == 512
    for platform in ("gpu", "tpu"):
        found = dataset.fit_size(default, library, platform)
        assert found == dataclasses.replace(plain, train=dataclasses.replace(plain.train, batch_windows=batch))
    original = config.preset("original")
    assert dataset.fit_size(original, library, "gpu") == original
