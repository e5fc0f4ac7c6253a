"""Measurements of a run: songs played back against their files, mixes against their parents, and sets of mixes.

All notes are measured as they are read back from a written .mid, and parents from their files over the same seconds.
Results are plain data for JSON.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from nemui_jax.config import Config
from nemui_jax.data import layout, pianoroll
from nemui_jax.evaluation import note_metrics, style
from nemui_jax.evaluation.language_model import LanguageModel
from nemui_jax.model import decoder, latents
from nemui_jax.music import midi_reader, midi_writer
from nemui_jax.music.clock import STEADY_BEAT_SECONDS, STEPS_PER_BEAT, steady_clock
from nemui_jax.music.song import SONG_NOTE, Part, Song, cut_notes, cut_song, group_parts, pedal_controls, retime
from nemui_jax.sampling.arrange import arrange_song
from nemui_jax.sampling.blend import mix_weights, morph_weights
from nemui_jax.sampling.decode import LatentTrack, decode_latents, retime_track
from nemui_jax.sampling.play import play, play_back
from nemui_jax.sampling.select import select_by_threshold

PAIRS = 24
WEIGHTS = (0.25, 0.5, 0.75)
PATH = 11  # mixes from one song to the other, at even weights
SECONDS = 90.0  # of each mix, at most
MAX_SONGS = 100  # the most songs that are measured and compared with; of more, this many are evenly chosen
LIKENESS_RATIO = 1.5  # to count as of both parents, a mix is this many times as like each as an unrelated song
Player = Callable[[Sequence[LatentTrack], float, int], Song]  # of two tracks, the weight of the second, blocks


def evaluate(
    params: decoder.Params,
    tracks: Sequence[LatentTrack],
    songs: Sequence[Song],
    config: Config,
    original: Player | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """All figures of a run, as data for JSON; of a run of one song only those of `playback`.

    `songs` in the result is how many were measured, at most MAX_SONGS, and how many there are. `original` plays mixes
    of a run made with `--preset original`, as one more baseline. `progress(done, total)` is called after each pair.
    """
    count, chosen = len(tracks), choose_songs(len(tracks))
    tracks, songs = [tracks[index] for index in chosen], [songs[index] for index in chosen]
    result: dict[str, Any] = {"songs": [len(tracks), count], "playback": score_playback(params, tracks, songs, config)}
    pairs = draw_pairs(len(tracks))
    if not pairs:
        return result
    # Mixes are measured at one tempo for all songs, so that tempos need not be mixed.
    steady = steady_clock()
    songs = [retime(song, track.clock, steady) for song, track in zip(songs, tracks, strict=True)]
    tracks = [retime_track(track, steady) for track in tracks]
    rng, mixes, paths, sets = np.random.default_rng(1), [], [], {}
    language = LanguageModel.fit([song.notes for song in songs])
    players = baselines(params, songs, config) | ({} if original is None else {"original preset's mix": original})
    for done, pair in enumerate(pairs):
        parents = [tracks[index] for index in pair]
        seconds = min(SECONDS, *(songs[index].seconds for index in pair))
        blocks = int(np.ceil(seconds / block_seconds(config)))
        others = [index for index in range(len(tracks)) if index not in pair]
        unrelated = songs[rng.choice(others)].notes if others else np.empty(0, SONG_NOTE)
        other_songs = [cut_notes(songs[index].notes, seconds) for index in others]
        path = {
            weight: written_part(mix(params, parents, weight, blocks, config), seconds)
            for weight in sorted({*WEIGHTS, *np.linspace(0, 1, PATH).tolist()})
        }
        sources = [cut_notes(songs[index].notes, seconds) for index in pair]
        mixes += [
            compare_with_parents(path[weight], sources, cut_notes(unrelated, seconds), weight, seconds)
            | {"likeness_nearest_other": note_metrics.nearest(path[weight], other_songs)[1] if other_songs else 0.0}
            for weight in WEIGHTS
        ]
        paths.append(
            {
                "evenness": evenness([path[weight] for weight in np.linspace(0, 1, PATH).tolist()], parents),
                "end": min(note_metrics.note_scores(sources[i], path[float(i)]).onset.f1 for i in (0, 1)),
                "morph_end": morph_ends(params, parents, [songs[index] for index in pair], config),
            }
        )
        pieces = {"mix": path[0.5]} | {
            name: written_part(play(parents, 0.5, blocks), seconds) for name, play in players.items()
        }
        for name, notes in pieces.items():
            sets.setdefault(name, []).append((notes, seconds, pair))
        progress(done + 1, len(pairs))
    result["mixes"] = {str(weight): summary([row for row in mixes if row["weight"] == weight]) for weight in WEIGHTS}
    result["path"] = {
        "evenness": mean([row["evenness"] for row in paths]),
        "worst_step": max(row["evenness"] for row in paths),
        "worst_end": min(row["end"] for row in paths),
        "worst_morph_end": min(row["morph_end"] for row in paths),
    }
    result["sets"] = compare_sets(sets, songs, language, config)
    return result


def score_playback(
    params: decoder.Params, tracks: Sequence[LatentTrack], songs: Sequence[Song], config: Config
) -> list[dict[str, Any]]:
    """The `note_metrics.playback_scores` of each song, and under `ceiling` those of its notes on the grid."""
    found = []
    for track, song in zip(tracks, songs, strict=True):
        grid, share = (
            pianoroll.quantize(song.notes, track.clock),
            pianoroll.quantize_pedal(song.pedal, track.steps, track.clock),
        )
        pedal = pedal_controls(pianoroll.to_pedal(share, track.clock))
        on_grid = Song((Part(pianoroll.to_notes(grid, track.clock), controls=pedal),))
        played = written(play_back(params, track, config))
        scores, ceiling = note_metrics.playback_scores(song, played), note_metrics.playback_scores(song, on_grid)
        found.append({"name": track.name, **scores, "ceiling": ceiling})
    return found


def note_f1(
    params: decoder.Params, track: LatentTrack, config: Config, decoder: decoder.DecoderClass = decoder.Decoder
) -> float:
    """How well a track plays its song back: note F1 of onsets, 0 to 1."""
    return note_metrics.note_scores(
        track.source.notes, play_back(params, track, config, decoder=decoder).notes
    ).onset.f1


def block_seconds(config: Config) -> float:
    """Seconds of a block at the tempo at which mixes are measured."""
    return config.model.block_steps / STEPS_PER_BEAT * STEADY_BEAT_SECONDS


def choose_songs(count: int) -> list[int]:
    """The indices of the songs that are measured: all, or MAX_SONGS evenly chosen."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_SONGS)).round().astype(int)).tolist()


def draw_pairs(songs: int) -> list[tuple[int, int]]:
    """PAIRS random pairs of songs, or all where there are fewer; always the same."""
    pairs = list(combinations(range(songs), 2))
    return [pairs[index] for index in np.random.default_rng(0).permutation(len(pairs))[:PAIRS]]


def mix(params: decoder.Params, tracks: Sequence[LatentTrack], weight: float, blocks: int, config: Config) -> Song:
    """A mix of two tracks; `weight` is the second's."""
    used = [(track, share) for track, share in zip(tracks, (1 - weight, weight), strict=True) if share]
    weights = mix_weights([share for _, share in used], blocks)
    return play(params, [track for track, _ in used], weights, config)


def baselines(params: decoder.Params, songs: Sequence[Song], config: Config) -> dict[str, Player]:
    """Simple ways of mixing that mixes are compared with, by name."""

    def crossfade(common: bool) -> Player:
        """Each note of either song with a probability of the song's weight, as in MusicVAE (Roberts et al., 2018)."""

        def play(tracks: Sequence[LatentTrack], weight: float, blocks: int) -> Song:
            rng = np.random.default_rng(2)
            first, second = tracks[0].source.notes, tracks[1].source.notes.copy()
            shift = tracks[1].shift - tracks[0].shift if common else 0
            second["pitch"] = np.clip(second["pitch"].astype(int) + shift, 0, 127)
            kept = [first[rng.random(len(first)) >= weight], second[rng.random(len(second)) < weight]]
            return Song(group_parts(np.concatenate(kept)))

        return play

    def threshold(tracks: Sequence[LatentTrack], weight: float, blocks: int) -> Song:
        """Latents mixed linearly, and notes where probabilities exceed 0.5, as in the original NeMuI."""
        stretches = np.stack([latents.read_track(track.rows, track.steps, blocks, config.model) for track in tracks])
        weights = mix_weights([1 - weight, weight], blocks)
        stretch = latents.mix_latents(stretches, weights)
        grid, pedal = select_by_threshold(
            decode_latents(params, stretch, layout.block_times(blocks, config.model), config), config
        )
        return arrange_song(tracks, weights, grid, pedal, config, None, None)

    def nearest(tracks: Sequence[LatentTrack], weight: float, blocks: int) -> Song:
        """The learned song most like the mix: real music, but not a mix."""
        seconds = min(blocks * block_seconds(config), SECONDS)
        notes = cut_notes(mix(params, tracks, weight, blocks, config).notes, seconds)
        return songs[note_metrics.nearest(notes, [cut_notes(song.notes, seconds) for song in songs])[0]]

    return {
        "cross-fade": crossfade(common=False),
        "cross-fade, common key": crossfade(common=True),
        "plain threshold of 0.5": threshold,
        "nearest learned song": nearest,
    }


def compare_with_parents(
    notes: np.ndarray, parents: Sequence[np.ndarray], unrelated: np.ndarray, weight: float, seconds: float
) -> dict[str, float]:
    """Figures of a mix against its two parents and an unrelated song; `weight` is the second parent's.

    Onset density, polyphony, mean and spread of velocity are ratios to the weighted mean of the parents (nan where that
    is 0), the rest ratio is the difference from that mean, and scale consistency stands beside it; see `style`.
    Likenesses are `note_metrics.likeness`. Two figures are 1 or 0, so that their means are shares of mixes: `of_both`
    is 1 if the likeness to each parent is more than LIKENESS_RATIO times that to the unrelated song, `dense_enough` if
    the onset density is within a tenth of the parents'.
    """
    found = style.style(notes, 0.0, seconds)
    sources = [style.style(parent, 0.0, seconds) for parent in parents]

    def expected(name: str) -> float:
        return float((1 - weight) * sources[0][name] + weight * sources[1][name])

    names = ("onset_density", "polyphony", "mean_velocity", "velocity_spread")
    ratios = {name: float(found[name]) / expected(name) if expected(name) else float("nan") for name in names}
    likeness = [note_metrics.likeness(notes, parent) for parent in parents]
    unrelated_likeness = note_metrics.likeness(notes, unrelated)
    return ratios | {
        "weight": weight,
        "rest_ratio": float(found["rest_ratio"]) - expected("rest_ratio"),
        "scale_consistency": float(found["scale_consistency"]),
        "parents_scale_consistency": expected("scale_consistency"),
        "likeness_first": likeness[0],
        "likeness_second": likeness[1],
        "likeness_third": unrelated_likeness,
        "of_both": float(min(likeness) > LIKENESS_RATIO * unrelated_likeness),
        "dense_enough": float(0.9 <= ratios["onset_density"] <= 1.1),
    }


def summary(rows: Sequence[dict[str, float]]) -> dict[str, float | None]:
    """The mean of each figure over pairs."""
    return {name: mean([row[name] for row in rows]) for name in rows[0] if name != "weight"}


def evenness(path: Sequence[np.ndarray], parents: Sequence[LatentTrack]) -> float:
    """`note_metrics.evenness` of a path in the common key.

    Its pieces are in the first parent's key up to the middle, and in the second's after it.
    """
    half = len(path) // 2
    return note_metrics.evenness([transpose(notes, parents[place > half].shift) for place, notes in enumerate(path)], 0)


def morph_ends(params: decoder.Params, tracks: Sequence[LatentTrack], songs: Sequence[Song], config: Config) -> float:
    """The lower of two note F1: of a morph's beginning against the first song, and of its end against the second.

    Only the parts in which one song is alone are compared, without the first song's repetitions.
    """
    blocks = layout.count_blocks(tracks[-1].steps, config.model)
    weights = morph_weights(2, blocks)
    notes = written(play(params, tracks, weights, config)).notes
    # The end is compared a block later: an onset on its border may be rounded into the part before it.
    first_end = min(np.flatnonzero(weights[0] == 1).max(initial=0) * block_seconds(config), songs[0].seconds)
    last_start = (np.flatnonzero(weights[1] == 1).min(initial=blocks) + 1) * block_seconds(config)
    first, last = songs[0].notes, songs[1].notes
    parts = [
        (first[first["onset"] < first_end], notes[notes["onset"] < first_end]),
        (last[last["onset"] > last_start], notes[notes["onset"] > last_start]),
    ]
    scores = [note_metrics.note_scores(*part) for part in parts]
    return min((score.onset.f1 for score, part in zip(scores, parts, strict=True) if len(part[0])), default=1.0)


def compare_sets(
    sets: dict[str, list[tuple[np.ndarray, float, tuple[int, int]]]],
    songs: Sequence[Song],
    language: LanguageModel,
    config: Config,
) -> dict[str, dict[str, Any]]:
    """Each set of pieces against the songs.

    For each measure of `style` the overlapping area and the KL divergence of Yang and Lerch (2020), and their means;
    and the language-model cost in bits a note, with a piece's parents left out of the model, as in MusicVAE (Roberts et
    al., 2018). The songs themselves come first, as played and with every onset on the grid, which changes the cost. The
    figures of a set of learned songs are not a rival's but a ceiling, as songs are what the sets are compared with.
    """
    steady = steady_clock()
    played = [cut_notes(song.notes, SECONDS) for song in songs]
    reference = [style.style(notes, 0.0, min(SECONDS, song.seconds)) for notes, song in zip(played, songs, strict=True)]
    gridded = [pianoroll.quantize(notes, steady) for notes in played]
    for grid in gridded:
        grid["timing"] = 0
    on_grid = [pianoroll.to_notes(grid, steady) for grid in gridded]
    found: dict[str, dict[str, Any]] = {
        name: {"bits_a_note": mean([language.cost(notes, without=index) for index, notes in enumerate(pieces)])}
        for name, pieces in (("songs", played), ("songs, on the grid", on_grid))
    }
    for name, pieces in sets.items():
        values = [style.style(notes, 0.0, seconds) for notes, seconds, _ in pieces]
        compared = {
            measure: style.compare(stack(reference, measure), stack(values, measure)) for measure in reference[0]
        }
        areas = {measure: one.overlapping_area for measure, one in compared.items()}
        divergences = {measure: one.kl_divergence for measure, one in compared.items()}
        found[name] = {
            "overlapping_area": mean(list(areas.values())),
            "kl_divergence": mean(list(divergences.values())),
            "bits_a_note": mean([language.cost(notes, without=pair) for notes, _, pair in pieces]),
            "onset_density": mean([value["onset_density"] for value in values]),
            "rest_ratio": mean([value["rest_ratio"] for value in values]),
            "scale_consistency": mean([value["scale_consistency"] for value in values]),
            "overlapping_areas": areas,
            "kl_divergences": divergences,
        }
    return found


def stack(values: Sequence[dict[str, Any]], measure: str) -> Float[np.ndarray, "piece ..."]:
    """The values of one measure of all pieces, as one array."""
    return np.stack([np.asarray(value[measure], float) for value in values])


def mean(values: Sequence[Any]) -> float | None:
    """The mean of the finite values; None if there are none."""
    numbers = [value for value in values if np.isfinite(value)]
    return float(np.mean(numbers)) if numbers else None


def written(song: Song) -> Song:
    """A song as it is read back from its .mid file; one without notes, as it is."""
    return midi_reader.parse(midi_writer.encode(song)) if len(song.notes) else song


def written_part(song: Song, seconds: float) -> np.ndarray:
    """The notes of a song's first seconds as they are read back from a .mid file of these alone."""
    return cut_notes(written(cut_song(song, seconds)).notes, seconds)


def transpose(notes: np.ndarray, semitones: int) -> np.ndarray:
    """Notes transposed."""
    moved = notes.copy()
    moved["pitch"] = np.clip(moved["pitch"].astype(int) + semitones, 0, 127)
    return moved
