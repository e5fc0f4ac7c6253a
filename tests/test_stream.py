"""More music than the device holds: shards take turns on it, and the songs are learned all the same."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from conftest import TINY, call

from nemui_jax.data import cache, dataset, layout
from nemui_jax.errors import UsageError
from nemui_jax.runs.run import read_log, read_run, read_scores
from nemui_jax.training import batches, sharded
from nemui_jax.training.step import init_state

STEPS = 400


@pytest.fixture(scope="module")
def corpus(songs_folder):
    return dataset.load(songs_folder, TINY)[0]


@pytest.fixture(scope="module")
def settings(corpus):
    return dataset.fit_pitches(TINY, corpus)


@pytest.fixture(scope="module")
def shards(corpus, settings, tmp_path_factory) -> sharded.Shards:
    groups = sharded.split_corpus(corpus, settings, memory=1.0)
    return sharded.write_shards(corpus, groups, settings, tmp_path_factory.mktemp("shards") / "own")


def begin(corpus, settings):
    return init_state(jax.random.key(0), layout.count_rows(corpus.entries), settings)


def go_on(state, shards, settings, total=STEPS, should_stop=lambda: False):
    """The state at the end, and all losses."""
    losses = []
    for reached, part in sharded.train_loop_sharded(state, shards, jax.random.key(0), total, settings, should_stop):
        state = reached
        losses += part.tolist()
    return state, losses


@pytest.mark.parametrize("memory", [1.0, 2e4, 5e4, 1e5, 1e12])
def test_groups_are_all_songs_in_order(corpus, settings, memory):
    groups = sharded.split_corpus(corpus, settings, memory)
    assert list(itertools.chain(*groups)) == [0, 1, 2]
    assert all(len(group) for group in groups)
    assert (len(groups) == 1) == (sharded.bytes_needed(corpus, settings) <= sharded.FILL * memory)
    assert len(groups) == 3 or memory > 1


def test_what_is_needed_is_what_arrays_take(corpus, settings):
    data = batches.load_data(corpus, settings)
    state = begin(corpus, settings)
    rows = layout.count_rows(corpus.entries)
    table = sum(leaf[:rows].nbytes for leaf in (state.latents, state.latents_opt[0].mu, state.latents_opt[0].nu))
    real = table + sum(leaf.nbytes for leaf in jax.tree.leaves((data.rolls, data.queries)))
    assert sharded.bytes_needed(corpus, settings) == pytest.approx(real, rel=0.15)


def test_too_little_memory_is_refused_before_it_is_needed(tmp_path):
    stated = tmp_path / "meminfo"
    stated.write_text("MemTotal:       8000 kB\nMemAvailable:    1048576 kB\n")
    sharded.refuse_little_memory(2**30, stated)
    with pytest.raises(UsageError, match=r"need 2\.00 GiB of memory, and 1\.00 GiB are free; .*--device-memory 0\.50"):
        sharded.refuse_little_memory(2**31, stated)
    sharded.refuse_little_memory(2**60, tmp_path / "none")  # where the system does not say


def test_shards_hold_the_music_of_the_corpus(corpus, settings, shards):
    whole = dataset.pack(corpus, settings)
    brought = [sharded.load_shard(shards, number) for number in range(3)]
    assert len({str(jax.tree.map(np.shape, data)) for data in brought}) == 1  # one compiled step serves all
    for number, data in enumerate(brought):
        rolls, queries = shards.music[number]
        count, steps = len(queries.step), len(rolls.bits)
        np.testing.assert_array_equal(data.rolls.bits[:steps], rolls.bits)
        np.testing.assert_array_equal(data.rolls.curves[:steps], rolls.curves)
        np.testing.assert_array_equal(data.queries.row[:count], queries.row)
        assert set(np.asarray(data.queries.step)) == set(queries.step)  # padded with queries of its own
        first, last = np.asarray(data.rolls.note_start)[[0, -1]]
        assert last - first == corpus.entries[number].notes - corpus.entries[number].merged
    np.testing.assert_array_equal(np.concatenate([rolls.bits for rolls, _ in shards.music]), whole.bits)
    assert shards.rows[-1][1] == layout.count_rows(corpus.entries)


def test_a_shard_changes_its_rows_alone(corpus, settings, shards):
    state = begin(corpus, settings)
    before = np.array(state.latents)
    visit = shards.visit_steps(settings.train)
    after, _ = go_on(state, shards, settings, total=visit)
    (start, end), *_ = shards.rows
    assert (before[start:end] != after.latents[start:end]).any(axis=1).all()
    np.testing.assert_array_equal(before[end:], after.latents[end:])


def test_a_run_that_is_cut_off_goes_on_as_if_it_were_not(corpus, settings, shards, monkeypatch):
    for module in ("step", "sharded"):
        monkeypatch.setattr(f"nemui_jax.training.{module}.UPDATES_PER_CALL", 10)
    settings = dataclasses.replace(settings, train=dataclasses.replace(settings.train, batch_windows=2))
    assert shards.visit_steps(settings.train) > 10
    whole, losses = go_on(begin(corpus, settings), shards, settings)
    chunks = sharded.train_loop_sharded(
        begin(corpus, settings), shards, jax.random.key(0), STEPS, settings, should_stop=lambda: True
    )
    state, found = next(chunks)
    assert len(found) == 10  # in the middle of a visit
    chunks.close()
    state, part = go_on(jax.tree.map(np.array, state), shards, settings)
    assert found.tolist() + part == losses
    jax.tree.map(np.testing.assert_array_equal, state, whole)


def test_the_command_learns_in_turns(songs_folder, tmp_path):
    told = call("train", "--dir", songs_folder, "--run", tmp_path / "run", "--device-memory", "0.00001", "--steps", 900)
    assert told.code == 0, told.err
    assert "3 shards take turns" in told.out
    known = read_scores(read_run(tmp_path / "run"))
    assert np.mean([song["onset"] for song in known]) > 0.95
    again = call("sample", "--run", tmp_path / "run", "--song", 1, "--out", tmp_path / "out.mid")
    assert again.code == 0, again.err
    assert [row["step"] for row in read_log(read_run(tmp_path / "run"))][-1] == 900
    assert not list((cache.cache_folder() / "shards").iterdir())


def test_minutes_are_refused(songs_folder, tmp_path):
    told = call("train", "--dir", songs_folder, "--run", tmp_path / "r", "--device-memory", "0.00001", "--minutes", "1")
    assert told.code == 2
    assert "give steps instead" in told.err
    assert not (tmp_path / "r").exists()
