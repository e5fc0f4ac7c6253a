"""A recurrent network that reads groups of onsets: which are beats or downbeats, and how long beats are there.

Two layers of gated recurrent units (Cho et al., 2014) in both directions. Several networks, trained on different songs,
are averaged: `benchmarks/train_beats.py` trains them. They run in NumPy.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

FASTEST_OCTAVE, OCTAVE_BIN, BINS = float(np.log2(0.22)), 0.2, 20  # log2 of seconds: the periods that are told apart
FOLDS = 3
_WINDOW, _MARGIN = 192, 64  # groups read at once, and groups at either side whose results are dropped
_LIMIT = 4.0  # standard deviations to which inputs are clipped
_FILE = Path(__file__).with_name("beat_network.npz")

Weights = dict[str, Float32[np.ndarray, "network ..."]]


class Reading(NamedTuple):
    """What the network makes of each group."""

    beat: Float[np.ndarray, " group"]  # log odds
    downbeat: Float[np.ndarray, " group"]  # log odds
    period: Float[np.ndarray, "group bin"]  # log probability that a beat there lasts as long; see OCTAVE_BIN

    def cut(self, low: int, high: int) -> "Reading":
        """That of the groups from `low` to before `high`."""
        return Reading(*(column[low:high] for column in self))


@cache
def load_weights() -> Weights:
    """The weights of the networks, from the file beside this one."""
    with np.load(_FILE) as file:
        return {name: file[name].astype(np.float32) for name in file.files}


def leaves_out(network: int, piece: int) -> bool:
    """Whether a network, by its number, was not trained on an annotated piece, by its number in the order of names."""
    return network % FOLDS == piece % FOLDS


def without(weights: Weights, piece: int) -> Weights:
    """The networks that were not trained on a piece."""
    kept = [leaves_out(network, piece) for network in range(len(weights["in.bias"]))]
    return {name: part if name in ("mean", "deviation") else part[kept] for name, part in weights.items()}


def scale(inputs: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Inputs in standard deviations from their mean over the music that was learned."""
    return np.clip((inputs - mean) / deviation, -_LIMIT, _LIMIT)


def read_groups(inputs: Float[np.ndarray, "group input"], weights: Weights) -> Reading:
    """What the networks, on average, make of groups with these inputs (`beat_inputs.make_inputs`)."""
    scaled = scale(inputs, weights["mean"], weights["deviation"])
    outputs = _run(weights, _windows(scaled)).mean(0)  # [step window output]
    outputs = outputs[_MARGIN : _MARGIN + _WINDOW].transpose(1, 0, 2).reshape(-1, outputs.shape[-1])[: len(inputs)]
    periods = outputs[:, 2:] - outputs[:, 2:].max(1, keepdims=True)
    periods -= np.log(np.exp(periods).sum(1, keepdims=True))
    return Reading(outputs[:, 0], outputs[:, 1], periods)


def _windows(inputs: Float[np.ndarray, "group input"]) -> Float32[np.ndarray, "step window input"]:
    """Overlapping windows of equal length, padded with zeros."""
    count = -(-len(inputs) // _WINDOW)
    padded = np.pad(inputs, ((_MARGIN, count * _WINDOW - len(inputs) + _MARGIN), (0, 0))).astype(np.float32)
    return padded[np.arange(_WINDOW + 2 * _MARGIN)[:, None] + _WINDOW * np.arange(count)]


def _run(weights: Weights, inputs: Float32[np.ndarray, "step window input"]) -> Float32[np.ndarray, "n step window o"]:
    """The outputs of each network at each step of each window."""
    hidden = np.tanh(_dense(inputs[None], weights, "in"))
    first = _both_ways(hidden, weights, "1")
    second = _both_ways(first, weights, "2")
    return _dense(np.concatenate([first, second], -1), weights, "out")


def _dense(inputs: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    return inputs @ weights[name + ".weight"][:, None] + weights[name + ".bias"][:, None, None]


def _both_ways(inputs: Float32[np.ndarray, "n step window i"], weights: Weights, layer: str) -> np.ndarray:
    """A layer of recurrent units that read forward, and one that read backward, side by side."""
    gates = [_dense(inputs, weights, way + layer) for way in ("forward", "backward")]
    gates = np.stack([gates[0], gates[1][:, ::-1]])  # [way n step window gate]
    recurrent = np.stack([weights[f"{way}{layer}.recurrent"] for way in ("forward", "backward")])
    size = recurrent.shape[2]
    states = np.zeros((gates.shape[2] + 1, *gates.shape[:2], gates.shape[3], size), np.float32)
    gates, carry = gates.transpose(2, 0, 1, 3, 4), 2 * size
    for step, gate in enumerate(gates):
        state = states[step]
        moved = state @ recurrent
        reset_update = 0.5 + 0.5 * np.tanh(0.5 * (gate[..., :carry] + moved[..., :carry]))  # the logistic function
        reset, update = reset_update[..., :size], reset_update[..., size:]
        new = np.tanh(gate[..., carry:] + reset * moved[..., carry:])
        states[step + 1] = new + update * (state - new)
    forward, backward = states[1:].transpose(1, 2, 0, 3, 4)
    return np.concatenate([forward, backward[:, ::-1]], -1)
