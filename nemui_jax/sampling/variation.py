"""Variations of a song: its melody kept and its accompaniment varied, or the other way round, and from there on both.

Each bar has another version, of the melody and of all that accompanies it: that of another bar of the song, looked up
to fit its harmony and what sounds with it. How much a song is varied is the share of all onsets that other versions
would change, so that it rises evenly.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int

from nemui_jax.data.grid import GridSong
from nemui_jax.data.pianoroll import GRID
from nemui_jax.sampling import form
from nemui_jax.sampling.analysis import AnalyzedSong
from nemui_jax.sampling.chain import FORBIDDEN_COST, Chain, find_returning_chain
from nemui_jax.sampling.lines import Role
from nemui_jax.sampling.lookup import place_costs, sounding, whole_beats
from nemui_jax.sampling.passages import merged
from nemui_jax.sampling.prior import PLACE_COSTS, frame, melody_of
from nemui_jax.sampling.splice import runs, spliced_notes

TEMPERATURE = 0.5  # at least, of what is looked up, so that seeds give other variations
LONGEST_RUN = 4  # bars of another place in a row


def vary(song: AnalyzedSong, noise: float, seed: int = 0, temperature: float = 0.0) -> GridSong:
    """The song with a share `noise`, from 0 to 1, of what can be varied: at 0 as it is, at 1 all bars are other ones.

    Its last bar stays, so that it ends as the song does. By the seed the melody is kept as long as possible, or what
    accompanies it. With more noise the same seed changes more bars, and those that less noise changes in the same way.
    A `temperature` makes the choice more random.
    """
    rng = np.random.default_rng(seed)
    groups = [group for group in (~melody_of(song), melody_of(song)) if group.any()]
    groups = groups[::-1] if rng.random() < 0.5 else groups
    bars = np.arange(song.upbeats, len(song.units))
    units = np.append(song.units[bars], max(song.song.steps, int(song.units[-1]) + 1))
    chains = _other_versions(song, groups, bars, max(temperature, TEMPERATURE), rng)
    everything = np.ones(len(bars), bool)
    changes = np.stack(
        [
            _changes(_notes(song, group, chain, everything, units), song, group, units)
            for group, chain in zip(groups, chains, strict=True)
        ]
    )
    last = max(song.last_unit - song.upbeats, 0)
    changes[:, last:] = 0  # the song's own end
    varied = _first_bars(changes, noise, rng)
    varied[:, last:] = False
    voices: dict[int, np.ndarray] = {}
    for group, chain, chosen in zip(groups, chains, varied, strict=True):
        voices |= _notes(song, group, chain, chosen, units)
    parts = []
    for index, part in enumerate(song.song.parts):
        own = [notes for number, notes in voices.items() if song.voices[number].part == index]
        parts.append(replace(part, notes=merged(own)) if own else part)
    return replace(song.song, parts=tuple(parts))


def _other_versions(
    song: AnalyzedSong,
    groups: list[Bool[np.ndarray, " voice"]],
    bars: Int[np.ndarray, " bar"],
    temperature: float,
    rng: np.random.Generator,
) -> list[Chain]:
    """For each group of voices another bar in place of each bar. Bars that return have the same in their place."""
    slots = whole_beats(song.unit_steps)
    chains: list[Chain] = []
    beside = sounding(song, sum(groups[1:], np.zeros(len(song.voices), bool)), song.units[bars], slots)
    for group in groups:
        used = np.repeat(group[:, None], len(bars), 1)
        cost = place_costs(song, used, frame(song, bars, group, beside), PLACE_COSTS)
        cost += temperature * rng.gumbel(size=cost.shape).astype(np.float32)
        alike = form.likeness(form.onset_rolls(song, group))
        cost += FORBIDDEN_COST * (alike[bars] >= form.SAME_BAR)[:, :, None]
        first = form.first_occurrences(alike[np.ix_(bars, bars)])
        chain = find_returning_chain(song, group, cost, first, np.ones(len(bars), bool), LONGEST_RUN, tries=0)
        beside = sounding(song, group, song.units[chain.place], slots, chain.shift)
        chains.append(chain)
    return chains


def _notes(
    song: AnalyzedSong,
    group: Bool[np.ndarray, " voice"],
    chain: Chain,
    varied: Bool[np.ndarray, " bar"],
    units: Int[np.ndarray, " bar_and_end"],
) -> dict[int, np.ndarray]:
    """GRID: the notes of each voice of a group, by its number, with the other versions of the bars that are varied."""
    found = list(runs(song, chain, varied, units))
    notes = {}
    for number in np.flatnonzero(group).tolist():
        voice = song.voices[number]
        bar = np.searchsorted(units, voice.notes["step"], side="right") - 1
        kept = voice.notes[~np.append(varied, False)[np.clip(bar, -1, len(varied) - 1)] | (bar < 0)]
        notes[number] = merged([kept, spliced_notes(voice.notes, found, voice.role is not Role.DRUMS)])
    return notes


def _changes(
    other: dict[int, np.ndarray],
    song: AnalyzedSong,
    group: Bool[np.ndarray, " voice"],
    units: Int[np.ndarray, " bar_and_end"],
) -> Int[np.ndarray, " bar"]:
    """The number of onsets that are in one of two versions of each bar only."""

    def onsets(notes: dict[int, np.ndarray]) -> np.ndarray:
        found = np.concatenate([np.empty(0, GRID), *notes.values()])
        return np.unique(found["step"].astype(np.int64) * 256 + found["pitch"])

    own = {number: song.voices[number].notes for number in np.flatnonzero(group).tolist()}
    steps = np.setxor1d(onsets(own), onsets(other)) // 256
    bar = np.searchsorted(units, steps, side="right") - 1
    return np.bincount(bar[bar >= 0].clip(max=len(units) - 2), minlength=len(units) - 1)


def _first_bars(
    changes: Int[np.ndarray, "group bar"], noise: float, rng: np.random.Generator
) -> Bool[np.ndarray, "group bar"]:
    """Bars whose changes are about a share `noise` of all, in random order, those of the first group first."""
    order = np.concatenate([rng.permutation(len(row)) + index * len(row) for index, row in enumerate(changes)])
    until = np.cumsum(changes.ravel()[order])
    count = int(np.abs(np.append(0, until) - noise * until[-1]).argmin())
    count = max(count, 1 + int((until == 0).sum())) if noise else 0
    varied = np.zeros(changes.size, bool)
    varied[order[: changes.size if noise >= 1 else count]] = True
    return varied.reshape(changes.shape)
