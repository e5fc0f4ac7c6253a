"""The step, the losses and the decoder; what is learned, and that it is learned."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from conftest import SMALLEST, TINY, band
from jax.tree_util import Partial

from nemui_jax import config
from nemui_jax.config import Config, ModelConfig, TrainConfig
from nemui_jax.data import cells, dataset, layout, pianoroll
from nemui_jax.errors import RunError, UsageError
from nemui_jax.evaluation import note_metrics
from nemui_jax.model import decoder, heads, losses
from nemui_jax.runs.components import check_component, component_name
from nemui_jax.sampling.decode import decode_heads, latent_songs
from nemui_jax.sampling.play import play_back
from nemui_jax.training import batches
from nemui_jax.training.optimizer import Optimizer, learning_rate_share
from nemui_jax.training.step import (
    ROW_MULTIPLE,
    TrainState,
    batch_loss,
    default_steps,
    init_state,
    start_state,
    steps_in_time,
    train_loop,
    train_step,
    train_steps,
)

KEY_SEED = 3


@pytest.fixture(scope="module")
def corpus(songs_folder) -> dataset.Corpus:
    return dataset.load(songs_folder, SMALLEST)[0]


@pytest.fixture(scope="module")
def small(corpus) -> Config:
    """One configuration for most tests, so that its steps are compiled once; its rate stays as it is."""
    return without_rate(dataset.fit_pitches(SMALLEST, corpus))


@pytest.fixture(scope="module")
def data(corpus, small) -> batches.Data:
    return batches.load_data(corpus, small)


def begin(data: batches.Data, settings: Config) -> TrainState:
    return init_state(jax.random.key(KEY_SEED), int(data.queries.row.max()) + 1, settings)


def go_on(state: TrainState, data: batches.Data, settings: Config, length: int) -> tuple[TrainState, np.ndarray]:
    """Trains `length` steps of 100."""
    state, found = train_steps(state, data, jax.random.key(KEY_SEED), jnp.int32(100), config=settings, length=length)
    return state, np.asarray(found)


def on_host(tree):
    return jax.tree.map(np.array, tree)


def assert_equal_bits(tree, other) -> None:
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for leaf, leaf_again in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert leaf.dtype == leaf_again.dtype
        np.testing.assert_array_equal(leaf, leaf_again)


def without_rate(settings: Config, **others) -> Config:
    return dataclasses.replace(settings, train=dataclasses.replace(settings.train, constant_rate=True, **others))


# Batches


shuffle = jax.jit(batches.shuffle, static_argnames="count")


def one_pass(seed: int, count: int, number: int = 0) -> np.ndarray:
    position = number * count + np.arange(count, dtype=np.uint32)
    return np.asarray(shuffle(jax.random.key(seed), position, count=count))


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 17, 1000, 4097])
def test_shuffle_visits_every_entry_once_a_pass(count):
    for number in (0, 1, 5):
        np.testing.assert_array_equal(np.sort(one_pass(0, count, number)), np.arange(count))


def test_a_batch_may_span_passes():
    together = np.asarray(shuffle(jax.random.key(0), np.arange(3 * 17, dtype=np.uint32), count=17))
    np.testing.assert_array_equal(together, np.concatenate([one_pass(0, 17, number) for number in range(3)]))


def test_shuffle_shuffles():
    orders = [one_pass(0, 900), one_pass(0, 900, number=1), one_pass(1, 900), np.arange(900)]
    for index, order in enumerate(orders):
        for other in orders[:index]:
            assert (order == other).mean() < 0.02  # by chance 1 in 900
    neighbours = np.abs(np.diff(orders[0].astype(int)))
    assert 200 < neighbours.mean() < 400  # 300 if nothing is known from the entry before


def test_a_batch_is_windows_of_neighbours(data):
    settings = TrainConfig(batch_windows=5, window_blocks=3)
    count = len(data.queries.step)
    batch = jax.jit(partial(batches.sample_batch, config=settings))(jax.random.key(0), jnp.int32(4), data)
    starts = np.asarray(shuffle(jax.random.key(0), np.arange(20, 25, dtype=np.uint32), count=count))
    index = np.minimum(starts[:, None].astype(int) + np.arange(3), count - 1).ravel()
    for column, whole in zip(batch, data.queries, strict=True):
        np.testing.assert_array_equal(column, np.asarray(whole)[index])


def music_of(data: batches.Data, settings: Config, count: int | None = None) -> losses.Target:
    """The music of the first queries, on the host."""
    of_blocks = jax.jit(partial(batches.make_targets, config=settings))
    return on_host(of_blocks(data.rolls, jnp.asarray(np.asarray(data.queries.step)[:count])))


def test_blocks_of_many_notes_are_drawn_more_often(corpus, small, data):
    def drawn(repeat_notes: int, window_blocks: int = 1) -> tuple[np.ndarray, float]:
        train = dataclasses.replace(small.train, repeat_notes=repeat_notes, window_blocks=window_blocks)
        config = dataclasses.replace(small, train=train)
        data = batches.load_data(corpus, config)
        return np.unique(data.queries.step, return_counts=True)[1], batches.notes_per_step(data, config)

    start, step = data.rolls.note_start, np.unique(data.queries.step)
    notes = np.asarray(start[step + small.model.block_steps] - start[step])
    assert {0, 2, 4} <= {*notes.tolist()}
    once, few = drawn(0)
    assert (once == 1).all()
    assert (drawn(2, window_blocks=3)[0] == 1).all()
    times, more = drawn(2)
    np.testing.assert_array_equal(times, 1 + notes // 2)
    assert few == pytest.approx(notes.mean() / small.model.block_steps)
    assert more == pytest.approx(np.average(notes, weights=times) / small.model.block_steps)


def test_targets_are_the_music(corpus, small, data):
    block, low, high = small.model.block_steps, small.roll.low, small.roll.high
    dense, pedals, velocities = [], [], []
    for entry, song in zip(corpus.entries, corpus.songs, strict=True):
        grid = dataset.on_grid(song, entry, small)
        score = cells.make_score(grid, small.model)
        first = [np.flatnonzero(score.reshape(-1) == row)[0] for row in range(entry.rows)]
        steps = score.shape[1] * small.model.knot_steps
        roll = [pianoroll.to_roll(part.notes, steps, low, high) for part in grid.parts]
        pedal = [part.curves.get("pedal", np.zeros(0)) for part in grid.parts]
        pedal = [np.append(values, np.full(steps - len(values), values[-1] if len(values) else 0)) for values in pedal]
        of_cells = np.array(first)[:, None] * small.model.knot_steps + np.arange(small.model.knot_steps)
        dense.append(np.concatenate(roll)[of_cells.reshape(-1)])
        pedals.append(np.concatenate(pedal)[of_cells.reshape(-1)])
        velocities.append(np.array([part.velocities for part in grid.parts])[np.array(first) // score.shape[1]])
    roll = np.concatenate(dense).reshape(-1, block, 4, high - low + 1)
    target = music_of(data, small)
    np.testing.assert_array_equal(target.values["onset"], roll[:, :, pianoroll.ONSET])
    np.testing.assert_array_equal(target.values["frame"], roll[:, :, pianoroll.FRAME])
    np.testing.assert_allclose(target.values["pedal"], np.concatenate(pedals).reshape(-1, block), atol=1e-4)
    counts = roll[:, :, pianoroll.ONSET].sum((1, 2))
    np.testing.assert_array_equal(target.note_mask.sum((1, 2)), counts)
    lowest, highest = np.concatenate(velocities).repeat(small.model.knot_steps // block, 0).T
    for query in range(len(roll)):
        there = target.note_mask[query] == 1
        step, column = np.nonzero(roll[query, :, pianoroll.ONSET])
        place = np.concatenate([np.arange(np.count_nonzero(step == each)) for each in range(block)])
        np.testing.assert_array_equal(np.argwhere(there), np.stack([step, place], 1))
        velocity = lowest[query] + target.values["velocity"][query][there] * (highest[query] - lowest[query])
        np.testing.assert_allclose(velocity, 127 * roll[query, step, pianoroll.VELOCITY, column], atol=0.5)
        np.testing.assert_allclose(
            target.values["timing"][query][there], roll[query, step, pianoroll.TIMING, column], rtol=1e-6
        )


# Losses


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def bernoulli_nats(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    chance = sigmoid(logits)
    return -(target * np.log(chance) + (1 - target) * np.log(1 - chance))


def test_loss_by_hand(small, data):
    target = music_of(data, small, 7)
    rng = np.random.default_rng(0)
    shape = target.values["frame"].shape
    block = {name: rng.normal(size=shape).astype(np.float32) for name in ("onset", "frame")}
    for name in ("velocity", "timing"):
        block[name] = rng.normal(size=(*shape[:2], small.model.chord_size)).astype(np.float32)
    block["pedal"] = rng.normal(size=shape[:2]).astype(np.float32)
    expected = sum(bernoulli_nats(block[name], target.values[name]).sum() for name in ("onset", "frame", "pedal"))
    shares = target.values["pedal"]
    expected -= (scipy.special.entr(shares) + scipy.special.entr(1 - shares)).sum()  # 0 where the pedal is learned
    assert target.note_mask.sum() > 3
    for name, weight in (("velocity", 50.0), ("timing", 6.0)):
        errors = (block[name] - target.values[name])[target.note_mask == 1]
        expected += weight * (errors**2).sum()
    found = losses.loss(jax.device_put(block), jax.device_put(target), small)
    assert float(found) == pytest.approx(expected / (shape[0] * shape[1]), rel=1e-5)


def test_a_divergence_is_0_where_its_target_is_learned():
    target = jnp.array([0.0, 0.01, 0.5, 0.9, 1.0])
    logits = jnp.log(target / (1 - target)).clip(-30, 30)
    np.testing.assert_allclose(heads.divergence(logits, target), 0, atol=1e-6)
    assert (heads.divergence(logits[::-1], target)[jnp.array([0, 1, 3, 4])] > 0.1).all()
    assert np.isfinite(jax.grad(lambda logits: heads.divergence(logits, target).sum())(logits)).all()


def test_squared_loss_is_the_mean_over_frames(data, small):
    squared = dataclasses.replace(
        small,
        model=dataclasses.replace(small.model, heads=("frame",)),
        train=dataclasses.replace(small.train, loss="squared"),
    )
    target = music_of(data, squared, 7)
    frame = np.random.default_rng(0).normal(size=target.values["frame"].shape).astype(np.float32)
    found = losses.loss({"frame": jnp.asarray(frame)}, jax.device_put(target), squared)
    assert float(found) == pytest.approx(np.mean((frame - target.values["frame"]) ** 2), rel=1e-5)


def test_cross_entropy_is_that_of_optax():
    logits, target = jnp.array([1e4, -1e4, 1e4, -3.0, 0.0, 2.0]), jnp.array([1.0, 0.0, 0.0, 1.0, 0.3, 0.0])
    expected = optax.sigmoid_binary_cross_entropy
    np.testing.assert_allclose(heads.cross_entropy(logits, target), expected(logits, target), rtol=1e-6)
    slopes = [jax.grad(lambda x, f=f: f(x, target).sum())(logits) for f in (heads.cross_entropy, expected)]
    np.testing.assert_allclose(*slopes, rtol=1e-6)


# The decoder


def test_decode_by_hand():
    settings = Config(
        roll=config.RollConfig(low=60, high=62),
        model=ModelConfig(block_steps=2, knot_steps=4, latent_size=3, hidden_size=5, hidden_layers=2, rejoin=(1,)),
    )
    rng = np.random.default_rng(0)
    params = jax.eval_shape(lambda key: decoder.init(key, settings), jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    latent, time = np.array([0.3, -1.0, 2.0], np.float32), 0.25
    angle = 2 * np.pi * np.arange(1, 3) * time  # two harmonics: up to half the step rate
    joined = np.concatenate([latent, np.sin(angle), np.cos(angle)])
    hidden = joined
    for layer in range(2):
        hidden = np.concatenate([hidden, joined]) if layer == 1 else hidden
        weights = params["params"][f"hidden_{layer}"]
        hidden = hidden @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"])
        hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
    flat = hidden @ np.asarray(params["params"]["heads"]["kernel"]) + np.asarray(params["params"]["heads"]["bias"])
    block = decoder.decode(params, jnp.asarray(latent), jnp.float32(time), settings)
    assert list(block) == ["onset", "frame", "velocity", "timing", "pedal"]
    assert [head.shape for head in block.values()] == [(2, 3)] * 2 + [(2, settings.model.chord_size)] * 2 + [(2,)]
    np.testing.assert_allclose(np.concatenate([np.ravel(head) for head in block.values()]), flat, rtol=1e-4, atol=1e-4)


def test_cells_are_rare_before_training(small):
    block = decoder.decode(decoder.init(jax.random.key(0), small), jnp.zeros(4), jnp.zeros(()), small)
    assert sigmoid(np.asarray(block["onset"])).mean() < 0.02
    assert sigmoid(np.asarray(block["frame"])).mean() < 0.05


def test_a_query_does_not_depend_on_its_batch(small):
    params = decoder.init(jax.random.key(0), small)
    latent, time = jax.random.normal(jax.random.key(1), (6, 4)), jnp.linspace(0, 0.9, 6)
    decode = jax.vmap(partial(decoder.decode, config=small), (None, 0, 0))
    together = decode(params, latent, time)
    alone = decoder.decode(params, latent[2], time[2], small)
    for name, head in together.items():
        np.testing.assert_allclose(head[2], alone[name], rtol=1e-5, atol=1e-6)


def test_original_preset():
    settings = config.preset("original")
    params = jax.eval_shape(lambda key: decoder.init(key, settings), jax.random.key(0))["params"]
    shapes = {name: layer["kernel"].shape for name, layer in params.items()}
    joined = 32 + 2 * 128
    assert shapes == {
        "hidden_0": (joined, 512),
        "hidden_1": (512 + joined, 512),
        "hidden_2": (512, 512),
        "hidden_3": (512, 512),
        "hidden_4": (512 + joined, 512),
        "hidden_5": (512, 512),
        "heads": (512, 128),
    }
    assert dataset.from_songs([band()], settings).entries[0].rows == 1
    block = jax.eval_shape(partial(decoder.decode, config=settings), {"params": params}, jnp.zeros(32), jnp.zeros(()))
    assert {name: head.shape for name, head in block.items()} == {"frame": (1, 128)}
    assert not decoder.init(jax.random.key(0), settings)["params"]["heads"]["bias"].any()


def test_fourier_features_are_fixed():
    settings = config.preset("original").model
    features = np.asarray(decoder.time_features(jnp.float32(0.3), settings))
    again = np.asarray(jax.jit(partial(decoder.time_features, config=settings))(jnp.float32(0.3)))
    np.testing.assert_allclose(features, again, atol=1e-3)
    np.testing.assert_allclose(features[:128] ** 2 + features[128:] ** 2, 1, rtol=1e-5)
    slope = jax.jacfwd(partial(decoder.time_features, config=settings))(jnp.float32(0.0))[:128] / (2 * np.pi)
    assert 50 < float(jnp.std(slope)) < 80  # 128 draws of standard deviation 64
    assert len(np.unique(slope)) == 128


# The step


def test_every_row_and_every_weight_moves(data, small):
    state = begin(data, small)
    before = on_host(state)
    steps_a_pass = len(data.queries.step) / small.train.batch_windows
    while state.step < steps_a_pass:
        state = go_on(state, data, small, 10)[0]
    after = on_host(state)
    rows = int(data.queries.row.max()) + 1
    assert (before.latents != after.latents).any(axis=1)[:rows].all()
    assert (after.latents[rows:] == 0).all()  # padding
    for leaf, moved in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True):
        assert (leaf != moved).mean() > 0.5


def test_rows_outside_the_batch_stay(data, small):
    settings = small
    state = go_on(begin(data, settings), data, settings, 10)[0]
    before = on_host(state)
    batch = jax.jit(partial(batches.sample_batch, config=settings.train))(jax.random.key(KEY_SEED), before.step, data)
    batch = on_host(batch)
    after = on_host(go_on(state, data, settings, 1)[0])
    inside = np.zeros(len(before.latents), bool)
    inside[batch.row] = True
    assert 0 < inside.sum() < len(inside)
    for leaf, moved in zip(
        jax.tree.leaves((before.latents, before.latents_opt)),
        jax.tree.leaves((after.latents, after.latents_opt)),
        strict=True,
    ):
        np.testing.assert_array_equal(leaf[~inside], moved[~inside])
    updates = after.latents_opt[0].count - before.latents_opt[0].count
    np.testing.assert_array_equal(updates, inside)  # a row counts its own updates
    used = np.unique(batch.row)
    assert (before.latents[used] != after.latents[used]).any(axis=1).all()


def test_lazy_update_equals_a_dense_one(data, small):
    """With every block in every batch each row is updated each step, as Adam over the whole table would."""
    blocks = len(data.queries.step)
    settings = without_rate(small, batch_windows=blocks)
    state = begin(data, settings)
    rates = settings.train.weight_rate, settings.train.row_rate
    adams = [optax.nadam(rate, b2=settings.train.decay) for rate in rates]
    table, params = jnp.array(state.latents), jax.tree.map(jnp.array, state.params)
    opts = adams[0].init(params), adams[1].init(table)

    def cost(params, table, index):
        query = jax.tree.map(lambda column: column[index], data.queries)
        block = jax.vmap(partial(decoder.decode, config=settings), (None, 0, 0))(params, table[query.row], query.time)
        return losses.loss(block, batches.make_targets(data.rolls, query.step, settings), settings)

    @jax.jit
    def dense_step(learned, opts, index):
        value, gradients = jax.value_and_grad(cost, (0, 1))(*learned, index)
        found = [adam.update(*pair) for adam, *pair in zip(adams, gradients, opts, strict=True)]
        updates, opts = zip(*found, strict=True)
        return tuple(map(optax.apply_updates, learned, updates)), opts, value

    for number in range(3):
        state, found = go_on(state, data, settings, 1)
        (params, table), opts, value = dense_step((params, table), opts, one_pass(KEY_SEED, blocks, number))
        assert float(found[0]) == pytest.approx(float(value), rel=1e-3)
    np.testing.assert_allclose(state.latents, table, rtol=0, atol=2e-3)  # updates were 0.06 each
    for leaf, expected in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=2e-4)  # and 0.006


def test_ten_steps_and_ten_are_twenty(data, small):
    warming = dataclasses.replace(small, train=dataclasses.replace(small.train, constant_rate=False))
    halfway, first = go_on(begin(data, warming), data, warming, 10)
    twice, second = go_on(halfway, data, warming, 10)
    whole, both = go_on(begin(data, warming), data, warming, 20)
    assert_equal_bits(on_host(twice), on_host(whole))
    np.testing.assert_array_equal(np.concatenate([first, second]), both)


def test_another_key_is_another_training(data, small):
    runs = [
        train_steps(
            begin(data, small),
            data,
            jax.random.key(seed),
            jnp.int32(100),
            config=small,
            length=10,
        )[1]
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (np.asarray(runs[0]) != np.asarray(runs[2])).all()


def test_a_step_is_compiled_once(data, small):
    state = go_on(begin(data, small), data, small, 10)[0]
    compiled = train_steps._cache_size()
    for total in (100, 200):
        key = jax.random.key(total)
        state, _ = train_steps(state, data, key, jnp.int32(total), config=small, length=10)
    assert train_steps._cache_size() == compiled


def test_loop_ends_its_chunks_at_the_same_steps(data, small, monkeypatch):
    monkeypatch.setattr("nemui_jax.training.step.UPDATES_PER_CALL", 10)
    key = jax.random.key(KEY_SEED)

    def run(state: TrainState, total: int):
        found = [(on_host(state), part) for state, part in train_loop(state, data, key, total, small)]
        return [int(state.step) for state, _ in found], found[-1][0], np.concatenate([part for _, part in found])

    whole_steps, whole, whole_losses = run(begin(data, small), 25)
    assert whole_steps == [10, 20, 25]
    assert len(whole_losses) == 25
    state = next(train_loop(begin(data, small), data, key, 25, small))[0]
    steps, again, found = run(state, 25)
    assert steps == [20, 25]
    assert_equal_bits(again, whole)
    np.testing.assert_array_equal(found, whole_losses[10:])
    assert list(train_loop(again, data, key, 25, small)) == []


def test_rate():
    settings = TrainConfig()
    rates = [
        float(learning_rate_share(jnp.int32(step), jnp.int32(1000), settings)) for step in (0, 25, 50, 500, 1000, 1500)
    ]
    assert rates[0] == 0
    assert rates[1] == pytest.approx(0.5, rel=0.01)
    assert rates[2] > 0.99
    assert rates[3] == pytest.approx(0.01 + 0.99 * 500 / 950, rel=1e-3)
    assert rates[4:] == pytest.approx([0.01, 0.01], rel=1e-3)
    assert float(learning_rate_share(jnp.int32(0), jnp.int32(9), TrainConfig(constant_rate=True))) == 1


def test_default_length_is_whole_chunks_by_the_amount_of_music():
    settings = TrainConfig(batch_windows=10, window_blocks=2, passes=40.0, least_steps=120)
    assert default_steps(1, settings) == 150
    assert default_steps(10_000, settings) == 20_000
    assert default_steps(100_000, settings) == 200_000


def test_steps_in_a_time_are_whole_chunks(data, small, monkeypatch):
    monkeypatch.setattr("nemui_jax.training.step.UPDATES_PER_CALL", 10)
    found = steps_in_time(1.0, begin(data, small), data, jax.random.key(0), small)
    assert found >= 10
    assert found % 10 == 0


def test_ranks_are_joined_on_purpose(data, small):
    state = begin(data, small)
    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(partial(train_step, config=small), state, data, jax.random.key(0), jnp.int32(1))


# Seams


class Bilinear(nn.Module):
    """A decoder unlike Decoder: no layer is called `heads`."""

    config: Config

    @nn.compact
    def __call__(self, latent: jax.Array, time: jax.Array) -> decoder.Block:
        hidden = nn.Dense(32)(latent) * nn.Dense(32)(decoder.time_features(time, self.config.model))
        table = heads.heads_of(self.config)
        return {name: nn.DenseGeneral(heads.head_shape(head, self.config))(hidden) for name, head in table.items()}


def gradient_descent(_: TrainConfig) -> Optimizer:
    return Optimizer(params=optax.sgd(0.01), rows=optax.sgd(0.5))


def test_a_decoder_of_ones_own_is_trained_and_decoded(corpus, small, data):
    state = init_state(jax.random.key(0), layout.count_rows(corpus.entries), small, decoder=Bilinear)
    loop = train_loop(state, data, jax.random.key(1), 100, small, decoder=Bilinear)
    states, found = zip(*loop, strict=True)
    assert np.mean(found[-1][-10:]) < np.mean(found[0][:10]) / 2
    stretch = np.asarray(states[-1].latents[data.queries.row])
    decoded = decode_heads(states[-1].params, stretch, np.asarray(data.queries.time), small, Bilinear)
    assert decoded["frame"].shape == (len(data.rolls.bits), heads.count_pitches(small))


def test_an_optimizer_of_ones_own_updates_weights_and_rows(data, small):
    rows = int(data.queries.row.max()) + 1
    state = on_host(init_state(jax.random.key(0), rows, small, optimizer=gradient_descent))
    batch = batches.sample_batch(jax.random.key(1), jnp.int32(0), data, small.train)
    target = batches.make_targets(data.rolls, batch.step, small)

    def loss(params, table):
        return batch_loss(params, table[batch.row], batch.time, target, small)

    params_grads, table_grads = jax.grad(loss, (0, 1))(state.params, state.latents)
    step = jax.jit(partial(train_step, config=small, optimizer=gradient_descent))
    after, _ = step(state, data, jax.random.key(1), 10)
    np.testing.assert_allclose(after.latents, state.latents - 0.5 * table_grads, atol=1e-6)
    expected = jax.tree.map(lambda leaf, slope: leaf - 0.01 * slope, state.params, params_grads)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), after.params, expected)


def test_weights_that_are_not_updated_stay(data, small):
    some = layout.Queries(*(column[-5:] for column in data.queries))
    first = int(some.row.min())
    before = begin(data, small)
    kept = on_host(before)
    options = {"config": small, "length": 10}
    after, _ = train_steps(before, data._replace(queries=some), jax.random.key(0), 10, **options, update_params=False)
    assert_equal_bits(on_host(after.params), kept.params)
    np.testing.assert_array_equal(after.latents[:first], kept.latents[:first])
    assert (np.asarray(after.latents) != kept.latents)[np.unique(some.row)].any(axis=1).all()
    assert not after.latents_opt[0].count[:first].any()


def test_a_penalty_is_part_of_the_loss_and_moves_weights_alone(data, small):

    def towards_zero(scale, params, step, config, decoder):
        return scale * (1 + step) * sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(params))

    state = begin(data, small)
    step = jax.jit(partial(train_step, config=small, optimizer=gradient_descent))
    state = start_state(state.params, state.latents, small, gradient_descent)
    plain, loss = step(state, data, jax.random.key(1), 10)
    after, more = step(state, data, jax.random.key(1), 10, penalty=Partial(towards_zero, jnp.float32(0.5)))
    np.testing.assert_allclose(more - loss, towards_zero(0.5, state.params, 0, small, None), rtol=1e-5)
    np.testing.assert_array_equal(after.latents, plain.latents)
    expected = jax.tree.map(lambda leaf, weight: leaf - 0.01 * weight, plain.params, state.params)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), after.params, expected)


def test_what_a_decoder_plays_is_a_target_that_it_fits(small):
    """No other decoder has a smaller loss: the slope is zero, for notes too, and notes count where onsets are."""
    params = decoder.init(jax.random.key(0), small)
    latent, time = jax.random.normal(jax.random.key(1), (7, small.model.latent_size)), jnp.zeros(7)
    played = jax.vmap(partial(decoder.decode, config=small), (None, 0, 0))(params, latent, time)
    played["onset"] = played["onset"].at[2, 3, :2].set(4.0)
    target = losses.target_of(played, small)
    assert target.note_mask.sum() == 2 and target.note_mask[2].sum() == 2
    slopes = jax.grad(losses.loss)(played, target, small)
    for name, slope in slopes.items():
        np.testing.assert_allclose(slope, 0, atol=1e-6, err_msg=name)
    slopes = jax.grad(losses.loss)({name: value + 0.1 for name, value in played.items()}, target, small)
    at = np.argwhere(np.asarray(slopes["velocity"]))
    np.testing.assert_array_equal(at, [[2, 3, 0], [2, 3, 1]])


def test_a_head_is_added_in_the_table_alone(corpus, small, data, monkeypatch):
    silent = heads.Head(heads.cross_entropy, lambda music: 1 - music.frame.max(-1), per="step")
    monkeypatch.setitem(heads.HEADS, "silent", silent)
    names = (*small.model.heads[:2], "silent", *small.model.heads[2:])
    settings = dataclasses.replace(small, model=dataclasses.replace(small.model, heads=names))
    target = music_of(data, settings)
    np.testing.assert_array_equal(target.values["silent"], 1 - target.values["frame"].max(-1))
    state, found = go_on(begin(data, settings), data, settings, 100)
    assert found[-1] < found[0]
    wide = dataclasses.replace(settings, roll=dataclasses.replace(settings.roll, high=settings.roll.high + 3))
    query = jnp.ones(settings.model.latent_size), jnp.float32(0.5)
    before = decoder.decode(state.params, *query, settings)
    after = decoder.decode(decoder.widen(state.params, settings, wide), *query, wide)
    for name, head in heads.heads_of(settings).items():
        found = after[name][:, :-3] if head.per == "pitch" else after[name]
        np.testing.assert_allclose(found, before[name], rtol=1e-6)


def test_a_decoder_that_cannot_be_widened_is_named(small):
    wide = dataclasses.replace(small, roll=dataclasses.replace(small.roll, low=small.roll.low - 1))
    params = decoder.init(jax.random.key(0), small, Bilinear)
    assert decoder.widen(params, small, small) is params
    with pytest.raises(UsageError, match="no layer `heads` to widen"):
        decoder.widen(params, small, wide)


def test_a_run_of_other_parts_is_refused(tmp_path):
    recorded = component_name(decoder.Decoder)
    assert recorded == "nemui_jax.model.decoder.Decoder"
    check_component(tmp_path, "decoder", recorded, decoder.Decoder)
    with pytest.raises(RunError, match=r"not test_train\.Bilinear; pass decoder=Decoder"):
        check_component(tmp_path, "decoder", recorded, Bilinear)


# What is learned


def test_a_song_comes_back_note_for_note(corpus):
    """The promise: whole songs, with dynamics, timing and pedal."""
    settings = dataset.fit_pitches(TINY, corpus)
    data = batches.load_data(corpus, settings)
    chunks = list(train_loop(begin(data, settings), data, jax.random.key(0), 550, settings))
    state, values = chunks[-1][0], np.concatenate([part for _, part in chunks])
    assert len(values) == 550
    assert values[-50:].mean() < values[:50].mean() / 20
    for song, latent in zip(corpus.songs, latent_songs(corpus, state.latents, settings), strict=True):
        scores = note_metrics.playback_scores(song, play_back(state.params, latent, settings))
        assert (scores["onset"], scores["offset"], scores["velocity"]) == (1, 1, 1)
        assert scores["onset_error_seconds"] < 0.004
        assert scores["pedal"] > 0.98
    assert -(-layout.count_rows(corpus.entries) // ROW_MULTIPLE) * ROW_MULTIPLE == len(state.latents)
