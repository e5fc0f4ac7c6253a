"""Scores against mir_eval and brute force, style measures against values worked out by hand."""

from typing import Any

import mir_eval
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gaussian_kde

from nemui_jax.evaluation import note_metrics, style
from nemui_jax.evaluation.language_model import LanguageModel, _Order
from nemui_jax.music.song import PEDAL, SONG_NOTE

MAJOR = np.array([0, 2, 4, 5, 7, 9, 11])


def notes_of(*rows: tuple[float, ...]) -> np.ndarray:
    """Notes from (onset, end, pitch) or (onset, end, pitch, velocity)."""
    return np.array([(*row, *(64, 0, 0)[len(row) - 3 :]) for row in rows], SONG_NOTE)


def tune(seed: int, count: int = 400, tonic: int = 0) -> np.ndarray:
    """A walk along a major scale in quavers, now and then with the third below, repeated notes and rests."""
    rng = np.random.default_rng(seed)
    degree = np.clip(np.cumsum(rng.choice([-1, 0, 1, 1, -1, 2, -2], count)) % 15, 0, 14)
    pitch = 60 + tonic + MAJOR[degree % 7] + 12 * (degree // 7)
    below = 60 + tonic + MAJOR[(degree - 2) % 7] + 12 * ((degree - 2) // 7)
    onset = np.cumsum(rng.choice([0.25, 0.25, 0.125, 0.5], count)) + rng.normal(0, 0.004, count)
    notes = np.zeros(2 * count, SONG_NOTE)
    notes["onset"] = np.concatenate([onset, onset + rng.uniform(0, 0.01, count)])
    notes["end"] = notes["onset"] + rng.uniform(0.05, 0.6, 2 * count)
    notes["pitch"] = np.concatenate([pitch, below])
    notes["velocity"] = np.clip(rng.normal(70, 15, 2 * count), 1, 127)
    notes = notes[np.concatenate([np.ones(count, bool), rng.random(count) < 0.4])]
    return np.sort(notes, order=["onset", "pitch"])


def perturbed(notes: np.ndarray, seed: int) -> np.ndarray:
    """A copy with moved, dropped, doubled and foreign notes, other ends and velocities, in no order."""
    rng = np.random.default_rng(seed)
    copy = notes.copy()
    copy["onset"] = np.maximum(copy["onset"] + rng.uniform(-0.08, 0.08, len(copy)), 0)
    copy["onset"] = np.round(copy["onset"], 2) if seed % 2 else copy["onset"]
    copy["end"] = np.maximum(copy["end"] + rng.normal(0, 0.08, len(copy)), copy["onset"] + 0.01)
    copy["velocity"] = np.clip(0.8 * copy["velocity"] + rng.normal(10, 8, len(copy)), 1, 127)
    copy = copy[rng.random(len(copy)) > 0.1]
    doubled = copy[rng.random(len(copy)) < 0.2].copy()
    doubled["onset"] = np.maximum(doubled["onset"] + rng.uniform(-0.06, 0.06, len(doubled)), 0)
    doubled["end"] = np.maximum(doubled["end"], doubled["onset"] + 0.01)
    doubled["velocity"] = rng.integers(1, 128, len(doubled))
    foreign = copy[rng.random(len(copy)) < 0.05].copy()
    foreign["pitch"] = rng.integers(21, 109, len(foreign))
    return rng.permutation(np.concatenate([copy, doubled, foreign]))


def assert_equals_mir_eval(reference: np.ndarray, estimate: np.ndarray, kinds: int = 3) -> None:
    """Precision, recall and F1 of the first so many kinds: onset, offset, velocity."""
    plain: dict[str, Any] = {}
    loud: dict[str, Any] = {"ref_velocities": reference["velocity"], "est_velocities": estimate["velocity"]}
    for side, notes in (("ref", reference), ("est", estimate)):
        plain[f"{side}_intervals"] = np.stack([notes["onset"], notes["end"]], axis=1)
        plain[f"{side}_pitches"] = mir_eval.util.midi_to_hz(notes["pitch"] * 1.0)
    without_ends: dict[str, Any] = {"offset_ratio": None}
    expected = [
        mir_eval.transcription.precision_recall_f1_overlap(**plain, **without_ends)[:3],
        mir_eval.transcription.precision_recall_f1_overlap(**plain)[:3],
        mir_eval.transcription_velocity.precision_recall_f1_overlap(**plain, **loud)[:3],
    ]
    scores = note_metrics.note_scores(reference, estimate)
    ours = [(score.precision, score.recall, score.f1) for score in (scores.onset, scores.offset, scores.velocity)]
    np.testing.assert_allclose(ours[:kinds], expected[:kinds], atol=1e-9)


class TestNoteScores:
    @pytest.mark.parametrize("seed", range(6))
    def test_equals_mir_eval_on_a_perturbed_tune(self, seed):
        assert_equals_mir_eval(tune(seed), perturbed(tune(seed), seed))

    @settings(max_examples=150, deadline=None)
    @given(
        *(
            st.lists(
                st.tuples(
                    st.integers(0, 60), st.integers(1, 30), st.integers(60, 61), st.integers(1, 127)
                ),  # hundredths of a second: many distances are 50 ms exactly
                min_size=1,
                max_size=25,
            )
            for _ in range(2)
        )
    )
    def test_equals_mir_eval_where_many_notes_compete(self, first, second):
        assert_equals_mir_eval(
            *(
                notes_of(*((at / 100, (at + length) / 100, pitch, velocity) for at, length, pitch, velocity in rows))
                for rows in (first, second)
            ),
            kinds=2,  # velocities are compared on one of several largest matchings
        )

    def test_fifty_milliseconds_exactly_is_a_hit_and_a_tenth_more_is_none(self):
        reference = notes_of((1.1, 2.0, 60))
        assert note_metrics.note_scores(reference, notes_of((1.15, 2.0, 60))).onset.f1 == 1
        assert note_metrics.note_scores(reference, notes_of((1.1502, 2.0, 60))).onset.f1 == 0

    def test_a_repeated_note_counts_once_for_each(self):
        twice = notes_of((1.0, 1.1, 60), (1.02, 1.2, 60))
        scores = note_metrics.note_scores(twice, twice[:1])
        assert (scores.onset.precision, scores.onset.recall) == (1.0, 0.5)

    def test_onset_error_is_the_median_over_matched_notes(self):
        reference = notes_of((1, 2, 60), (2, 3, 60), (3, 4, 60), (9, 10, 60))
        estimate = notes_of((1.01, 2, 60), (1.98, 3, 60), (3.04, 4, 60))
        assert note_metrics.note_scores(reference, estimate).onset_error_seconds == pytest.approx(0.02)

    @pytest.mark.parametrize(("references", "estimates"), [(0, 0), (0, 3), (3, 0)])
    def test_nothing_to_match_scores_zero(self, references, estimates):
        scores = note_metrics.note_scores(tune(0)[:references], tune(0)[:estimates])
        assert scores.onset == scores.offset == scores.velocity == note_metrics.Score(0.0, 0.0, 0.0)
        assert np.isnan(scores.onset_error_seconds)

    def test_an_augmenting_path_through_thousands_of_notes(self):
        # Greedily, each estimate takes the reference before it; the last then frees one only at the far end.
        reference = notes_of(*((0.1 * place, 0.1 * place + 0.05, 60) for place in range(3000)))
        estimate = notes_of(*((0.1 * place - 0.05, 0.1 * place, 60) for place in range(1, 3000)), (-0.04, 0.0, 60))
        assert note_metrics.note_scores(reference, estimate).onset.f1 == 1

    def test_leaves_its_arguments_alone(self):
        reference, estimate = tune(0), perturbed(tune(0), 0)
        before = reference.copy(), estimate.copy()
        note_metrics.note_scores(reference, estimate)
        assert (reference == before[0]).all() and (estimate == before[1]).all()


class TestRolls:
    def test_pedal_agreement_is_a_share_of_time(self):
        held = np.array([(1.0, 127), (3.0, 0)], PEDAL)
        late = np.array([(1.5, 64), (2.0, 70), (3.0, 63), (20.0, 127)], PEDAL)
        assert note_metrics.pedal_agreement(held, late, 10.0) == pytest.approx(0.95)
        assert note_metrics.pedal_agreement(held, held[:0], 10.0) == pytest.approx(0.8)
        assert note_metrics.pedal_agreement(held[:0], held[:0], 10.0) == 1
        assert note_metrics.pedal_agreement(held, held[:0], 0.0) == 1

    def test_of_several_pedal_events_at_one_time_the_last_holds(self):
        both = np.array([(0.0, 127), (0.0, 0)], PEDAL)
        assert note_metrics.pedal_agreement(both, both[:0], 1.0) == 1


def likeness_by_loops(first: np.ndarray, second: np.ndarray) -> float:
    """F1 of the shares of cells that have a cell of the other piece at most one step away."""
    cells = [{(int(np.floor(note["onset"] / 0.05 + 0.5)), int(note["pitch"])) for note in n} for n in (first, second)]
    shares = [
        sum(any((step + slack, pitch) in other for slack in (-1, 0, 1)) for step, pitch in own) / len(own)
        for own, other in (cells, cells[::-1])
    ]
    return 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0


class TestLikeness:
    @pytest.mark.parametrize("tonic", [0, 3])
    def test_likeness_equals_its_definition(self, tonic):
        first, second = tune(0, 60), np.concatenate([tune(0, 40, tonic=tonic), tune(1, 60)])
        found = note_metrics.likeness(first, second)
        assert 0 < found < 1
        assert found == pytest.approx(likeness_by_loops(first, second))

    def test_likeness_at_the_ends_of_the_keyboard_and_of_time(self):
        ends = notes_of((0, 1, 0), (0, 1, 127))
        assert note_metrics.likeness(ends, ends) == 1
        assert note_metrics.likeness(ends, notes_of((5, 6, 0))) == 0
        assert note_metrics.likeness(ends, notes_of((0.05, 1, 0), (0.1, 1, 127))) == 0.5
        assert note_metrics.likeness(ends, ends[:0]) == note_metrics.likeness(ends[:0], ends) == 0

    def test_steps_along_a_path(self):
        first, second = tune(0), tune(1)
        half = np.concatenate([first[first["onset"] < 40], second[second["onset"] >= 40]])
        assert note_metrics.evenness([first, first, second]) == pytest.approx(2)
        assert note_metrics.evenness([first, half, second]) < 1.5
        assert note_metrics.evenness([first, first]) == 1


class TestStyle:
    # A chord of C major, a rest, then D, and a note after the stretch.
    PIECE = notes_of((0, 1, 60, 60), (0, 1, 64, 60), (0.01, 2, 67, 90), (3, 4, 62, 70), (8, 9, 61, 1))

    @pytest.mark.parametrize(
        ("measure", "expected"),
        [
            (style.onset_density, 1.0),
            (style.attack_density, 0.5),
            (style.polyphony, (1 + 1 + 1.99 + 1) / 3),
            (style.rest_ratio, 0.25),
            (style.pitch_count, 4),
            (style.pitch_range, 7),
            (style.pitch_interval, 5),
            (style.pitch_class_entropy, 2),
            (style.scale_consistency, 1),
            (style.attack_interval, 3),
            (style.mean_velocity, 70),
            (style.velocity_spread, np.std([60, 60, 90, 70])),
        ],
    )
    def test_scalar_by_hand(self, measure, expected):
        assert measure(self.PIECE[::-1], 0.0, 4.0) == pytest.approx(expected)

    def test_every_measure_is_listed(self):
        assert list(style.style(self.PIECE)) == [measure.__name__ for measure in (*style.SCALARS, *style.VECTORS)]

    def test_vectors_by_hand(self):
        classes = style.pitch_classes(self.PIECE, 0.0, 4.0)
        assert classes[[0, 4, 7, 2]] == pytest.approx([0.25] * 4) and classes.sum() == 1
        transitions = style.pitch_class_transitions(self.PIECE, 0.0, 4.0)
        assert transitions[[0, 4, 7], 2] == pytest.approx([1 / 3] * 3) and transitions.sum() == pytest.approx(1)
        assert np.flatnonzero(style.attack_intervals(self.PIECE, 0.0, 4.0)).tolist() == [13]  # 2.8 to 4 s
        assert style.durations(self.PIECE, 0.0, 4.0)[10:13] == pytest.approx([0.75, 0.25, 0])  # 1 to 1.4 s; 1.99 s

    def test_a_note_that_began_before_sounds_but_is_not_struck(self):
        assert style.polyphony(self.PIECE, 1.5, 2.5) == 1
        assert style.rest_ratio(self.PIECE, 1.5, 2.5) == 0.5
        assert style.onset_density(self.PIECE, 1.5, 2.5) == 0

    def test_scale_consistency_follows_a_modulation(self):
        home, away = tune(0, 100), tune(0, 100, tonic=6)
        away["onset"] += 10 * np.ceil(home["onset"].max() / 10)
        both = np.concatenate([home, away])
        assert style.scale_consistency(both, 0.0, 100.0) == 1
        both["onset"] /= 10  # now within a window or two
        assert style.scale_consistency(both, 0.0, 100.0) < 0.9

    def test_silence_has_no_style(self):
        values = style.style(self.PIECE[:0])
        assert values.pop("rest_ratio") == 1
        assert all(np.all(np.asarray(value) == 0) for value in values.values())
        with pytest.raises(ValueError, match="no length"):
            style.style(self.PIECE, 2.0, 2.0)


class TestSets:
    def test_the_density_is_scipys(self):
        rng = np.random.default_rng(0)
        samples, at = rng.normal(3, 2, 50), np.linspace(-5, 10, 40)
        np.testing.assert_allclose(np.exp(style.log_density(samples, at)), gaussian_kde(samples)(at), rtol=1e-9)


class TestLanguageModel:
    SONGS = tuple(tune(seed, 300, tonic=seed % 5) for seed in range(5))
    MODEL = LanguageModel.fit(SONGS)

    def test_leaving_songs_out_equals_never_having_seen_them(self):
        rest = LanguageModel.fit(self.SONGS[:2] + self.SONGS[4:])
        assert self.MODEL.cost(self.SONGS[3], without=(2, 3)) == rest.cost(self.SONGS[3])
        assert self.MODEL.cost(self.SONGS[3], without=range(5)) == pytest.approx(np.log2(8 * 81))

    def test_a_song_it_has_seen_costs_less(self):
        for index, song in enumerate(self.SONGS):
            assert self.MODEL.cost(song) < self.MODEL.cost(song, without=index) - 0.5

    def test_orders_music_before_nonsense(self):
        rng = np.random.default_rng(0)
        for index, song in enumerate(self.SONGS):
            out_of_key, out_of_time = song.copy(), song.copy()
            out_of_key["pitch"] = rng.integers(55, 85, len(song))
            out_of_time["onset"] = rng.uniform(0, song["onset"].max(), len(song))
            other = self.SONGS[(index + 1) % 5]
            both = np.concatenate([song[rng.random(len(song)) < 0.5], other[rng.random(len(other)) < 0.5]])
            real, *nonsense = (
                self.MODEL.cost(notes, without=(index, (index + 1) % 5))
                for notes in (song, both, out_of_key, out_of_time)
            )
            assert real + 0.5 < min(nonsense)

    def test_costs_the_same_in_every_key_and_order_of_notes(self):
        moved = tune(9, 200, tonic=5)
        assert self.MODEL.cost(moved) == pytest.approx(self.MODEL.cost(tune(9, 200)))
        assert self.MODEL.cost(moved[::-1]) == pytest.approx(self.MODEL.cost(moved))

    def test_probabilities_of_all_symbols_sum_to_one(self):
        rng = np.random.default_rng(0)
        symbols = 7
        counted = rng.integers(0, 5 * symbols, 60)
        order = _Order.of(symbols, counted)
        shorter = rng.dirichlet(np.ones(symbols))
        for context in range(7):  # two of them never seen
            grams = context * symbols + np.arange(symbols)
            for left_out in (counted[:0], counted[:30]):
                assert order.interpolate(shorter, grams, left_out).sum() == pytest.approx(1)

    def test_few_notes(self):
        assert np.isnan(self.MODEL.cost(self.SONGS[0][:0]))
        assert 0 < self.MODEL.cost(self.SONGS[0][:1]) < 20
        empty = LanguageModel.fit([self.SONGS[0][:0], self.SONGS[1]])
        assert empty.cost(self.SONGS[1], without=0) == empty.cost(self.SONGS[1])
