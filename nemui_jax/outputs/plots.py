"""Pictures of songs and of training.

Every function returns a matplotlib Figure, WIDTH pixels wide once saved. Nothing is displayed and no global state is
used, so that it works without a display and in any thread. The background is dark, to be readable on light and dark
pages. Times are seconds from the start of the song, pitches MIDI numbers (60 is C4).
"""

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullLocator

from nemui_jax.evaluation import note_metrics
from nemui_jax.files import write_bytes
from nemui_jax.music.song import DEFAULT_QUARTER_SECONDS, Song
from nemui_jax.outputs.figures import (
    CARD,
    DPI,
    INK,
    LINE,
    MUTED,
    NORMAL,
    PANEL,
    SMALL,
    WIDTH,
    new_figure,
    printable,
    style_axes,
)

_FIRST, _SECOND = "#56b4e9", "#f5a623"  # sky blue and orange, distinct with any colour vision
_VELOCITY = ListedColormap(colormaps["plasma"](np.linspace(0.2, 1, 128)), "velocity")  # without the darkest
_PATH = LinearSegmentedColormap.from_list("path", ["#5cc8ff", "#9b8cff", "#ff6fb5", "#ffb347"])
_NOTE_HEIGHT = 0.84  # semitones


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure as a PNG file, atomically and reproducibly. Raises OSError."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor=CARD, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def roll(song: Song, parents: Sequence[Song] = (), seconds: float | None = None, title: str = "") -> Figure:
    """A piano roll with the sustain pedal below it, and smaller rolls of its parents above it, on one time axis.

    A note is a bar from onset to end with a mark at its onset; its colour is its velocity. For songs with a tempo map
    there is a second axis of bars (beats, if there is no meter). Shows the first `seconds`, by default the whole song.
    """
    end = seconds or max(song.seconds, 1.0)
    figure = new_figure(3.2 + 1.3 * len(parents))
    heights = [1.15] * len(parents) + [2.4, 0.18]
    rows = figure.subplots(len(heights), 2, gridspec_kw={"height_ratios": heights, "width_ratios": [1, 0.011]})
    for other in rows[:, 1]:
        other.set_visible(False)
    *above, main, pedal = rows[:, 0]
    for axes, parent in zip(above, parents, strict=True):
        _roll_axes(axes, parent, end)
        _draw_notes(axes, parent.notes, _VELOCITY(parent.notes["velocity"]), end)
        _caption(axes, parent.name or "without a name", MUTED)
        axes.tick_params(labelbottom=False)
    _roll_axes(main, song, end)
    _draw_notes(main, song.notes, _VELOCITY(song.notes["velocity"]), end)
    _caption(main, title or song.name, INK)
    main.tick_params(labelbottom=False)
    _draw_bars(main, song, end)
    _draw_pedal(pedal, song, end)
    pedal.set_xlabel("seconds")

    bar = rows[len(parents), 1]
    bar.set_visible(True)
    figure.colorbar(ScalarMappable(Normalize(0, 127), _VELOCITY), cax=bar, ticks=[0, 32, 64, 96, 127])
    style_axes(bar)
    bar.set_ylabel("velocity", color=MUTED, fontsize=SMALL)
    return figure


def recall(source: Song, recalled: Song, seconds: float | None = None, title: str = "") -> Figure:
    """A song played back, with missed and extra notes marked, and their numbers in the title.

    Notes match if they have the same pitch and onsets within 50 ms, as in `note_metrics.note_scores`. The strip below
    shows the times of the differences, which are too small to see in the roll of a long song. `seconds` is as in
    `roll`; the numbers are those of the whole song.
    """
    end = seconds or max(source.seconds, recalled.seconds, 1.0)
    found, right = _match(source.notes, recalled.notes)
    missed, extra = source.notes[~found], recalled.notes[~right]
    figure = new_figure(3.2)
    main, rug = figure.subplots(2, 1, gridspec_kw={"height_ratios": [2.2, 0.3]})
    _roll_axes(main, source, end, recalled)
    matched = recalled.notes[right]
    grey = 0.42 + 0.28 * matched["velocity"][:, None] / 127
    _draw_notes(main, matched, np.concatenate([np.repeat(grey, 3, axis=1), np.ones_like(grey)], axis=1), end)
    for notes, colour, style in ((missed, _SECOND, "none"), (extra, _FIRST, _FIRST)):
        boxes = PolyCollection(list(_boxes(notes)), facecolors=style, edgecolors=colour, linewidths=0.9)
        main.add_collection(boxes, autolim=False)
    main.tick_params(labelbottom=False)
    _caption(main, title or f"Recall of {source.name or 'a song'}", INK)
    counts = {
        f"{len(matched):,} matched": "#b3b3b3",
        f"{len(missed):,} missed": _SECOND,
        f"{len(extra):,} extra": _FIRST,
    }
    place = {"y": 1.025, "transform": main.transAxes, "fontsize": NORMAL, "ha": "right"}
    for right_end, (text, colour) in zip((0.78, 0.89, 1.0), counts.items(), strict=True):
        main.text(x=right_end, s=text, color=colour, **place)

    style_axes(rug)
    rug.vlines(extra["onset"], 0.1, 0.9, colors=_FIRST, linewidths=1.2)
    rug.vlines(missed["onset"], 1.1, 1.9, colors=_SECOND, linewidths=1.2)
    rug.set(xlim=(0, end), ylim=(0, 2), xlabel="seconds")
    rug.set_yticks([0.5, 1.5], ["extra", "missed"])
    return figure


def morph(song: Song, names: Sequence[str], times: Sequence[float]) -> Figure:
    """A piano roll of a morph, whose notes have the colour of song `names[i]` at `times[i]` seconds and blends between.

    Softer notes are fainter. Raises ValueError unless there is one time for each name, in rising order.
    """
    if len(names) != len(times) or not len(names) or np.any(np.diff(times) <= 0):
        raise ValueError(f"{len(names)} names at the times {list(times)}; give one time for each name, in rising order")
    end = max(song.seconds, float(times[-1]), 1.0)
    where = np.linspace(0, 1, len(names)) if len(names) > 1 else np.array([0.5])
    figure = new_figure(2.7)
    main, strip = figure.subplots(2, 1, gridspec_kw={"height_ratios": [2.2, 0.2]})
    _roll_axes(main, song, end)
    colours = _PATH(np.interp(song.notes["onset"], times, where))
    strength = 0.35 + 0.65 * song.notes["velocity"][:, None] / 127
    colours[:, :3] = strength * colours[:, :3] + (1 - strength) * to_rgb(PANEL)
    _draw_notes(main, song.notes, colours, end)
    main.tick_params(labelbottom=False)

    gradient = np.interp(np.linspace(0, end, 1024), times, where)[None]
    strip.imshow(gradient, cmap=_PATH, vmin=0, vmax=1, extent=(0, end, 0, 1), aspect="auto")
    style_axes(strip)
    strip.set(xlim=(0, end), yticks=[], xlabel="seconds")
    sides = ["left", *["center"] * (len(names) - 2), "right"]
    for name, time, place, side in zip(names, times, where, sides, strict=False):
        main.axvline(time, color=_PATH(place), linewidth=0.8, alpha=0.6)
        edge = "left" if time < 0.1 * end else "right" if time > 0.9 * end else side
        label = {"color": _PATH(place), "fontsize": NORMAL, "ha": edge, "parse_math": False}
        main.text(time, 1.03, printable(name, 90 // len(names)), transform=main.get_xaxis_transform(), **label)
    return figure


def _caption(axes: Axes, text: str, colour: str) -> None:
    axes.set_title(printable(text), loc="left", color=colour, fontsize=NORMAL, pad=4, parse_math=False)


def _roll_axes(axes: Axes, song: Song, end: float, other: Song | None = None) -> None:
    """Prepares axes for a piano roll of the first `end` seconds, with every C labelled."""
    style_axes(axes)
    shown = np.concatenate([song.notes, other.notes if other else song.notes])
    pitch = shown["pitch"][shown["onset"] < end].astype(int)
    low, high = (pitch.min(), pitch.max()) if len(pitch) else (60, 60)
    middle = max(high - low, 14) / 2 + 1.5
    axes.set(xlim=(0, end), ylim=((low + high) / 2 - middle, (low + high) / 2 + middle), axisbelow=True)
    axes.yaxis.set_major_locator(MultipleLocator(12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda pitch, _: f"C{round(pitch) // 12 - 1}"))
    axes.grid(axis="y", color=LINE, linewidth=0.6)


def _boxes(notes: np.ndarray) -> Float[np.ndarray, "note 4 2"]:
    """The corners of each note's bar."""
    low, high = notes["pitch"] - _NOTE_HEIGHT / 2, notes["pitch"] + _NOTE_HEIGHT / 2
    onset, end = notes["onset"], notes["end"]
    return np.stack([np.stack([onset, end, end, onset], axis=1), np.stack([low, low, high, high], axis=1)], axis=2)


def _draw_notes(axes: Axes, notes: np.ndarray, colours: Float[np.ndarray, "note 4"], end: float) -> None:
    boxes = _boxes(notes)
    # Edges keep the shortest notes visible.
    bars = PolyCollection(list(boxes), facecolors=colours, edgecolors="face", linewidths=0.5)
    axes.add_collection(bars, autolim=False)
    dots_a_second = WIDTH / end
    width = min(1.1, 0.04 * dots_a_second)  # points; in a long song marks would hide the notes
    if width > 0.25:
        bright = colours * [1, 1, 1, 0] + [0, 0, 0, 1]
        bright[:, :3] = 1 - 0.35 * (1 - bright[:, :3])
        axes.add_collection(LineCollection(list(boxes[:, [0, 3]]), colors=bright, linewidths=width), autolim=False)


def _draw_pedal(axes: Axes, song: Song, end: float) -> None:
    style_axes(axes)
    time = np.concatenate([[0.0], song.pedal["time"], [end]])
    value = np.concatenate([[0], song.pedal["value"], song.pedal["value"][-1:] if len(song.pedal) else [0]])
    axes.fill_between(time, value, step="post", color=_FIRST, linewidth=0, alpha=0.85)
    axes.set(xlim=(0, end), ylim=(0, 127), yticks=[])
    axes.set_ylabel("pedal", rotation=0, ha="right", va="center")


def _draw_bars(axes: Axes, song: Song, end: float) -> None:
    """Bars or beats on a second time axis, for a song with a tempo map."""
    if not _has_tempos(song):
        return
    unit, number, time = _bars(song, end)
    step = next(step for step in (1, 2, 4, 5, 10, 20, 50, 100, 200, 500, 10**9) if len(time) / step <= 24)
    chosen = (number - 1) % step == 0
    chosen &= np.diff(time, append=np.inf) > 0.015 * end  # no room for the number of a bar that is cut short
    labels = [f"{unit} {value}" if value == 1 else f"{value}" for value in number[chosen]]
    _second_axis(axes, time[chosen], labels)
    axes.vlines(time[chosen], *axes.get_ylim(), color=LINE, linewidth=0.6, zorder=0.5)


def _second_axis(axes: Axes, places: Float[np.ndarray, " tick"], labels: list[str]) -> None:
    second = axes.secondary_xaxis("top")
    second.set_ticks(places.tolist(), labels)
    second.tick_params(colors=MUTED, labelsize=SMALL, length=2.5, pad=1)
    second.spines["top"].set_color(LINE)


def _has_tempos(song: Song) -> bool:
    """Whether any tempo differs from 120 quarter notes a minute, the default of a file without tempos."""
    return bool((np.abs(song.tempo_map.beat_seconds - DEFAULT_QUARTER_SECONDS) > 1e-6).any())


def _bars(song: Song, end: float) -> tuple[str, Int[np.ndarray, " bar"], Float[np.ndarray, " bar"]]:
    """ "bar", or "beat" if there is no meter; the numbers of those up to `end`, from 1; and their starts in seconds."""
    if len(song.meters):
        change = song.tempo_map.beats_at(song.meters["time"])
        length = np.maximum(4 * song.meters["numerator"] / song.meters["denominator"].astype(float), 0.25)
        if change[0] > 0:  # 4/4 until then, the default of MIDI
            change, length = np.append(0.0, change), np.append(4.0, length)
    else:
        change, length = np.zeros(1), np.ones(1)
    stops = np.append(change[1:], song.tempo_map.beats_at(end) + 1e-6)
    starts = np.concatenate(
        [np.arange(first, stop - 1e-3, size) for first, stop, size in zip(change, stops, length, strict=True)]
    )
    return "bar" if len(song.meters) else "beat", np.arange(1, len(starts) + 1), song.tempo_map.seconds_at(starts)


def _match(
    source: np.ndarray, recalled: np.ndarray
) -> tuple[Bool[np.ndarray, " source"], Bool[np.ndarray, " recalled"]]:
    """Which notes of each side are matched in a largest matching.

    On each pitch the earliest notes that are close enough are matched first, which gives a largest matching.
    """
    found, right = np.zeros(len(source), bool), np.zeros(len(recalled), bool)
    first, second = (np.lexsort((notes["onset"], notes["pitch"])) for notes in (source, recalled))
    i = j = 0
    while i < len(first) and j < len(second):
        one, other = source[first[i]], recalled[second[j]]
        difference = round(float(one["onset"] - other["onset"]), note_metrics.DECIMALS)
        if one["pitch"] == other["pitch"] and abs(difference) <= note_metrics.ONSET_SECONDS:
            found[first[i]] = right[second[j]] = True
            i, j = i + 1, j + 1
        elif (one["pitch"], difference) < (other["pitch"], 0):
            i += 1
        else:
            j += 1
    return found, right


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
    axes.plot(step, loss, color=_FIRST, linewidth=1.4, marker="o" if len(rows) == 1 else "")
    axes.set(yscale="log", xlabel="update", xlim=(0, max(step[-1], 1)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylabel("loss", color=_FIRST)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(color=LINE, linewidth=0.6)

    scores = [(row["step"], row["note_f1"]) for row in log if row.get("note_f1") is not None]
    if scores:
        right = axes.twinx()
        style_axes(right)
        right.plot(*zip(*scores, strict=True), color=_SECOND, linewidth=1.4, marker="o", markersize=3.5, clip_on=False)
        right.set(ylim=(0, 1.04), yticks=np.arange(6) / 5)
        right.set_ylabel("note F1", color=_SECOND)
        last = f"note F1 {scores[-1][1]:.3f}"
        axes.set_title(last, loc="right", color=_SECOND, fontsize=NORMAL)
    axes.set_title(f"{step[-1]:,} updates, loss {loss[-1]:.3g}", loc="left", color=_FIRST, fontsize=NORMAL)
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
    _second_axis(axes, places[shown], [f"{tick:g} {unit}" for tick in ticks[shown]])
