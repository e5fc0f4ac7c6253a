"""Trains the networks that read onsets for beat tracking (`nemui_jax/music/beat_network.npz`).

    python benchmarks/train_beats.py --dir performances/ --scores scores/ [more/ ...] --out beat_network.npz

Beside each performance are its beats, as for `beats.py`; scores are played with made rubato (`performing.py`). No
network is trained on all performances: see `beat_network.leaves_out`. So `beats.py --left-out` tells how well beats are
found in music that was not learned. All networks are trained at once, in about 15 minutes on 2 cores.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import beats as annotations
import jax
import jax.numpy as jnp
import numpy as np
import optax
from performing import Played, perform, varied

from nemui_jax.evaluation.beats import read_annotations
from nemui_jax.music import midi_reader
from nemui_jax.music.beat_features import describe
from nemui_jax.music.beat_inputs import PEDAL_INPUTS, PERIOD_INPUTS, make_inputs
from nemui_jax.music.beat_network import BINS, FASTEST_OCTAVE, OCTAVE_BIN, leaves_out, scale
from nemui_jax.music.song import as_notes

HIDDEN, FIRST = 24, 24  # units of each recurrent layer and way, and of the layer before them
GROUPS, BATCH = 192, 8  # of onsets in an excerpt, and excerpts in a batch of each network
VARIANTS, PERFORMANCES = 10, 8  # of each performance, and of each score
SCORE_SHARE, NO_PEDAL_SHARE = 0.4, 0.3  # of excerpts: from scores; with the pedal's inputs hidden
NEAR_SECONDS = 0.07  # a group so near a beat is one
WEIGHTS = {"beat": 1.0, "downbeat": 0.5, "period": 0.3}  # of the losses
DROPOUT = (0.1, 0.15, 0.3)  # of an input throughout an excerpt, after the first layer, and after recurrent ones
RATE, DECAY = 4e-3, 2e-2


class Example(NamedTuple):
    """The groups of a performance."""

    inputs: np.ndarray  # [group input]
    targets: np.ndarray  # [group target]: beat, downbeat, period bins, whether beats are known, whether downbeats are


Pieces = list[list[Example]]  # the variants of each


def example(played: Played) -> Example:
    groups = describe(played.notes)
    times, beats = groups.times, played.beats
    near = np.abs(times[:, None] - beats)
    nearest, hit = near.argmin(0), near.min(0) < NEAR_SECONDS
    is_beat, is_downbeat = np.zeros(len(times)), np.zeros(len(times))
    is_beat[nearest[hit]], is_downbeat[nearest[hit & played.downbeats]] = 1, 1
    lengths = np.diff(beats)
    usual = np.array([np.median(lengths[max(place - 1, 0) : place + 2]) for place in range(len(lengths))])
    length = usual[np.clip(np.searchsorted(beats, times, "right") - 1, 0, len(lengths) - 1)]
    place = np.clip((np.log2(length) - FASTEST_OCTAVE) / OCTAVE_BIN, 0, BINS - 1)
    period = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(BINS)))
    known = (times > beats[0] - 0.1) & (times < beats[-1] + 0.5)
    columns = is_beat, is_downbeat, *period.T, known, known * (played.downbeats.sum() > 4)
    inputs = make_inputs(groups, played.notes, played.pedal)
    return Example(inputs, np.stack(columns, 1).astype(np.float32))


def init(key: jax.Array, inputs: int) -> dict[str, jax.Array]:
    keys = iter(jax.random.split(key, 16))

    def dense(name: str, size: int, outputs: int, scale: float = 1.0) -> dict[str, jax.Array]:
        weight = jax.random.normal(next(keys), (size, outputs)) * scale / np.sqrt(size)
        return {name + ".weight": weight, name + ".bias": jnp.zeros(outputs)}

    found = dense("in", inputs, FIRST) | dense("out", 4 * HIDDEN, 2 + BINS, 0.3)
    for layer, size in (("1", FIRST), ("2", 2 * HIDDEN)):
        for way in ("forward", "backward"):
            found |= dense(way + layer, size, 3 * HIDDEN)
            recurrent = jax.random.normal(next(keys), (HIDDEN, 3 * HIDDEN)) * 0.8 / np.sqrt(HIDDEN)
            found[f"{way}{layer}.recurrent"] = recurrent
    return found


def apply(weights: dict[str, jax.Array], inputs: jax.Array, key: jax.Array) -> jax.Array:
    """The outputs [group excerpt output], with dropout; as `beat_network` has them without."""

    def drop(values: jax.Array, number: int, share: float) -> jax.Array:
        kept = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - share, values.shape)
        return values * kept / (1 - share)

    def dense(values: jax.Array, name: str) -> jax.Array:
        return values @ weights[name + ".weight"] + weights[name + ".bias"]

    def recurrent(values: jax.Array, name: str) -> jax.Array:
        def step(state: jax.Array, gate: jax.Array) -> tuple[jax.Array, jax.Array]:
            moved = state @ weights[name + ".recurrent"]
            carry = 2 * HIDDEN
            reset, update = jnp.split(jax.nn.sigmoid(gate[..., :carry] + moved[..., :carry]), 2, axis=-1)
            state = update * state + (1 - update) * jnp.tanh(gate[..., carry:] + reset * moved[..., carry:])
            return state, state

        first = jnp.zeros((values.shape[1], HIDDEN))
        return jax.lax.scan(step, first, dense(values, name), reverse=name.startswith("backward"), unroll=4)[1]

    def both(values: jax.Array, layer: str) -> jax.Array:
        return jnp.concatenate([recurrent(values, "forward" + layer), recurrent(values, "backward" + layer)], -1)

    inputs = inputs * drop(jnp.ones(inputs.shape[1:]), 0, DROPOUT[0])
    first = both(drop(jnp.tanh(dense(inputs, "in")), 1, DROPOUT[1]), "1")
    second = both(drop(first, 2, DROPOUT[2]), "2")
    return dense(drop(jnp.concatenate([first, second], -1), 3, DROPOUT[2]), "out")


def loss(weights: dict[str, jax.Array], inputs: jax.Array, targets: jax.Array, key: jax.Array) -> jax.Array:
    outputs, (known, bars_known) = apply(weights, inputs, key), jnp.moveaxis(targets[..., -2:], -1, 0)
    binary = jnp.logaddexp(0, outputs[..., :2]) - targets[..., :2] * outputs[..., :2]
    period = -(jax.nn.log_softmax(outputs[..., 2:]) * targets[..., 2 : 2 + BINS]).sum(-1)
    each = WEIGHTS["beat"] * binary[..., 0] + WEIGHTS["period"] * period
    return (each * known + WEIGHTS["downbeat"] * binary[..., 1] * bars_known).sum() / known.sum()


def draw(
    performances: Pieces, scores: Pieces, no_pedal: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A batch of excerpts: inputs and targets, [group excerpt ...]."""
    width = performances[0][0].inputs.shape[1], performances[0][0].targets.shape[1]
    inputs, targets = (np.zeros((GROUPS, BATCH, size), np.float32) for size in width)
    for place in range(BATCH):
        pieces = scores if scores and rng.random() < SCORE_SHARE else performances
        variants = pieces[rng.integers(len(pieces))]
        chosen = variants[rng.integers(len(variants))]
        count = min(GROUPS, len(chosen.inputs))
        start = rng.integers(len(chosen.inputs) - count + 1)
        inputs[:count, place] = chosen.inputs[start : start + count]
        targets[:count, place] = chosen.targets[start : start + count]
        if rng.random() < NO_PEDAL_SHARE:
            pedal = slice(-PEDAL_INPUTS - PERIOD_INPUTS, -PERIOD_INPUTS)
            inputs[:, place, pedal] = no_pedal[pedal]
    return inputs, targets


def train(performances: Pieces, scores: Pieces, args: Any) -> dict[str, np.ndarray]:
    """The weights of all networks, by name."""
    rng, count = np.random.default_rng(args.seed), args.networks
    everything = np.concatenate([variants[0].inputs for variants in performances])
    mean, deviation = everything.mean(0), everything.std(0) + 0.05

    def scaled(pieces: Pieces) -> Pieces:
        return [[one._replace(inputs=scale(one.inputs, mean, deviation)) for one in variants] for variants in pieces]

    performances, scores, no_pedal = scaled(performances), scaled(scores), scale(0 * mean, mean, deviation)
    heard = [
        [one for piece, one in enumerate(performances) if not leaves_out(network, piece)] for network in range(count)
    ]
    rate = optax.warmup_cosine_decay_schedule(0, RATE, min(50, args.updates // 2), args.updates, 0.02 * RATE)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=DECAY))
    weights = jax.vmap(partial(init, inputs=len(mean)))(jax.random.split(jax.random.key(args.seed), count))
    state = jax.vmap(optimizer.init)(weights)

    @jax.jit
    @jax.vmap
    def update(weights: Any, state: Any, inputs: jax.Array, targets: jax.Array, key: jax.Array) -> Any:
        value, gradient = jax.value_and_grad(loss)(weights, inputs, targets, key)
        change, state = optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, change), state, value

    began, losses = time.monotonic(), []
    for number in range(args.updates):
        batches = [draw(pieces, scores, no_pedal, rng) for pieces in heard]
        inputs, targets = (np.stack(column) for column in zip(*batches, strict=True))
        keys = jax.random.split(jax.random.key(number), count)
        weights, state, value = update(weights, state, inputs, targets, keys)
        losses.append(value)
        if (number + 1) % 100 == 0:
            print(number + 1, np.mean(losses[-100:], 0).round(3), f"{time.monotonic() - began:.0f} s", flush=True)
    return {"mean": mean, "deviation": deviation} | {name: np.asarray(part) for name, part in weights.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="performances with their beats")
    parser.add_argument("--scores", type=Path, nargs="*", default=[], help="folders of scores")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--networks", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, performances, scores = np.random.default_rng(args.seed), [], []
    for path, text in annotations.annotated(args.dir):
        song = midi_reader.read(path)
        played = Played(as_notes(song.notes), song.pedal, *read_annotations(text))
        performances.append([example(played), *(example(varied(played, rng)) for _ in range(VARIANTS))])
    for path in sorted(path for folder in args.scores for path in folder.rglob("*.mid")):
        score = midi_reader.read(path)
        scores.append([example(perform(score, rng)) for _ in range(PERFORMANCES)])
    found = train(performances, scores, args)
    plain = ("mean", "deviation")  # the weights themselves are stored as 16 bits
    stored: Any = {name: part if name in plain else part.astype("f2") for name, part in found.items()}
    np.savez_compressed(args.out, **stored)


if __name__ == "__main__":
    main()
