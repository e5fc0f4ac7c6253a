import io
import itertools
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import group_parts
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from nemui_jax.evaluation import note_metrics
from nemui_jax.music.song import DRUM_CHANNEL, METER, NOTE, PEDAL, Part, Song, TempoMap, pedal_controls
from nemui_jax.outputs import figures, latent_map, palette, plots

ODD_NAME = "$x^2 — 月光 \x1b[31m\n" + "long " * 40


def make_song(count: int, seed: int = 0, name: str = "a song", **others) -> Song:
    """Random notes, four a second."""
    rng = np.random.default_rng(seed)
    notes = np.zeros(count, NOTE)
    notes["onset"] = np.sort(rng.uniform(0, count / 4, count))
    notes["end"] = notes["onset"] + rng.uniform(0.05, 1, count)
    notes["pitch"], notes["velocity"] = rng.integers(30, 90, count), rng.integers(1, 128, count)
    pedal = np.array(others.pop("pedal", [(0.5, 127), (1.5, 0), (2.0, 80)]), PEDAL)
    return Song((Part(notes, controls=pedal_controls(pedal)),), **({"name": name} | others))


def draw_recall(source: Song, recalled: Song) -> Figure:
    return plots.recall(source, recalled, note_metrics.compare_notes(source, recalled))


def pixels(figure: Figure) -> np.ndarray:
    """What is seen: `[row, column, colour]`, 0 to 255."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba")
    width, height = (round(size * figure.dpi) for size in figure.get_size_inches())
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)[:, :, :3]


def count_pixels(figure: Figure, colour: str) -> int:
    """How many pixels of the panels have a colour, text apart."""
    return int((np.abs(pixels(figure) - np.array(to_rgb(colour)) * 255).max(axis=2) < 3).sum())


def bars(figure: Figure, panel: int) -> np.ndarray:
    """The corners of the notes drawn in a panel: `[note, corner, (seconds, pitch)]`."""
    boxes = next(item for item in figure.axes[panel].collections if isinstance(item, PolyCollection))
    return np.stack([path.vertices[:4] for path in boxes.get_paths()])


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda item: hasattr(item, "get_text")) if text.get_text()]


# Files


def test_save(tmp_path):
    path = tmp_path / "a.png"
    for _ in range(2):
        before = path.read_bytes() if path.exists() else None
        plots.save(plots.roll(make_song(50)), path)
    data = path.read_bytes()
    assert data == before
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">I", data[16:20]) == (figures.WIDTH,)
    assert b"tEXt" not in data
    assert list(tmp_path.iterdir()) == [path]


def test_save_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError, match="directory"):
        plots.save(plots.roll(make_song(3)), tmp_path / "a.png")
    assert [item.name for item in tmp_path.iterdir()] == ["a.png"]


def test_needs_neither_pyplot_nor_jax():
    program = "import sys, nemui_jax.outputs.plots\n"
    program += "print([name for name in ('matplotlib.pyplot', 'jax') if name in sys.modules])"
    root = Path(__file__).parent.parent
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert answer.stdout.strip() == "[]"


# Songs


def test_roll_draws_every_note_where_it_is():
    song, parent = make_song(200, 1), make_song(100, 2)
    figure = plots.roll(song, [parent], title="a title")
    for panel, notes in ((0, parent.notes), (2, song.notes)):
        corners = bars(figure, panel)
        np.testing.assert_allclose(corners[:, 0, 0], notes["onset"])
        np.testing.assert_allclose(corners[:, 1, 0], notes["end"])
        np.testing.assert_allclose(corners[:, :, 1].mean(axis=1), notes["pitch"])
    low, high = figure.axes[2].get_ylim()
    assert low < song.notes["pitch"].min() < song.notes["pitch"].max() < high
    assert {"a title", "a song", "velocity", "pedal", "C4", "C5"} <= set(texts(figure)) | set(pitch_labels(figure))


def pitch_labels(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [label.get_text() for label in figure.axes[2].get_yticklabels()]


def test_roll_shows_velocity_by_colour():
    notes = np.array([(0, 1, 60, 10), (0, 1, 62, 120)], NOTE)
    colours = plots.roll(Song((Part(notes),))).axes[0].collections[0].get_facecolors()
    assert colours[1, :3].sum() > colours[0, :3].sum() + 0.3


@pytest.mark.parametrize("parents", [0, 1, 4])
def test_roll_panels_share_the_time_axis(parents):
    figure = plots.roll(make_song(100), [make_song(30)] * parents, seconds=7.0)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == parents + 3
    assert sum(axes.get_xlim() == (0, 7.0) for axes in shown) == parents + 2


def test_roll_pedal():
    shares = []
    for moves in ([], [(0, 127), (2.5, 0)], [(0, 127)], [(0, 64)]):
        song = make_song(20, pedal=moves)
        figure = plots.roll(song, seconds=5.0)
        seen = pixels(figure)[::-1]  # from below, as extents count
        (left, low), (right, high) = figure.axes[2].get_window_extent().get_points().round().astype(int)
        shares.append((seen[low + 2 : high - 2, left + 2 : right - 2, 2] > 150).mean())
    assert shares[0] == 0
    assert shares[2] == 1
    assert shares[1] == pytest.approx(0.5, abs=0.02)
    assert shares[3] == pytest.approx(0.5, abs=0.05)


def make_band(count: int = 60, programs: tuple[int, ...] = (33, 25, 48), seed: int = 0) -> Song:
    """Parts of random notes on these programs, the first with most, and drums."""
    rng = np.random.default_rng(seed)
    parts = [
        Part(make_song(count - index, seed + index).parts[0].notes, program, index % 9)
        for index, program in enumerate(programs)
    ]
    drums = make_song(count, seed + 99).parts[0].notes
    drums["pitch"] = rng.choice([36, 38, 42], count)
    drums["velocity"] = 127
    return Song((*parts, Part(drums, 0, DRUM_CHANNEL)), name="a band")


def shown(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_visible()]


def legend_of(figure: Figure) -> dict[str, tuple]:
    """The colours of a figure's legend, by name."""
    (legend,) = figure.legends
    return {
        text.get_text(): patch.get_facecolor()[:3]
        for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
    }


def test_roll_of_a_band_has_a_colour_for_each_instrument():
    band = make_band()
    for part in band.parts:
        part.notes["velocity"] = 127
    figure = plots.roll(band)
    legend = legend_of(figure)
    assert list(legend) == ["Fingered Bass", "Steel Guitar", "String Ensemble 1"]
    assert len(set(legend.values())) == 3
    drawn = figure.axes[0].collections[0].get_facecolors()[:, :3]
    for program, name in ((33, "Fingered Bass"), (25, "Steel Guitar"), (48, "String Ensemble 1")):
        np.testing.assert_allclose(drawn[band.notes["program"] == program] - legend[name], 0, atol=1e-6)
    assert "velocity" not in [axes.get_ylabel() for axes in shown(figure)]


def test_drums_have_a_lane_with_their_names():
    band = make_band()
    _, lane, _ = shown(plots.roll(band))
    assert [label.get_text() for label in lane.get_yticklabels()] == ["Kick", "Snare", "Closed Hat"]
    strokes = np.stack([path.vertices for path in lane.collections[-1].get_paths()])
    drums = band.parts[-1].notes
    order = np.lexsort((drums["pitch"], drums["onset"]))
    np.testing.assert_allclose(strokes[:, 0, 0], drums["onset"][order])
    np.testing.assert_allclose(
        strokes.mean(axis=1)[:, 1], [[36, 38, 42].index(pitch) for pitch in drums["pitch"][order]]
    )


def test_a_mix_and_its_parents_share_their_colours():
    first, second = make_band(80), make_band(70, (33, 62), 7)
    figure = plots.roll(first, [first, second])
    assert len(shown(figure)) == 2 * 2 + 3  # a roll and a lane for each, and the pedal
    assert set(legend_of(figure)) == {"Fingered Bass", "Steel Guitar", "String Ensemble 1", "Synth Brass 1"}


@pytest.mark.parametrize("count", [1, 2, 16, 17, 40])
def test_any_number_of_instruments(count, tmp_path):
    band = make_band(60, tuple(range(count)))
    for figure in (plots.roll(band), draw_recall(band, band), plots.morph(band, ["a", "b"], [1.0, 9.0])):
        names = list(legend_of(figure)) if figure.legends else []
        assert len(names) == (0 if count == 1 else min(count, 17))
        assert names[16:] == ([f"{count - 16} more"] if count > 16 else [])
        plots.save(figure, tmp_path / "a.png")
    colours = list(palette.instrument_colours([band]).values())
    assert len(set(colours[:16])) == min(count, 16)
    assert not {palette.FIRST, palette.SECOND} & set(colours)


def test_recall_of_a_band_compares_instruments_and_drums():
    band = make_band()
    bass, guitar, strings, drums = band.parts
    other = Song((bass, replace(guitar, program=26), strings, replace(drums, program=8, notes=drums.notes[:50])))
    assert {"237 matched", "0 missed", "0 extra"} <= set(texts(draw_recall(band, band)))
    figure = draw_recall(band, other)
    assert {"168 matched", "69 missed", "59 extra"} <= set(texts(figure))  # of a guitar's 59 notes and 10 drums


def second_ticks(figure: Figure) -> tuple[list[float], list[str]]:
    second = figure.axes[0].child_axes[0]
    return list(second.get_xticks()), [label.get_text() for label in second.get_xticklabels()]


def test_bars_follow_tempos_and_meters():
    tempos = TempoMap.of_changes([0, 8], [1.0, 0.5])
    figure = plots.roll(make_song(80, tempo_map=tempos, meters=np.array([(0, 4, 4), (12, 6, 8)], METER)), seconds=16.0)
    times, labels = second_ticks(figure)
    np.testing.assert_allclose(times, [0, 4, 8, 10, 12, 13.5, 15, 16][: len(times)])
    assert labels[:7] == ["bar 1", "2", "3", "4", "5", "6", "7"]


def test_beats_without_a_meter():
    times, labels = second_ticks(plots.roll(make_song(80, tempo_map=TempoMap.steady(0.75)), seconds=6.0))
    np.testing.assert_allclose(times[:8], np.arange(8) * 0.75)
    assert labels[:3] == ["beat 1", "2", "3"]


def test_a_meter_that_comes_late():
    tempos, meters = TempoMap.steady(1.0), np.array([(8, 3, 4)], METER)
    times, _ = second_ticks(plots.roll(make_song(80, tempo_map=tempos, meters=meters), seconds=13.0))
    np.testing.assert_allclose(times[:4], [0, 4, 8, 11])


def test_no_bars_without_a_tempo_map():
    figure = plots.roll(make_song(80, tempo_map=TempoMap.steady(0.5)))
    assert not figure.axes[0].child_axes


def test_recall_counts_what_metrics_count():
    source = make_song(2000, 3)
    rng = np.random.default_rng(4)
    notes = source.notes[rng.random(2000) > 0.1].copy()
    notes["onset"] += rng.normal(0, 0.03, len(notes))
    notes["pitch"] += (rng.random(len(notes)) < 0.05).astype(np.uint8)
    notes = notes[np.argsort(notes["onset"])]
    hits = round(note_metrics.note_scores(source.notes, notes).onset.recall * 2000)
    written = texts(draw_recall(source, Song(group_parts(notes))))
    assert 1000 < hits < 1800
    assert {f"{hits:,} matched", f"{2000 - hits:,} missed", f"{len(notes) - hits:,} extra"} <= set(written)


def test_recall_marks_differences():
    song = make_song(40)
    other = Song((Part(song.parts[0].notes[:30]),))
    assert "0 missed" in texts(draw_recall(song, song))
    same, missed, extra = (draw_recall(*pair) for pair in ((song, song), (song, other), (other, song)))
    assert [len(bars(figure, 0)) for figure in (same, missed, extra)] == [40, 30, 30]
    for colour, figure in ((palette.SECOND, missed), (palette.FIRST, extra)):
        assert count_pixels(figure, colour) > count_pixels(same, colour) + 200


def test_recall_of_nothing():
    figure = draw_recall(make_song(40), Song(()))
    assert {"0 matched", "40 missed", "0 extra"} <= set(texts(figure))


def test_morph_takes_on_the_songs_colours():
    song = make_song(120)
    song.notes["velocity"] = 127
    figure = plots.morph(song, ["one", "two", "three"], [5.0, 15.0, 25.0])
    drawn = figure.axes[0].collections[0].get_facecolors()
    for place, time in ((0.0, 0), (0.5, 15), (1.0, 28)):
        near = np.abs(song.notes["onset"] - time).argmin()
        np.testing.assert_allclose(drawn[near], plots._PATH(place), atol=0.05)
    assert {"one", "two", "three"} <= set(texts(figure))


@pytest.mark.parametrize(
    ("names", "times"), [([], []), (["a"], [1.0, 2.0]), (["a", "b"], [2.0, 1.0]), (["a", "b"], [1.0, 1.0])]
)
def test_unusable_journey(names, times):
    with pytest.raises(ValueError, match="one time for each name"):
        plots.morph(make_song(10), names, times)


@pytest.mark.parametrize("song", [make_song(0), make_song(1), make_song(10, name=ODD_NAME)], ids=["none", "one", "odd"])
def test_any_song_can_be_drawn(song, tmp_path):
    for figure in (
        plots.roll(song, [song, make_song(20)]),
        plots.roll(song, title=ODD_NAME, seconds=0.5),
        draw_recall(song, song),
        plots.morph(song, [ODD_NAME], [0.0]),
        plots.morph(song, [ODD_NAME] * 5, [0.0, 0.1, 0.2, 7.0, 9.0]),
    ):
        plots.save(figure, tmp_path / "a.png")
    assert not any("\n" in text or "\x1b" in text for text in texts(figure))


# Learning


def test_curve():
    rows: list[dict] = [{"step": 50 * i, "seconds": 30.0 * i, "loss": 1 / i} for i in range(1, 21)]
    rows[9]["note_f1"], rows[19]["note_f1"] = 0.5, 0.875
    figure = plots.curve(rows)
    loss, known = figure.axes
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [(row["step"], row["loss"]) for row in rows])
    np.testing.assert_allclose(known.lines[0].get_xydata(), [(500, 0.5), (1000, 0.875)])
    assert loss.get_yscale() == "log"
    assert {"note F1 0.875", "1,000 updates, loss 0.05"} <= set(texts(figure))
    minutes = loss.child_axes[0]
    at = {label.get_text(): place for label, place in zip(minutes.get_xticklabels(), minutes.get_xticks(), strict=True)}
    assert at["4 min"] == pytest.approx(400)


@pytest.mark.parametrize(("seconds", "unit"), [(40.0, "s"), (600.0, "min"), (9000.0, "h")])
def test_clock_of_a_curve(seconds, unit):
    rows = [{"step": step, "seconds": seconds * step / 1000, "loss": 1 / step} for step in range(50, 1001, 50)]
    clock = plots.curve(rows).axes[0].child_axes[0]
    size = {"s": 1, "min": 60, "h": 3600}[unit]
    assert len(clock.get_xticks()) > 2
    for place, label in zip(clock.get_xticks(), clock.get_xticklabels(), strict=True):
        number, written = label.get_text().split()
        assert written == unit
        assert float(number) * size == pytest.approx(seconds * place / 1000)


def test_curve_of_what_logs_may_lack():
    plots.curve([{"step": 1, "loss": 0.5}]).draw_without_rendering()
    restarted = [{"step": step, "seconds": seconds, "loss": 0.5} for step, seconds in ((1, 5.0), (2, 9.0), (3, 1.0))]
    assert not plots.curve([*restarted, {"step": 4}]).axes[0].child_axes
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.curve([{"step": 4, "note_f1": 1.0}])


def make_table(songs: int, rows: int = 20, latent: int = 6) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Songs apart along the third and the fifth number of their rows."""
    rng = np.random.default_rng(0)
    song_of_row = np.repeat(np.arange(songs), rows)
    table = rng.normal(0, 0.01, (songs * rows, latent)).astype(np.float32)
    table[:, 2] += 3 * np.cos(song_of_row)
    table[:, 4] += np.sin(song_of_row)
    return table, song_of_row, [f"song {index}" for index in range(songs)]


def test_latent_map_shows_what_varies():
    table, song_of_row, names = make_table(9)
    axes = latent_map.draw(table, song_of_row, names).axes[0]
    rows, means = (np.asarray(points.get_offsets()) for points in axes.collections)
    centred = table - table.mean(axis=0)
    for direction, number in ((0, 2), (1, 4)):
        assert abs(np.corrcoef(rows[:, direction], centred[:, number])[0, 1]) > 0.99
    np.testing.assert_allclose(means, [rows[song_of_row == song].mean(axis=0) for song in range(9)], atol=1e-6)
    colours = axes.collections[0].get_facecolors()[:, :3]
    assert (colours[:20] == colours[0]).all()
    assert (colours[0] != colours[20]).any()


@pytest.mark.parametrize("songs", [1, 2, 7, 40, 100])
def test_latent_map_labels_do_not_overlap(songs):
    figure = latent_map.draw(*make_table(songs, 3)[:2], [f"{index} {ODD_NAME}" for index in range(songs)])
    figure.draw_without_rendering()
    labels = figure.axes[0].texts
    assert len(labels) == min(songs, latent_map.MAX_LABELS)
    boxes = [super(type(label), label).get_window_extent() for label in labels]  # without its line
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= figures.WIDTH for box in boxes)


def test_lines_to_labels_do_not_cross():
    places = np.random.default_rng(5).uniform(size=(30, 2))
    lines = [
        (places[song], np.array([side, height])) for song, side, height in latent_map._beside(places, np.arange(30))
    ]
    assert len(lines) == 30
    for (start, end), (other, stop) in itertools.combinations(lines, 2):
        if end[0] == stop[0]:  # in one column
            sides = [np.linalg.det([end - start, point - start]) for point in (other, stop)]
            others = [np.linalg.det([stop - other, point - other]) for point in (start, end)]
            assert np.prod(sides) > 0 or np.prod(others) > 0


def test_names_in_a_map_keep_their_ends():
    names = [f"Liszt Transcendental Etudes number {number}" for number in range(3)]
    written = texts(latent_map.draw(*make_table(3)[:2], names))
    assert {"Liszt Transcend…tudes number 0", "Liszt Transcend…tudes number 2"} <= set(written)


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (30, 1), (1, 8)])
def test_latent_map_of_small_tables(shape, tmp_path):
    table = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    song_of_row = np.arange(len(table)) % 2
    figure = latent_map.draw(table, song_of_row, ["a", "b"][: song_of_row.max() + 1])
    assert {"a", "b"} & set(texts(figure)) == set("ab"[: song_of_row.max() + 1])
    plots.save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
