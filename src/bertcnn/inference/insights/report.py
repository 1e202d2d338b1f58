"""Insights as a page for people and as tables: ``insights.html``, ``phrases.csv``, ``filters.csv``, ``texts.csv``.

With groups there is ``groups.csv``, too. The page shows the first of each list; the tables hold
what the page shows and more, with the same figures.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bertcnn.errors import DataError
from bertcnn.inference.insights.mistakes import NEEDS_CLEANLAB, can_find_mistakes
from bertcnn.inference.insights.result import DoubtfulText, Insights, LabelInsights
from bertcnn.inference.templating import template
from bertcnn.text.cells import without_surrogates
from bertcnn.text.read_table import Row
from bertcnn.text.write_table import write_rows

MOVING = 6
"""Phrases of a label whose way over the groups is drawn."""

OPEN_LABELS = 6
"""With more labels than that the commonest come first, and the others are folded."""

TABLE_GROUPS = 6
"""More groups than that are bars without numbers."""

FILTER_GROUPS = 12
MOST_FILTERS = 600

KINDS = {"error": "errors", "label to look at": "mistakes", "least sure": "unsure"}
"""What ``texts.csv`` calls the lists."""


def write_insights(folder: str | Path, found: Insights, *, title: str, top: int = 12) -> list[Path]:
    """Write the page and the tables; each appears under its name when all are whole.

    Args:
        folder: Made where it is not there; files of these names are replaced.
        found: What to write.
        title: Of the page.
        top: Phrases of a label, and texts of a list, that the page shows.

    Returns:
        The files.

    Raises:
        DataError: The folder cannot be written.
    """
    place = Path(folder)
    drawn = insights_page(found, title=title, top=top)
    tables = {"phrases": phrase_rows(found), "filters": filter_rows(found), "texts": text_rows(found)}
    if found.by is not None:
        tables["groups"] = group_rows(found)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place, prefix=".draft-") as name:
            draft = Path(name)
            (draft / "insights.html").write_text(drawn, "utf-8")
            for table, rows in tables.items():
                write_rows(draft / f"{table}.csv", rows)
            if found.by is None:  # what an earlier one left would be taken for this one's
                (place / "groups.csv").unlink(missing_ok=True)
            return [file.replace(place / file.name) for file in sorted(draft.iterdir())]
    except OSError as error:
        raise DataError(f"Cannot write into {place}: {error}. Give another --output FOLDER.") from error


def phrase_rows(found: Insights) -> Iterator[Row]:
    """Yield a row for each phrase of each label, as the page orders them."""
    for label in found.labels:
        for one in label.drivers:
            examples = [f"{e.before}[{e.phrase}]{e.after}" for e in one.examples]
            yield {
                "label": label.name,
                "phrase": one.phrase,
                "total": round(one.total, 6),
                "texts": one.texts,
                "answered": one.answered,
                "is_telling": one.is_telling,
                "forms": one.forms,
                **{f"example_{i + 1}": examples[i] if i < len(examples) else "" for i in range(3)},
                **{f"texts: {g.name}": count for g, count in zip(found.groups, one.by_group, strict=False)},
            }


def filter_rows(found: Insights) -> Iterator[Row]:
    """Yield a row for each filter."""
    for one in found.filters:
        yield {
            "filter": one.number,
            "width": one.width,
            "texts": one.texts,
            "is_dead": one.is_dead,
            "duplicate_of": one.duplicate_of,
            "group": one.group,
            **{f"weight_{label.name}": round(w, 6) for label, w in zip(found.labels, one.weights, strict=True)},
            "ngrams": tuple(name for name, _ in one.ngrams),
            "responses": tuple(round(response, 4) for _, response in one.ngrams),
        }


def text_rows(found: Insights) -> Iterator[Row]:
    """Yield a row for each doubtful text, list by list."""
    for kind, name in KINDS.items():
        listing = getattr(found, name)
        for one in () if listing is None else listing.texts:
            yield {
                "list": kind,
                "row": one.row,
                "answer": one.answer,
                "confidence": round(one.confidence, 6),
                "label": one.label,
                "group": one.group,
                "text": one.text,
            }


def group_rows(found: Insights) -> Iterator[Row]:
    """Yield a row for each group: its texts, those labelled, those right, and those answered with each label."""
    for i, group in enumerate(found.groups):
        yield {**asdict(group), **{f"answered_{label.name}": label.by_group[i] for label in found.labels}}


def insights_page(found: Insights, *, title: str, top: int = 12) -> str:
    """Return the page, which asks the network for nothing."""
    folded = len(found.labels) > OPEN_LABELS
    labels = sorted(found.labels, key=lambda label: -label.texts) if folded else list(found.labels)
    views = [_label_view(label, top) for label in labels]
    drawn = template("insights.html.j2").render(
        found=found,
        title=without_surrogates(title),
        labels=views,
        spoken=[view for view in views if view["one"].texts or not found.is_multi_label],
        most=max((label.texts for label in labels), default=0) or 1,
        most_open=OPEN_LABELS,
        moving=[_moving(found, label) for label in labels if label.drivers and label.texts][: OPEN_LABELS * 2],
        sizes=_series("all texts", [group.texts for group in found.groups], None),
        as_table=len(found.groups) <= TABLE_GROUPS,
        lists=_lists(found, top),
        note=NEEDS_CLEANLAB if found.labelled and not can_find_mistakes() else "",
        filter_groups=[_group_view(found, number) for number in range(min(len(found.filter_groups), FILTER_GROUPS))],
        filters=[_filter_view(found, i) for i in range(min(len(found.filters), MOST_FILTERS))],
        top=top,
    )
    return str(without_surrogates(drawn))


def _label_view(label: LabelInsights, top: int) -> dict[str, Any]:
    shown = [one for one in label.drivers if one.is_telling][:top] or list(label.drivers[:top])
    greatest = max((one.total for one in shown), default=0.0) or 1.0
    return {"one": label, "drivers": [(driver, driver.total / greatest) for driver in shown]}


def _moving(found: Insights, label: LabelInsights) -> dict[str, Any]:
    sizes = [group.texts for group in found.groups]
    series = [_series(one.phrase, one.by_group, sizes) for one in label.drivers[:MOVING] if one.is_telling]
    return {"name": label.name, "share": _series("answered so", label.by_group, sizes), "phrases": series}


def _series(name: str, counts: Sequence[int], sizes: Sequence[int] | None) -> dict[str, Any]:
    """Return counts by group, as they are or for each 100 texts, with the parts of the greatest to draw."""
    values = [float(count) for count in counts]
    if sizes is not None:
        values = [100 * count / size if size else 0.0 for count, size in zip(counts, sizes, strict=False)]
    greatest = max(values, default=0.0) or 1.0
    peak = values.index(max(values)) if values else 0
    return {"name": name, "counts": counts, "values": values, "parts": [v / greatest for v in values], "peak": peak}


def _lists(found: Insights, top: int) -> list[dict[str, Any]]:
    """Return the lists of doubtful texts, those that there are, in the order of the page."""
    headings = {"unsure": "Least sure", "errors": "Errors", "mistakes": "Labels to look at"}
    there = {name: getattr(found, name) for name in headings}
    return [
        {
            "name": name,
            "heading": headings[name],
            "count": listing.count,
            "rows": [_doubtful_view(one) for one in listing.texts[:top]],
        }
        for name, listing in there.items()
        if listing is not None
    ]


def _doubtful_view(one: DoubtfulText) -> dict[str, Any]:
    return {"one": one, "marks": one.marks or ((one.text[:2000], 0.0),)}


def _group_view(found: Insights, place: int) -> dict[str, Any]:
    """Return a group of filters with the label it speaks for most."""
    group = found.filter_groups[place]
    greatest = max(map(abs, group.moves), default=0.0) or 1.0
    best = max(range(len(group.moves)), key=lambda k: group.moves[k])
    move = group.moves[best]
    most = max((max(one.moves) for one in found.filter_groups), default=0.0) or greatest
    return {"one": group, "label": found.labels[best].name, "part": max(move, 0.0) / most, "move": move}


def _filter_view(found: Insights, place: int) -> dict[str, Any]:
    one = found.filters[place]
    best = max(range(len(one.weights)), key=lambda k: one.weights[k])
    note = "never fires" if one.is_dead else f"like {one.duplicate_of}" if one.duplicate_of else ""
    return {"one": one, "label": found.labels[best].name, "weight": one.weights[best], "note": note}
