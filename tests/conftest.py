"""Strict JAX, caches of our own, and the small music that tests learn."""

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jaxlib
import numpy as np
import pytest

import nemui_jax as nemui
from nemui_jax.cli.main import main
from nemui_jax.config import Config, ModelConfig, RollConfig, TrainConfig
from nemui_jax.music import midi_writer
from nemui_jax.music.song import (
    CONTROL,
    KEY_SIGNATURE,
    METER,
    NOTE,
    PEDAL,
    SONG_NOTE,
    Part,
    Song,
    TempoMap,
    Text,
    as_notes,
    pedal_controls,
)
from nemui_jax.training import finetune

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of workers and commands: more threads than cores wait long
RANK_PROMOTION = "raise"
ROOT = Path(__file__).parent.parent
# A training step compiles in a fourth of the time, and then takes a fifth longer. XLA stops the process where it does
# not know a flag, so later versions are not given those that may go.
FAST_COMPILES = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true" + (
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    if jaxlib.version.__version_info__ < (0, 11)
    else ""
)
TINY = Config(
    roll=RollConfig(),
    model=ModelConfig(block_steps=4, knot_steps=8, latent_size=24, hidden_size=64),
    train=TrainConfig(batch_windows=64, passes=300.0, least_steps=50),
)
SMALLEST = dataclasses.replace(  # for tests of what happens around a training, not of what is learned
    TINY,
    model=ModelConfig(block_steps=4, knot_steps=8, latent_size=4, hidden_size=8),
    train=TrainConfig(batch_windows=8, passes=1.0, least_steps=100),
)


TRAINING_FIXTURES = {"trained", "trained_waltzes", "finished", "watched"}  # and those that take one of them
TRAINING_MODULES = {
    *("test_band_outputs", "test_bands", "test_benchmarks", "test_devices"),
    *("test_examples", "test_stream", "test_train", "test_trainer"),
}
THOROUGH_MODULES = {"test_audio", "test_checkpoint", "test_hostile", "test_plots"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alone: listens for notes that are late, so that nothing else may run meanwhile")
    config.addinivalue_line("markers", "trains: trains a model, or starts a process that does; not in make test-fast")
    config.addinivalue_line("markers", "evaluates: measures a whole run, which takes seconds; not in make test-fast")
    config.addinivalue_line("markers", "thorough: of pictures, sound, checkpoints, bad bytes; not in make test-fast")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that are given a trained run and those of some modules; others are marked where they stand.

    Modules of tests that train come first: of two workers none is left with a long one at the end.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if TRAINING_FIXTURES & fixtures or item.path.stem in TRAINING_MODULES:
            item.add_marker(pytest.mark.trains)
        if item.path.stem in THOROUGH_MODULES:
            item.add_marker(pytest.mark.thorough)
    training = {item.path for item in items if item.get_closest_marker("trains")}
    items.sort(key=lambda item: item.path not in training)


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory, pytestconfig) -> Iterator[Path]:
    """Parsed songs go to a folder of this session, compiled programs to one of pytest's cache, which all workers share
    and the next session finds again; neither to the user's."""
    folder = tmp_path_factory.mktemp("caches")
    programs = str(pytestconfig.cache.mkdir("programs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEMUI_CACHE", str(folder))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", programs)
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
        patch.setenv("JAX_PLATFORMS", "cpu")
        patch.setenv("XLA_FLAGS", FAST_COMPILES)  # read at the first computation
        jax.config.update("jax_compilation_cache_dir", programs)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
        jax.config.update("jax_numpy_rank_promotion", RANK_PROMOTION)
        jax.config.update("jax_debug_key_reuse", True)
        yield folder


# Music


def group_parts(notes: np.ndarray) -> tuple[Part, ...]:
    """SONG_NOTE notes, in any order, as one part for each channel and program, without controls."""
    parts = []
    for channel, program in sorted(set(zip(notes["channel"].tolist(), notes["program"].tolist(), strict=True))):
        played = notes[(notes["channel"] == channel) & (notes["program"] == program)]
        parts.append(Part(as_notes(played), program, channel))
    return tuple(parts)


def assert_same_parts(first: Song, second: Song) -> None:
    assert len(first.parts) == len(second.parts)
    for one, other in zip(first.parts, second.parts, strict=True):
        assert (one.program, one.channel, one.name) == (other.program, other.channel, other.name)
        np.testing.assert_array_equal(one.notes, other.notes)
        np.testing.assert_array_equal(one.controls, other.controls)


def make_song(rows: Sequence[tuple], **others) -> Song:
    """A song from rows (onset, end, pitch[, velocity, channel, program]); events may be lists of rows.

    `tempos` are (time, quarter_seconds), `pedal` is the first part's.
    """
    default = (0.0, 0.5, 60, 80, 0, 0)
    notes = np.array([(*row, *default[len(row) :]) for row in rows], SONG_NOTE)
    parts = group_parts(notes) or (Part(np.empty(0, NOTE)),)
    if pedal := others.pop("pedal", None):
        moves = pedal_controls(np.array(pedal, PEDAL))
        parts = (dataclasses.replace(parts[0], controls=moves), *parts[1:])
    if tempos := others.pop("tempos", None):
        others["tempo_map"] = tempo_map(tempos)
    if "meters" in others:
        others["meters"] = np.array(others["meters"], METER)
    return Song(parts, **others)


def tempo_map(tempos: Sequence[tuple[float, float]]) -> TempoMap:
    """A tempo map from (time, quarter_seconds), of 120 bpm before the first."""
    time, quarter = np.array(tempos, float).T
    if time[0] > 0:
        time, quarter = np.append(0.0, time), np.append(0.5, quarter)
    return TempoMap(np.append(0.0, np.cumsum(np.diff(time) / quarter[:-1])), time, quarter)


def chorale() -> Song:
    """Chords in C major, struck together and held, with the pedal; an organ."""
    chords = [(48, 60, 64, 67), (53, 60, 65, 69), (55, 59, 62, 67), (45, 57, 60, 64), (48, 55, 64, 72)]
    rows = [
        (beat * 0.6, beat * 0.6 + 0.55, pitch, 50 + 7 * (beat % 6), 0, 19)
        for beat in range(10)
        for pitch in chords[beat % 5]
    ]
    pedal = [(time, value) for beat in range(10) for time, value in ((beat * 0.6 + 0.1, 127), (beat * 0.6 + 0.52, 0))]
    return make_song(rows, pedal=pedal, tempos=[(0.0, 0.6)], meters=[(0.0, 3, 4)], name="Chorale")


def repeats() -> Song:
    """One note struck again and again, louder and louder, with no rest between, under a held one; in E minor."""
    rows = [(0.31 + index * 0.131, 0.31 + (index + 1) * 0.131, 64, 20 + 3 * index) for index in range(32)]
    rows += [(0.3, 2.4, 52, 40), (2.5, 4.6, 55, 127), (2.5, 4.6, 59, 1)]
    return make_song(rows, tempos=[(0.0, 0.5), (2.5, 0.4)], meters=[(0.0, 4, 4)])


def rubato() -> Song:
    """A tune off the grid in D minor with rests, tempo changes, two channels, and a meter that changes."""
    rng = np.random.default_rng(7)
    onset = np.cumsum(rng.choice([0.17, 0.23, 0.34, 0.8], 24)) + rng.normal(0, 0.01, 24)
    pitch = 62 + rng.choice([0, 2, 3, 5, 7, 8, 10, 12], 24)
    rows = [
        (float(start), float(start + rng.uniform(0.05, 0.3)), int(note), int(rng.integers(20, 120)), index % 2, 40)
        for index, (start, note) in enumerate(zip(onset, pitch, strict=True))
    ]
    tempos = [(0.0, 0.5), (2.03, 0.61), (4.4, 0.45)]
    return make_song(rows, tempos=tempos, meters=[(0.0, 2, 4), (3.05, 6, 8)], name="Rubato № 1")


def band() -> Song:
    """Four bars of a band in G major: drums, bass, strings that rest for two bars, a lead that bends and fades out.

    The first and the second bar of bass and drums are equal, and so are the second half of each bar of the drums.
    """
    bar, beat = 2.0, 0.5
    hits = [(0.0, 36, 100), (0.5, 42, 60), (1.0, 38, 90), (1.5, 42, 60), (2.0, 36, 100), (2.5, 42, 60), (3.0, 38, 90)]
    drums = [
        (start * bar + at * beat, start * bar + at * beat + 0.1, pitch, velocity, 9, 8)
        for start in range(4)
        for at, pitch, velocity in hits
    ]
    roots = (43, 43, 48, 38)
    bass = [
        (start * bar + at * beat, start * bar + (at + 0.9) * beat, root + step, 70 + 10 * (at == 0), 1, 33)
        for start, root in enumerate(roots)
        for at, step in enumerate((0, 0, 7, 12))
    ]
    chords = {2: (60, 64, 67), 3: (62, 66, 69)}
    strings = [(start * bar, (start + 1) * bar - 0.05, pitch, 64, 2, 48) for start in chords for pitch in chords[start]]
    lead = [
        (index * beat + 0.01 * (index % 3), (index + 0.8) * beat, 67 + 2 * (index % 5), 50 + 4 * index, 0, 81)
        for index in range(16)
    ]
    settings = [(0.0, 0, 3), (0.0, 10, 30), (0.0, 7, 90), (0.0, 101, 0), (0.0, 100, 0), (0.0, 6, 12)]
    bends = [(1.0 + 0.125 * index, 128, 1024 * index) for index in range(5)] + [(1.75, 128, 0)]
    moves = [(0.5, 1, 64), (1.5, 1, 0), (0.0, 11, 120)] + [(6.0 + 0.25 * n, 11, 120 - 14 * n) for n in range(1, 7)]
    pedal = [(4.0, 64, 100), (4.5, 64, 40), (4.75, 64, 0), (6.0, 64, 127), (7.5, 64, 0)]
    parts = {part.channel: part for part in make_song([*drums, *bass, *strings, *lead]).parts}
    parts[0] = dataclasses.replace(parts[0], name="Lead", controls=controls(settings + bends + moves))
    parts[1] = dataclasses.replace(parts[1], name="Bass", controls=controls([(0.0, 7, 110), (0.0, 10, 64)]))
    parts[2] = dataclasses.replace(parts[2], name="Strings", controls=controls(pedal))
    parts[9] = dataclasses.replace(parts[9], name="Drums", controls=controls([(0.0, 7, 100)]))
    return Song(
        tuple(parts[channel] for channel in (0, 1, 2, 9)),
        tempo_map=TempoMap.steady(beat),
        meters=np.array([(0.0, 4, 4)], METER),
        key_signatures=np.array([(0.0, 1, False)], KEY_SIGNATURE),
        texts=(Text(0.0, "lyrics", "la "), Text(0.5, "lyrics", "la"), Text(4.0, "marker", "B")),
        name="Band",
    )


def controls(rows: Sequence[tuple[float, int, int]]) -> np.ndarray:
    """CONTROL events from rows (time, controller, value), sorted by time."""
    found = np.array(list(rows), CONTROL)
    return found[np.argsort(found["time"], kind="stable")]


def transposed(song: Song, semitones: int) -> Song:
    """The song in another key; drums stay as they are."""

    def moved(part: Part) -> Part:
        notes = part.notes.copy()
        notes["pitch"] += 0 if part.is_drums else semitones
        return dataclasses.replace(part, notes=notes)

    return dataclasses.replace(song, parts=tuple(moved(part) for part in song.parts))


SONGS = {"a chorale.mid": chorale, "b/repeats.mid": repeats, "rubato.mid": rubato}


def write_songs(folder: Path) -> Path:
    for name, make in SONGS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        midi_writer.write(make(), folder / name)
    return folder


@pytest.fixture(scope="session")
def songs_folder(tmp_path_factory) -> Path:
    """A folder of three songs of 5 to 10 seconds; read only."""
    return write_songs(tmp_path_factory.mktemp("songs"))


def waltz(quarter_seconds: float, pitches: Sequence[int]) -> Song:
    """Twelve bars of quarters in three, at a tempo that slows down by half in the last four bars."""
    slow = quarter_seconds * 24
    lasts = np.repeat([quarter_seconds, 2 * quarter_seconds], [24, 12])
    onset = np.concatenate([[0.0], np.cumsum(lasts)[:-1]])
    rows = [(on, on + 0.9 * long, pitch, 70) for on, long, pitch in zip(onset, lasts, pitches, strict=False)]
    tempos = [(0.0, quarter_seconds), (slow, 2 * quarter_seconds)]
    return make_song(rows, tempos=tempos, meters=[(0.0, 3, 4), (slow, 3, 4)])


def waltzes() -> dict[str, Song]:
    """Two waltzes of one rhythm, the first at 1.4 times the tempo of the second."""
    tune = [60, 64, 67, 62, 65, 69, 59, 62, 67] * 4
    return {"fast": waltz(0.35, tune), "slow": waltz(0.5, [pitch - 12 for pitch in tune[3:] + tune[:3]])}


# The command line


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def settings_flags(settings: Config) -> list[str]:
    """The flags of `train` that make the default configuration this one."""
    flags, default = [], Config()
    for section in ("roll", "model", "train"):
        before, after = (dataclasses.asdict(getattr(one, section)) for one in (default, settings))
        for name, value in after.items():
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            flags += ["--set", f"{section}.{name}={text}"] if value != before[name] else []
    return flags


def _with_settings(arguments: Sequence[object], settings: Config | None) -> list[str]:
    """Arguments of a command line, where it trains with small models."""
    flags = settings_flags(settings) if settings and "train" in arguments[:1] and "original" not in arguments else []
    return [*map(str, arguments[:1]), *flags, *map(str, arguments[1:])]


def call(*arguments: object, settings: Config | None = TINY) -> Answer:
    """What a command line answers, in this process, with small models for the default preset."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setenv("NEMUI_TRACEBACK", "")
        code = main(_with_settings(arguments, settings))
    return Answer(code, out.getvalue(), err.getvalue())


def start(*arguments: object, settings: Config | None = None, **options) -> subprocess.Popen[str]:
    """A command line in a process of its own, run.py; with `settings` for a training with small models."""
    program = [sys.executable, "run.py", *_with_settings(arguments, settings)]
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(program, text=True, **options)


def finish(process: subprocess.Popen[str]) -> Answer:
    out, err = process.communicate(timeout=120)
    return Answer(process.returncode, out, err)


class Trained(NamedTuple):
    path: Path
    answer: Answer


@pytest.fixture(scope="session")
def trained(songs_folder, tmp_path_factory) -> Trained:
    """A run that knows the three songs, made by the command line; read only."""
    path = tmp_path_factory.mktemp("runs") / "trained"
    answer = call("train", "--dir", songs_folder, "--run", path)
    assert answer.code == 0, answer.err
    return Trained(path, answer)


@pytest.fixture(scope="session")
def trained_waltzes(tmp_path_factory) -> Path:
    """A run that knows the two waltzes, each on its file's clock; read only."""
    path = tmp_path_factory.mktemp("runs") / "waltzes"
    named = [dataclasses.replace(song, name=name) for name, song in waltzes().items()]
    nemui.train(named, path, overrides=[*settings_flags(TINY)[1::2], "roll.grid=beats"])
    return path


@pytest.fixture
def benchmark(tmp_path):
    """Runs a benchmark in a process of its own and returns its output and its figures."""

    def run(name: str, *arguments: object) -> tuple[str, Any]:
        path = tmp_path / "figures.json"
        command = [sys.executable, f"benchmarks/{name}.py", "--json", path, *arguments]
        done = subprocess.run(
            list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(path.read_text())
        assert told["machine"]["cores"] >= 1 and told["machine"]["cpu"] and told["machine"]["devices"]
        assert {"python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint"} <= set(told["versions"])
        assert {"commit", "arguments", "load"} <= set(told)
        return done.stdout, told["figures"]

    return run


@pytest.fixture
def small_batches(monkeypatch):
    """Songs are fitted and added in batches of a quarter, enough for the small songs of tests."""
    monkeypatch.setattr(finetune, "BATCH_BLOCKS", 64)
