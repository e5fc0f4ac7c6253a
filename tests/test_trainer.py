"""Training from Python: events, stopping, songs in memory, components of one's own."""

import dataclasses
import functools
import itertools
import shutil
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import SMALLEST, TINY, call, chorale, make_song, repeats, rubato, settings_flags

import nemui_jax as nemui
from nemui_jax.config import TrainConfig
from nemui_jax.data import dataset
from nemui_jax.errors import RunError, UsageError
from nemui_jax.evaluation import playback
from nemui_jax.model import heads
from nemui_jax.model.decoder import Decoder
from nemui_jax.music import midi_writer
from nemui_jax.runs import adding, checkpoint, components, integrity, trainer
from nemui_jax.runs.run import Run, read_log, read_run, write_manifest
from nemui_jax.training import distributed
from nemui_jax.training.loop import make_loop
from nemui_jax.training.optimizer import Optimizer, make_optimizer
from nemui_jax.training.step import TrainState, init_state

pytestmark = pytest.mark.usefixtures("small_batches")

SETTINGS = settings_flags(SMALLEST)[1::2]


def train(songs, path: Path, **options) -> nemui.LoadedRun:
    return nemui.train(songs, path, **({"overrides": SETTINGS, "steps": 200} | options))


def test_events_are_what_the_log_says(songs_folder, tmp_path):
    events: list[nemui.Event] = []
    run = train(songs_folder, tmp_path / "run", callbacks=[events.append])
    assert [(event.step, event.total, len(event.losses)) for event in events] == [
        (n, 200, 50) for n in range(50, 201, 50)
    ]
    log = read_log(run.run)
    assert [row["loss"] for row in log] == [event.loss for event in events]
    assert [row["note_f1"] for row in log] == [event.note_f1 for event in events]
    assert [event.saved for event in events] == [None, None, None, 200]
    assert [bool(scores) for scores in events[-1].scores or ()] == [True] * 3  # at the end all songs are measured
    assert all(before.seconds < after.seconds for before, after in itertools.pairwise(events))
    assert [song.note_f1 for song in run.songs] == [scores["onset"] for scores in events[-1].scores or ()]


def test_a_callback_can_read_the_state(songs_folder, tmp_path):
    norms = []
    train(songs_folder, tmp_path / "run", callbacks=[lambda event: norms.append(float(abs(event.state.latents).sum()))])
    assert len(set(norms)) == 4


def test_should_stop_saves_and_the_same_call_continues_as_if_it_had_not(songs_folder, tmp_path):
    whole = train(songs_folder, tmp_path / "whole")
    steps: list[int] = []
    stopped = train(
        songs_folder,
        tmp_path / "run",
        callbacks=[lambda event: steps.append(event.step)],
        should_stop=lambda: len(steps) == 1,  # asked before the callbacks of the second chunk
    )
    assert steps == [50, 100]
    assert checkpoint.saved_steps(stopped.run.path) == [100]
    lines: list[str] = []
    train(songs_folder, tmp_path / "run", report=lines.append)
    assert lines == ["continues after step 100 of 200"]
    assert_same_state(whole.run, stopped.run)


UNTIL_KNOWN = {"steps": None, "overrides": [*SETTINGS, "train.least_steps=300", "train.known_loss=1e9"]}


def test_training_ends_soon_after_songs_are_known_and_goes_on_as_if_it_had_not_stopped(songs_folder, tmp_path):
    lines: list[str] = []
    whole = train(songs_folder, tmp_path / "whole", **UNTIL_KNOWN, report=lines.append).run
    assert lines == ["the songs are known at step 50: training ends at 100, not 300"]
    assert (whole.total, whole.planned, whole.known_at) == (100, 300, 50)
    assert whole == read_run(whole.path)
    train(songs_folder, whole.path, **UNTIL_KNOWN, report=lines.append)
    assert lines[1:] == ["training is finished: all 100 steps are done"]
    half = train(songs_folder, tmp_path / "half", **UNTIL_KNOWN, should_stop=lambda: True).run
    assert (checkpoint.saved_steps(half.path), half.known_at) == ([50], 50)
    train(songs_folder, half.path, **UNTIL_KNOWN)
    assert_same_state(whole, half)


def test_what_was_trained_before_songs_were_known_is_trained_the_same_way_again(songs_folder, tmp_path):
    """A process may be killed when it has written that songs are known, but has not saved the state at that step."""
    first = train(songs_folder, tmp_path / "first", steps=300, overrides=UNTIL_KNOWN["overrides"])
    losses = [row["loss"] for row in read_log(first.run)]
    notes_per_step = make_loop(first.run.corpus(), first.run.config, 0, None, lambda: False, print).notes_per_step
    known_loss = np.mean(losses[:2]) / notes_per_step
    settings = UNTIL_KNOWN | {"overrides": [*UNTIL_KNOWN["overrides"], f"train.known_loss={known_loss}"]}
    whole = train(songs_folder, tmp_path / "whole", **settings).run
    assert (whole.known_at, whole.total) == (100, 200)
    killed = train(songs_folder, tmp_path / "killed", **settings, should_stop=lambda: True).run
    assert (killed.known_at, checkpoint.saved_steps(killed.path)) == (None, [50])
    write_manifest(dataclasses.replace(killed, total=200, known_at=100))
    killed = train(songs_folder, killed.path, **settings).run
    assert_same_state(whole, killed)


def assert_same_state(*runs: Run) -> None:
    states = [checkpoint.restore(run, run.total) for run in runs]
    for leaf, other in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(leaf, other)


def test_songs_in_memory(tmp_path):
    songs = [chorale(), repeats(), rubato()]
    run = train(songs, tmp_path / "run")
    assert [song.name for song in run.songs] == ["Chorale", "song 1", "Rubato № 1"]
    for index, song in enumerate(songs):
        np.testing.assert_array_equal(run.run.song(index).notes, song.notes)
    assert train(songs, tmp_path / "run").run == run.run
    with pytest.raises(UsageError, match=r"song 0 .* has no notes"):
        train([make_song([])], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_python_and_the_command_line_continue_each_other(songs_folder, tmp_path):
    flags = ("--dir", songs_folder, "--run", tmp_path / "run", "--steps", 200)
    answer = call("train", *flags, settings=SMALLEST)
    assert answer.code == 0, answer
    lines: list[str] = []
    train(songs_folder, tmp_path / "run", report=lines.append)
    assert lines == ["training is finished: all 200 steps are done"]
    with pytest.raises(UsageError, match=r"other settings \(model.latent_size: 4, now 5\)"):
        train(songs_folder, tmp_path / "run", overrides=[*SETTINGS, "model.latent_size=5"])


def test_a_configuration_of_ones_own_is_taken_as_it_is(songs_folder, tmp_path):
    corpus, _ = dataset.load(songs_folder, SMALLEST)
    run = train(songs_folder, tmp_path / "run", config=SMALLEST, overrides=(), steps=1)
    assert run.config == dataset.fit_pitches(SMALLEST, corpus)
    wider = dataclasses.replace(SMALLEST, roll=dataclasses.replace(SMALLEST.roll, common_key=False, low=0, high=127))
    assert train(songs_folder, tmp_path / "wide", config=wider, overrides=(), steps=1).config == wider


def test_an_error_of_a_callback_leaves_what_was_saved(songs_folder, tmp_path):
    def fail(event: nemui.Event) -> None:
        if event.step == 150:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        train(songs_folder, tmp_path / "run", callbacks=[fail], save_seconds=0)
    assert checkpoint.whole_step(read_run(tmp_path / "run")) == (150, [])


@pytest.mark.parametrize(("saving", "saves"), [(0, 5), (100, 1)])
def test_checkpoints_that_take_long_are_saved_less_often(songs_folder, tmp_path, monkeypatch, saving, saves):
    now, saved, save = itertools.count(0.0), [], checkpoint.save
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: next(now)))  # a second passes at each look

    def slow(run: Run, state: TrainState) -> int:
        for _ in range(saving):
            next(now)
        return save(run, state)

    monkeypatch.setattr(checkpoint, "save", slow)
    keep = lambda event: saved.append(event.saved)  # noqa: E731
    train(songs_folder, tmp_path / "run", steps=500, callbacks=[keep], save_seconds=2)
    assert [step for step in saved[:-1] if step] == list(range(50, 100 * saves, 100))
    assert saved[-1] == 500


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"seed": 2**63}, {"steps": 0}, {"steps": 5 * 10**9}, {"minutes": 1e12}]
)
def test_absurd_numbers_are_refused(songs_folder, tmp_path, wrong):
    with pytest.raises(UsageError, match="is out of range"):
        train(songs_folder, tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()


# A decoder and an optimizer of one's own


class Linear(nn.Module):
    """As small as a decoder can be."""

    config: nemui.Config

    @nn.compact
    def __call__(self, latent: jax.Array, time: jax.Array) -> nemui.Block:
        joined = jnp.append(latent, time)
        shapes = {name: heads.head_shape(head, self.config) for name, head in heads.heads_of(self.config).items()}
        return {name: nn.DenseGeneral(shape)(joined) for name, shape in shapes.items()}


def momentum(config: TrainConfig) -> Optimizer:
    return Optimizer(optax.sgd(0.1 * config.weight_rate, momentum=0.9), optax.sgd(0.1 * config.row_rate))


def stateless(config: TrainConfig) -> Optimizer:
    return Optimizer(optax.sgd(config.weight_rate), optax.sgd(config.row_rate))


OTHER = {"decoder": Linear, "optimizer": momentum}


@pytest.fixture(scope="module")
def other(songs_folder, tmp_path_factory) -> Path:
    """A trained run with another decoder and another optimizer; read only."""
    path = tmp_path_factory.mktemp("runs") / "other"
    train(songs_folder, path, **OTHER)
    return path


def everything_in(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != "lock"}


def test_a_run_with_other_components_goes_on_as_if_it_had_not_stopped(songs_folder, other, tmp_path):
    run = read_run(other)
    assert (run.decoder, run.optimizer) == ("test_trainer.Linear", "test_trainer.momentum")
    steps: list[int] = []
    flags = {"callbacks": [lambda event: steps.append(event.step)], "should_stop": lambda: len(steps) == 1}
    train(songs_folder, tmp_path / "run", **OTHER, **flags)
    assert steps == [50, 100]
    train(songs_folder, tmp_path / "run", **OTHER)
    states = [checkpoint.restore(read_run(path), 200, None, *OTHER.values()) for path in (other, tmp_path / "run")]
    assert states[0].params["params"].keys() == {f"DenseGeneral_{n}" for n in range(len(heads.heads_of(run.config)))}
    for leaf, again in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(leaf, again)


@pytest.mark.parametrize("how", [{"steps": None, "minutes": 0.01}, {"device_memory": 1e-5}], ids=lambda how: [*how][-1])
def test_other_components_in_a_given_time_and_in_shards(songs_folder, tmp_path, how):
    lines: list[str] = []
    run = train(songs_folder, tmp_path / "run", **OTHER, **how, report=lines.append)
    assert run.step == run.run.total
    assert ("shards take turns" in "".join(lines)) == ("device_memory" in how)


def test_an_optimizer_without_a_state(songs_folder, tmp_path):
    run = train(songs_folder, tmp_path / "run", optimizer=stateless, steps=100)
    state = checkpoint.restore(run.run, 100, optimizer=stateless)
    assert jax.tree.leaves((state.params_opt, state.latents_opt)) == []
    train(songs_folder, tmp_path / "half", optimizer=stateless, steps=100, should_stop=lambda: True)
    train(songs_folder, tmp_path / "half", optimizer=stateless, steps=100)
    again = checkpoint.restore(read_run(tmp_path / "half"), 100, optimizer=stateless)
    np.testing.assert_array_equal(state.latents, again.latents)


def test_a_run_with_another_decoder_is_played_mixed_and_fitted_to(other, tmp_path):
    run = nemui.load(other, decoder=Linear)
    pieces = run.song(0), run.mix({0: 0.5, 1: 0.5}), run.perturb(0), run.morph([0, 1])
    assert [piece.kind for piece in pieces] == ["recall", "mix", "mix", "morph"]
    block = nemui.decode(run.params, jnp.asarray(run.table[0]), jnp.float32(0.5), run.config, Linear)
    assert block.keys() == heads.heads_of(run.config).keys()
    midi_writer.write(make_song([(0.2 * n, 0.2 * n + 0.1, 60 + n % 5) for n in range(20)]), tmp_path / "new.mid")
    lines: list[str] = []
    nemui.load(other, lines.append, decoder=Linear).song(tmp_path / "new.mid")
    assert "fine-tuning the decoder for this output" in lines[1]


def test_songs_are_added_with_the_components_of_the_run(songs_folder, other, tmp_path):
    shutil.copytree(other, tmp_path / "run")
    corpus = dataset.from_songs([make_song([(0.2 * n, 0.2 * n + 0.1, 60 + n % 5) for n in range(20)])], SMALLEST)
    before = everything_in(tmp_path / "run")
    for wrong in ({}, {"decoder": Linear}, {"optimizer": momentum}):
        with pytest.raises(RunError, match=r"trained with the (decoder|optimizer) test_trainer"):
            adding.add(tmp_path / "run", corpus, **wrong)
    assert everything_in(tmp_path / "run") == before
    assert len(adding.add(tmp_path / "run", corpus, **OTHER).entries) == 4
    assert len(nemui.load(tmp_path / "run", decoder=Linear).song(3).song.parts) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"the decoder test_trainer\.Linear, not nemui_jax\.model\.decoder\.Decoder; pass decoder=Linear"),
        ({"optimizer": momentum}, r"the decoder test_trainer\.Linear, not nemui_jax\.model\.decoder\.Decoder"),
        ({"decoder": Linear}, r"the optimizer test_trainer\.momentum, not .*\.make_optimizer; pass optimizer=momentum"),
    ],
)
def test_a_run_is_continued_only_with_its_own_components(songs_folder, other, given, message):
    before = everything_in(other)
    with pytest.raises(RunError, match=message) as caught:
        train(songs_folder, other, **given)
    assert "\n" not in str(caught.value)
    assert everything_in(other) == before


def test_a_run_with_the_default_components_is_not_continued_with_others(songs_folder, trained):
    for kind, component in OTHER.items():
        with pytest.raises(RunError, match=rf"trained with the {kind} nemui_jax\..*; pass {kind}="):
            nemui.train(songs_folder, trained.path, overrides=settings_flags(TINY)[1::2], **{kind: component})
    with pytest.raises(RunError, match="the decoder nemui_jax"):
        nemui.load(trained.path, decoder=Linear)


def test_a_run_that_names_no_components_has_the_default_ones(trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "run")
    what = integrity.unseal(integrity.read_json(tmp_path / "run" / "run.json"))
    named = {kind: what.pop(kind) for kind in ("decoder", "optimizer")}
    assert named == components.DEFAULTS
    assert components.choose_components(None, None) == (Decoder, make_optimizer)
    assert [*named.values()] == [components.component_name(component) for component in (Decoder, make_optimizer)]
    (tmp_path / "run" / "run.json").write_text(integrity.seal(what))
    run = read_run(tmp_path / "run")
    assert {"decoder": run.decoder, "optimizer": run.optimizer} == components.DEFAULTS


def test_a_component_without_a_name_is_refused(songs_folder, tmp_path):
    with pytest.raises(UsageError, match="has no name for a run to record"):
        train(songs_folder, tmp_path / "run", optimizer=functools.partial(momentum))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("sample", "--song", 0),
        ("sample", "--random"),
        ("evaluate",),
        ("plots",),
        ("export",),
        ("studio", "--no-browser"),
        ("songs",),
        ("train", "--steps", 200),
        ("add",),
    ],
    ids=lambda command: command[0],
)
def test_the_command_line_refuses_a_run_with_another_decoder(songs_folder, other, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    midi_writer.write(make_song([(0.0, 0.5, 60)]), tmp_path / "new.mid")
    more = {"train": ("--dir", songs_folder), "add": ("--file", "new.mid")}.get(command[0], ())
    before = everything_in(other)
    answer = call(*command, *more, "--run", other, settings=SMALLEST)
    assert answer.code == 2
    assert answer.err.startswith(f"nemui: {other}: trained with the decoder test_trainer.Linear, not nemui_jax.model.")
    assert answer.err.count("\n") == 1
    assert everything_in(other) == before


# Several processes


def test_processes_that_train_together_add_no_songs(songs_folder, trained, tmp_path, monkeypatch):
    folder = shutil.copytree(songs_folder, tmp_path / "songs")
    midi_writer.write(make_song([(0.0, 0.5, 60)]), folder / "new.mid")
    monkeypatch.setattr(distributed, "barrier", lambda _: None)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UsageError, match=r"does not hold 1 \(new\), .*; train without them, .* add --file FILE --run"):
        nemui.train(folder, trained.path, overrides=settings_flags(TINY)[1::2])
    assert len(read_run(trained.path).entries) == 3


def test_what_measures_is_compiled_before_it_is_needed(trained, caplog):
    run = read_run(trained.path)
    corpus, state = run.corpus(), init_state(jax.random.key(0), run.rows, run.config)
    jax.clear_caches()
    with jax.log_compiles():
        playback.compile_ahead(corpus, run.config)
        assert "_decode" in caplog.text
        caplog.clear()
        playback.measure(corpus, run.config, state.params, state.latents)
    assert "_decode" not in caplog.text
