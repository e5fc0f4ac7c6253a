"""A map of the latent rows of a run's songs. Conventions: as in `plots`."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment

from nemui_jax.outputs.figures import NORMAL, SMALL, new_figure, printable, style_axes
from nemui_jax.outputs.palette import INK

MAX_LABELS = 40  # songs that are named
MAX_DOTS = 60_000  # rows that are drawn


def draw(table: Float[np.ndarray, "row latent"], song_of_row: Int[np.ndarray, " row"], names: Sequence[str]) -> Figure:
    """The latent table in its two directions of largest variance: a dot for each row, each song named at its mean.

    A song's rows have its colour. With more than MAX_LABELS songs only that many, evenly chosen, are named; with more
    than MAX_DOTS rows only that many, evenly chosen, are drawn.
    """
    places, share = _principal(table)
    count = np.bincount(song_of_row, minlength=len(names))
    means = [np.bincount(song_of_row, part, minlength=len(names)) / np.maximum(count, 1) for part in places.T]
    means = np.stack(means, axis=1)

    figure = new_figure(6.4)
    axes = figure.subplots()
    style_axes(axes)
    colours = 0.2 + 0.8 * colormaps["turbo"](np.linspace(0.1, 0.92, len(names)))  # without the darkest
    shown = np.unique(np.linspace(0, len(table) - 1, min(len(table), MAX_DOTS)).astype(int))
    many = len(names) > MAX_LABELS
    faint = float(np.clip(0.6 - 0.08 * np.log10(len(table) / 100), 0.2, 0.5))
    axes.scatter(*places[shown].T, s=4, c=colours[song_of_row[shown]], alpha=faint, linewidths=0)
    axes.scatter(*means.T, s=18 if many else 46, c=colours, edgecolors=INK, linewidths=0.5 if many else 0.9, zorder=3)
    inner = np.quantile(places, [0.01, 0.99], axis=0)  # outliers must not make the map small
    low, high = np.minimum(inner[0], means.min(axis=0)), np.maximum(inner[1], means.max(axis=0))
    margin = 0.05 * (high - low) + 1e-9
    axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    axes.set(xticks=[], yticks=[], xlabel=f"{share[0]:.0%} of the variance across, {share[1]:.0%} upwards")
    title = f"{len(names):,} songs, {len(table):,} rows" + (f"; {MAX_LABELS} songs named" if many else "")
    axes.set_title(title, loc="left", color=INK, fontsize=NORMAL)
    named = np.unique(np.linspace(0, len(names) - 1, min(len(names), MAX_LABELS)).astype(int))
    corner = np.array([axes.get_xlim()[0], axes.get_ylim()[0]])
    size = np.array([axes.get_xlim()[1], axes.get_ylim()[1]]) - corner
    for index, side, height in _beside((means - corner) / size, named):
        axes.annotate(
            _shortened(printable(names[index], 10**6), 30),
            means[index],
            (side, height),
            textcoords="axes fraction",
            ha="left" if side > 0 else "right",
            va="center",
            color=INK,
            fontsize=SMALL,
            parse_math=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colours[index],
                "linewidth": 0.7,
                "shrinkB": 3,
                "relpos": (side < 0, 0.5),
            },
        )
    return figure


def _principal(table: Float[np.ndarray, "row latent"]) -> tuple[Float[np.ndarray, "row 2"], Float[np.ndarray, " 2"]]:
    """Rows in the two directions of largest variance, and each direction's share of the variance."""
    rows = np.pad(table.astype(float), ((0, 2), (0, 2)))  # so that there are two directions in any case
    rows[: len(table)] -= rows[: len(table)].mean(axis=0)
    _, spread, directions = np.linalg.svd(rows, full_matrices=False)
    directions = directions[:2].T
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), [0, 1]])  # SVD leaves the sign open
    return rows[: len(table)] @ directions, spread[:2] ** 2 / max((spread**2).sum(), 1e-30)


def _shortened(text: str, max_letters: int) -> str:
    """A text shortened in its middle, as names in a folder often begin alike."""
    if len(text) <= max_letters:
        return text
    return f"{text[: max_letters // 2]}…{text[len(text) - (max_letters - 1) // 2 :]}"


def _beside(
    places: Float[np.ndarray, "song 2"], named: Int[np.ndarray, " label"]
) -> Iterator[tuple[int, float, float]]:
    """Yields each song of a label and the label's x and y, as shares of the axes; `places` are the songs' x and y.

    Labels stand in a column on either side of the map, such that the lines to their songs have the smallest total
    length; then no two lines of a column cross.
    """
    by_side = named[np.argsort(places[named, 0], kind="stable")]
    for side, column in ((-0.012, by_side[: len(named) // 2]), (1.012, by_side[len(named) // 2 :])):
        heights = (np.arange(len(column)) + 0.5) / max(len(column), 1)
        across, up = places[column, 0] - side, places[column, 1]
        chosen = linear_sum_assignment(np.hypot(across[:, None], up[:, None] - heights))[1]
        for index, height in zip(column, heights[chosen], strict=True):
            yield int(index), side, float(height)
