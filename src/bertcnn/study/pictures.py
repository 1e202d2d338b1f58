"""The pictures of a report, as data URIs of SVG. They draw what stands in ``Report`` and compute nothing."""

import base64
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from matplotlib.transforms import Bbox

from bertcnn.study.findings import DataSet, SystemScores
from bertcnn.study.verdict import Answer

COLOURS = {  # Okabe and Ito's, which the colour-blind can tell apart
    "baseline": "#6b6b6b",
    "CNN alone": "#b35c00",
    "frozen BERT": "#0072b2",
    "fine-tuned BERT": "#00795a",
}
LINES = ("#0072b2", "#b35c00", "#00795a", "#a0447f", "#6b6b6b", "#56b4e9", "#8a6d00", "#d55e00")
MARKS = "osD^vPX<>"
DOMINATED = "#a8a8a8"
LABEL_SIZE = 8.5
LINES_SHOWN = 8


def forest(answers: Sequence[Answer]) -> str:
    """Draw each difference with its interval; filled where it is shown."""
    with _style():
        figure = Figure(figsize=(8.6, 0.9 + 0.3 * len(answers)), layout="constrained")
        axes = figure.subplots()
        for place, one in enumerate(answers):
            value, low, high = (100 * x for x in (one.difference.value, one.difference.low, one.difference.high))
            colour = DOMINATED if not one.shown else LINES[2] if value > 0 else LINES[7]
            axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot(value, place, "o", color=colour, markerfacecolor=colour if one.shown else "white")
        axes.axvline(0, color="#444444", linewidth=0.8)
        axes.set_yticks(range(len(answers)), [f"{one.question}, {one.data}" for one in answers])
        axes.set_ylim(len(answers) - 0.4, -0.6)
        axes.set_xlabel("points of accuracy, left side less right side; 95 % intervals; hollow: not shown")
        axes.grid(axis="x", color="#e6e6e6")
        axes.tick_params(axis="y", length=0)
        return _uri(figure)


def frontier(data: DataSet) -> str | None:
    """Draw accuracy against texts per second; what another system beats in both is hollow. None without speeds."""
    rows = [row for row in data.rows if row.accuracy and row.on_frontier is not None and row.system != "majority"]
    if len(rows) < 2:
        return None
    with _style():
        figure = Figure(figsize=(8.6, 4.6), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log")
        places = [_place(row) for row in rows]
        for row, (x, y) in zip(rows, places, strict=True):
            colour = COLOURS.get(row.group, "#6b6b6b")
            fill = colour if row.on_frontier else "white"
            axes.plot(x, y, "o", color=colour, markerfacecolor=fill, alpha=1 if row.on_frontier else 0.6, zorder=3)
        ahead = sorted(place for row, place in zip(rows, places, strict=True) if row.on_frontier)
        axes.plot([x for x, _ in ahead], [y for _, y in ahead], color="#bbbbbb", linewidth=1, zorder=1)
        axes.set_xlabel("texts per second (log scale)")
        axes.set_ylabel("accuracy on test, %")
        axes.margins(x=0.16, y=0.12)
        axes.set_ylim(top=min(axes.get_ylim()[1], 101))
        axes.grid(color="#eeeeee")
        for group in dict.fromkeys(row.group for row in rows if row.group):
            axes.plot([], [], "o", color=COLOURS.get(group, "#6b6b6b"), label=group)
        figure.legend(loc="outside upper left", ncols=4, frameon=False, handletextpad=0.1)
        colours = [COLOURS.get(row.group, "#6b6b6b") if row.on_frontier else "#777777" for row in rows]
        _name(figure, axes, [row.system for row in rows], places, colours)
        return _uri(figure)


def curves(data: DataSet, names: Sequence[str]) -> str | None:
    """Draw the learning curves of some systems; None where there are none."""
    shown = [curve for curve in data.curves if curve.system in names] or list(data.curves)
    shown = shown[:LINES_SHOWN]
    if not shown:
        return None
    with _style():
        figure = Figure(figsize=(8.6, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log")
        for i, curve in enumerate(shown):
            x, y = [texts for texts, _ in curve.points], [100 * score for _, score in curve.points]
            axes.plot(x, y, color=LINES[i % len(LINES)], marker=MARKS[i % len(MARKS)], markersize=5, label=curve.system)
        sizes = sorted({round(texts) for curve in shown for texts, _ in curve.points})
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{size:,}" for size in sizes])
        axes.set_xlabel("training texts (log scale)")
        axes.set_ylabel("accuracy on test, %")
        axes.grid(color="#eeeeee")
        order = sorted(range(len(shown)), key=lambda i: -shown[i].points[-1][1])  # the legend as the lines end
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            [handles[i] for i in order], [labels[i] for i in order], loc="outside right center", frameon=False
        )
        return _uri(figure)


def reliability(data: DataSet) -> str | None:
    """Draw confidence against accuracy, a small panel a system; the area of a point grows with its texts."""
    if not data.reliability:
        return None
    with _style():
        count = len(data.reliability)
        figure = Figure(figsize=(2.35 * count + 0.4, 3.1), layout="constrained")
        panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
        for axes, (name, bins) in zip(panels, data.reliability.items(), strict=True):
            total = sum(n for _, _, n in bins) or 1
            filled = [one for one in bins if one[2]]
            axes.plot([0, 100], [0, 100], color="#999999", linewidth=0.8, linestyle="--")
            x, y = [100 * c for c, _, _ in filled], [100 * a for _, a, _ in filled]
            axes.plot(x, y, color=LINES[0], linewidth=1)
            axes.scatter(x, y, s=[12 + 220 * n / total for _, _, n in filled], color=LINES[0], alpha=0.75, linewidth=0)
            axes.set_title(name, fontsize=9)
            axes.set_xlim(0, 104)
            axes.set_ylim(0, 104)
            axes.set_aspect("equal")
            axes.set_xticks([0, 50, 100])
            axes.set_yticks([0, 50, 100])
        panels[0].set_ylabel("right, %")
        figure.supxlabel("confidence, %", fontsize=9)
        return _uri(figure)


@contextmanager
def _style() -> Iterator[None]:
    settings: dict[str, Any] = {
        "svg.fonttype": "none",  # words stay words: small, sharp, and found by search
        "svg.hashsalt": "bertcnn",  # the same report, the same bytes
        "font.family": ["DejaVu Sans"],
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "figure.facecolor": "white",
    }
    with mpl.rc_context(settings):
        yield


def _uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # of names in scripts that the font has not
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _place(row: SystemScores) -> tuple[float, float]:
    assert row.accuracy is not None
    return row.cost["texts_per_second"] or 1.0, 100 * row.accuracy.value


def _name(
    figure: Figure,
    axes: Axes,
    names: Sequence[str],
    places: Sequence[tuple[float, float]],
    colours: Sequence[str],
) -> None:
    """Write a name beside each point, at the nearest place where it covers no other name and no point."""
    figure.draw_without_rendering()
    # No layout after this: the places below are reckoned in pixels.
    figure.set_layout_engine("none")
    points = [tuple(axes.transData.transform(place)) for place in places]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in points]
    frame = axes.get_window_extent()
    scale = figure.dpi / 72
    for i in sorted(range(len(names)), key=lambda i: -points[i][1]):
        wide, high = (0.64 * LABEL_SIZE * len(names[i]) + 2) * scale, 1.25 * LABEL_SIZE * scale
        box, (dx, dy), side = _free(points[i], (wide, high), taken, frame)
        taken.append(box)
        leader = {"arrowstyle": "-", "color": "#bbbbbb", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            names[i],
            places[i],
            xytext=(dx / scale, dy / scale),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=LABEL_SIZE,
            color=colours[i],
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4},
            arrowprops=leader if abs(dy) > high else None,
        )


def _free(
    point: tuple[float, float], size: tuple[float, float], taken: Sequence[Bbox], frame: Bbox
) -> tuple[Bbox, tuple[float, float], str]:
    """Return a box for a name, its offset in pixels, and the side at which the text is held."""
    (x, y), (wide, high) = point, size
    first: tuple[Bbox, tuple[float, float], str] | None = None
    for step in range(40):
        dy = high * 0.5 * ((step + 1) // 2) * (1 if step % 2 else -1)
        for side, dx in (("left", 8.0), ("right", -8.0)):
            left = x + dx if side == "left" else x + dx - wide
            box = Bbox.from_bounds(left, y + dy - high / 2, wide, high)
            inside = box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
            first = first or (box, (dx, dy), side)
            if inside and not any(box.overlaps(other) for other in taken):
                return box, (dx, dy), side
    assert first is not None
    return first
