"""Pictures of songs and of training.

Every function returns a matplotlib Figure, WIDTH pixels wide once saved. Nothing is displayed and no global state is
used, so that it works without a display and in any thread. The background is dark, to be readable on light and dark
pages. Times are seconds from the start of the song. Pictures of songs are as described in `rolls`.
"""

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from nemui_jax.files import write_bytes
from nemui_jax.music.song import DRUM_CHANNEL, Song
from nemui_jax.outputs import rolls
from nemui_jax.outputs.figures import DPI, NORMAL, SMALL, new_figure, printable, style_axes
from nemui_jax.outputs.palette import CARD, FIRST, INK, LINE, MUTED, PANEL, SECOND, instrument_colours

_PATH = LinearSegmentedColormap.from_list("path", ["#5cc8ff", "#9b8cff", "#ff6fb5", "#ffb347"])
_MATCHED_DRUM = "#7c838d"
_LANE_INCHES = 0.3  # height of the drums of a parent
Comparison = tuple[np.ndarray, np.ndarray, np.ndarray]  # SONG_NOTE: notes that are matched, missed and extra


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure as a PNG file, atomically and reproducibly. Raises OSError."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor=CARD, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def roll(song: Song, parents: Sequence[Song] = (), seconds: float | None = None, title: str = "") -> Figure:
    """A piano roll with drums and the sustain pedal below it, and smaller rolls of its parents above it.

    They share a time axis and the colours of instruments. A note is a bar from onset to end with a mark at its onset.
    For songs with a tempo map there is a second axis of bars (beats, if there is no meter). Shows the first `seconds`,
    by default the whole song.
    """
    end = seconds or rolls.end_of(song)
    colours = instrument_colours([song, *parents])
    heights: list[float] = []
    for parent in parents:
        heights += [1.15] + [_LANE_INCHES] * bool(parent.drums)
    drums = rolls.drums_of(song)
    drums = drums[drums["onset"] < end]
    heights += [2.4] + [rolls.lane_inches(drums)] * bool(len(drums)) + [0.18]
    figure = new_figure(sum(heights) + 0.62 + 0.15 * len(parents) + rolls.legend_inches(colours))
    rows = figure.subplots(len(heights), 2, gridspec_kw={"height_ratios": heights, "width_ratios": [1, 0.011]})
    for other in rows[:, 1]:
        other.set_visible(False)
    *panels, pedal = rows[:, 0]
    for axes in panels:
        axes.tick_params(labelbottom=False)
    for parent in parents:
        main = panels.pop(0)
        _draw_song(main, parent, end, colours, parent.name or "without a name", MUTED)
        if parent.drums:
            rolls.draw_drums(panels.pop(0), rolls.drums_of(parent), end, named=False)
    main = panels[0]
    _draw_song(main, song, end, colours, title or song.name, INK)
    rolls.draw_bars(main, song, end)
    if len(drums):
        rolls.draw_drums(panels[1], drums, end)
    rolls.draw_pedal(pedal, song, end)
    pedal.set_xlabel("seconds")
    rolls.legend(figure, colours)
    if len(colours) < 2:
        _draw_velocities(figure, rows[list(rows[:, 0]).index(main), 1])
    return figure


def _draw_velocities(figure: Figure, bar: Axes) -> None:
    """The colours of velocities."""
    bar.set_visible(True)
    figure.colorbar(ScalarMappable(Normalize(0, 127), rolls.VELOCITY), cax=bar, ticks=[0, 32, 64, 96, 127])
    style_axes(bar)
    bar.set_ylabel("velocity", color=MUTED, fontsize=SMALL)


def _draw_song(axes: Axes, song: Song, end: float, colours: rolls.Colours, text: str, colour: str) -> None:
    rolls.roll_axes(axes, song, end)
    rolls.draw_notes(axes, song.notes, rolls.colours_of_roll(song.notes, colours), end)
    rolls.caption(axes, text, colour)


def recall(source: Song, recalled: Song, compared: Comparison, seconds: float | None = None, title: str = "") -> Figure:
    """A song played back, with missed and extra notes marked, and their numbers in the title.

    `compared` is what `note_metrics.compare_notes` finds of the two. The strip below shows the times of the
    differences, which are too small to see in the roll of a long song. `seconds` is as in `roll`; the numbers are those
    of the whole song.
    """
    end = seconds or rolls.end_of(source, recalled)
    matched, missed, extra = compared
    colours = instrument_colours([source, recalled])
    drums = rolls.drums_of(source, recalled)
    heights = [2.2, *[rolls.lane_inches(drums)] * bool(len(drums)), 0.3]
    figure = new_figure(sum(heights) + 0.7 + rolls.legend_inches(colours))
    main, *lane, rug = figure.subplots(len(heights), 1, gridspec_kw={"height_ratios": heights})
    rolls.roll_axes(main, source, end, recalled)
    rolls.draw_notes(main, *_without_drums(matched, _faint(matched, colours)), end)
    for notes, colour, style in ((missed, SECOND, "none"), (extra, FIRST, FIRST)):
        boxes = rolls.boxes(notes[notes["channel"] != DRUM_CHANNEL])
        main.add_collection(PolyCollection(list(boxes), facecolors=style, edgecolors=colour, linewidths=0.9), False)
    for axes in lane:
        rolls.draw_lane(axes, rolls.drum_rows(drums), end)
        for notes, shade in ((matched, _MATCHED_DRUM), (missed, SECOND), (extra, FIRST)):
            hits = notes[notes["channel"] == DRUM_CHANNEL]
            rolls.draw_hits(axes, hits, rolls.drum_rows(drums), np.tile(to_rgba(shade), (len(hits), 1)))
    for axes in (main, *lane):
        axes.tick_params(labelbottom=False)
    rolls.caption(main, title or f"Recall of {source.name or 'a song'}", INK)
    _count_notes(main, len(matched), len(missed), len(extra))
    _draw_differences(rug, missed["onset"], extra["onset"], end)
    rolls.legend(figure, colours)
    return figure


def _faint(notes: np.ndarray, colours: rolls.Colours) -> Float[np.ndarray, "note 4"]:
    """Colours of matched notes, which differences stand out from: grey if there is one instrument."""
    if len(colours) > 1:
        faint = rolls.note_colours(notes, colours, faintest=0.25)
        faint[:, :3] = 0.6 * faint[:, :3] + 0.4 * np.array(to_rgb(PANEL))
        return faint
    grey = 0.42 + 0.28 * notes["velocity"][:, None] / 127
    return np.concatenate([np.repeat(grey, 3, axis=1), np.ones_like(grey)], axis=1)


def _without_drums(
    notes: np.ndarray, colours: Float[np.ndarray, "note 4"]
) -> tuple[np.ndarray, Float[np.ndarray, "pitched 4"]]:
    pitched = notes["channel"] != DRUM_CHANNEL
    return notes[pitched], colours[pitched]


def _count_notes(axes: Axes, matched: int, missed: int, extra: int) -> None:
    counts = {f"{matched:,} matched": "#b3b3b3", f"{missed:,} missed": SECOND, f"{extra:,} extra": FIRST}
    place = {"y": 1.025, "transform": axes.transAxes, "fontsize": NORMAL, "ha": "right"}
    for right_end, (text, colour) in zip((0.78, 0.89, 1.0), counts.items(), strict=True):
        axes.text(x=right_end, s=text, color=colour, **place)


def _draw_differences(
    axes: Axes, missed: Float[np.ndarray, " missed"], extra: Float[np.ndarray, " extra"], end: float
) -> None:
    style_axes(axes)
    axes.vlines(extra, 0.1, 0.9, colors=FIRST, linewidths=1.2)
    axes.vlines(missed, 1.1, 1.9, colors=SECOND, linewidths=1.2)
    axes.set(xlim=(0, end), ylim=(0, 2), xlabel="seconds")
    axes.set_yticks([0.5, 1.5], ["extra", "missed"])


def morph(song: Song, names: Sequence[str], times: Sequence[float]) -> Figure:
    """A piano roll of a morph, with a strip in the colour of song `names[i]` at `times[i]` seconds and blends between.

    Notes have the colours of their instruments, or, if there is only one, those of the strip. Softer notes are fainter.
    Raises ValueError unless there is one time for each name, in rising order.
    """
    if len(names) != len(times) or not len(names) or np.any(np.diff(times) <= 0):
        raise ValueError(f"{len(names)} names at the times {list(times)}; give one time for each name, in rising order")
    end = max(rolls.end_of(song), float(times[-1]))
    where = np.linspace(0, 1, len(names)) if len(names) > 1 else np.array([0.5])
    instruments, drums = instrument_colours([song]), rolls.drums_of(song)
    heights = [1.9, *[rolls.lane_inches(drums)] * bool(len(drums)), 0.17]
    figure = new_figure(sum(heights) + 0.63 + rolls.legend_inches(instruments))
    main, *lane, strip = figure.subplots(len(heights), 1, gridspec_kw={"height_ratios": heights})
    rolls.roll_axes(main, song, end)
    if len(instruments) > 1:
        colours = rolls.note_colours(song.notes, instruments)
    else:
        colours = _PATH(np.interp(song.notes["onset"], times, where))
        strength = 0.35 + 0.65 * song.notes["velocity"][:, None] / 127
        colours[:, :3] = strength * colours[:, :3] + (1 - strength) * to_rgb(PANEL)
    rolls.draw_notes(main, song.notes, colours, end)
    for axes in lane:
        rolls.draw_drums(axes, drums, end)
    for axes in (main, *lane):
        axes.tick_params(labelbottom=False)
    _draw_path(main, strip, names, times, where, end)
    rolls.legend(figure, instruments)
    return figure


def _draw_path(
    main: Axes,
    strip: Axes,
    names: Sequence[str],
    times: Sequence[float],
    where: Float[np.ndarray, " song"],
    end: float,
) -> None:
    """The colours of a morph in a strip, and the songs' names where it passes them."""
    strip.imshow(
        np.interp(np.linspace(0, end, 1024), times, where)[None],
        cmap=_PATH,
        vmin=0,
        vmax=1,
        extent=(0, end, 0, 1),
        aspect="auto",
    )
    style_axes(strip)
    strip.set(xlim=(0, end), yticks=[], xlabel="seconds")
    sides = ["left", *["center"] * (len(names) - 2), "right"]
    for name, time, place, side in zip(names, times, where, sides, strict=False):
        main.axvline(time, color=_PATH(place), linewidth=0.8, alpha=0.6)
        edge = "left" if time < 0.1 * end else "right" if time > 0.9 * end else side
        label = {"color": _PATH(place), "fontsize": NORMAL, "ha": edge, "parse_math": False}
        main.text(time, 1.03, printable(name, 90 // len(names)), transform=main.get_xaxis_transform(), **label)


def curve(log: Sequence[dict[str, Any]]) -> Figure:
    """The training curve from rows of metrics.jsonl: loss (logarithmic, left) and note F1 (right, 0 to 1) by update.

    Rows have `step` and `loss`, some `note_f1`; where all have `seconds`, time is on a second axis. Raises ValueError
    if no row has a step and a loss.
    """
    rows = [row for row in log if "step" in row and row.get("loss") is not None]
    if not rows:
        raise ValueError("no row of the log has a step and a loss; nothing to draw")
    step = np.array([row["step"] for row in rows])
    figure = new_figure(3.4)
    axes = figure.subplots()
    style_axes(axes)
    loss = np.array([row["loss"] for row in rows], float)
    axes.plot(step, loss, color=FIRST, linewidth=1.4, marker="o" if len(rows) == 1 else "")
    axes.set(yscale="log", xlabel="update", xlim=(0, max(step[-1], 1)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylabel("loss", color=FIRST)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(color=LINE, linewidth=0.6)

    scores = [(row["step"], row["note_f1"]) for row in log if row.get("note_f1") is not None]
    if scores:
        right = axes.twinx()
        style_axes(right)
        right.plot(*zip(*scores, strict=True), color=SECOND, linewidth=1.4, marker="o", markersize=3.5, clip_on=False)
        right.set(ylim=(0, 1.04), yticks=np.arange(6) / 5)
        right.set_ylabel("note F1", color=SECOND)
        last = f"note F1 {scores[-1][1]:.3f}"
        axes.set_title(last, loc="right", color=SECOND, fontsize=NORMAL)
    axes.set_title(f"{step[-1]:,} updates, loss {loss[-1]:.3g}", loc="left", color=FIRST, fontsize=NORMAL)
    _draw_time(axes, rows)
    return figure


def _draw_time(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """The time of training on a second axis, if the rows' seconds increase throughout."""
    seconds = np.array([row.get("seconds", np.nan) for row in rows], float)
    if len(rows) < 2 or not (np.diff(seconds) > 0).all():
        return
    size, unit = next(
        pair for pair in ((3600, "h"), (60, "min"), (1, "s")) if seconds[-1] >= 2 * pair[0] or pair[0] == 1
    )
    ticks = np.array(MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(0, seconds[-1] / size))
    ticks = ticks[(ticks * size >= seconds[0]) & (ticks * size <= seconds[-1])]
    places = np.interp(ticks * size, seconds, [row["step"] for row in rows])
    shown = np.diff(places, prepend=-np.inf) > 0.04 * rows[-1]["step"]  # those with room for a label
    rolls.second_axis(axes, places[shown], [f"{tick:g} {unit}" for tick in ticks[shown]])
