"""The tables of a report: figures of ``Report`` written as text, for the page and for Markdown alike."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bertcnn.inference.metrics import Estimate
from bertcnn.study.details import Curve, Disagreement
from bertcnn.study.findings import DataSet, Report, SystemScores
from bertcnn.study.verdict import p_text

NOTHING = ""
NOT_RUN = "not run"
UNSHADED = {"majority"}  # not in shaded tables: it answers the same to all, and all others would look alike


@dataclass(frozen=True)
class Cell:
    """What stands in a cell.

    Attributes:
        text: As shown.
        number: Numbers stand right, words left.
        good: How good against the rest of its table, 0 to 1, as a shade; None: no shade.
        strong: Whether it is marked.
    """

    text: str
    number: bool = True
    good: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class Line:
    """A row of a table; ``group`` is a heading over all rows that share it, ``note`` stands below."""

    cells: tuple[Cell, ...]
    group: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table, its first column naming the rows."""

    columns: tuple[str, ...]
    lines: tuple[Line, ...]


def scores(data: DataSet) -> Table:
    """Return how good each system is, with the runs that failed or are missing."""
    columns = (
        "System",
        "Accuracy\u00a0%",
        "Macro-F1\u00a0%",
        "Calibration error\u00a0%",
        "Dev accuracy\u00a0%",
        "Runs",
    )
    lines = []
    for row in data.rows:
        cells = (
            word(row.system + (" (best on dev)" if row.best else ""), strong=row.best),
            Cell(estimate(row.accuracy), strong=row.best),
            Cell(estimate(row.macro_f1)),
            Cell(percent(row.calibration_error)),
            Cell(percent(row.dev_accuracy), strong=row.best),
            Cell(_runs(row)),
        )
        lines.append(Line(cells, row.group, _failures(row)))
    return Table(columns, tuple(lines))


def costs(data: DataSet) -> Table | None:
    """Return what each system costs; columns in which nothing is known are left out."""
    measures: dict[str, Callable[[SystemScores], str]] = {
        "Train\u00a0s": lambda row: plain(row.cost["train_seconds"]),
        "Texts/s": lambda row: plain(row.cost["texts_per_second"]),
        "Latency\u00a0ms": lambda row: plain(row.cost["latency_ms"]),
        "FLOPs a\u00a0text": lambda row: amount(row.cost["flops_per_text"]),
        "Parameters": lambda row: amount(row.cost["parameters"]),
        "MB": lambda row: plain(row.cost["megabytes"]),
        "Peak\u00a0MB": lambda row: plain(row.cost["peak_megabytes"]),
        "Epochs to 99\u00a0%": lambda row: plain(row.epochs),
        "Seconds to 99\u00a0%": lambda row: plain(row.seconds),
    }
    rows = [row for row in data.rows if row.runs]
    known = [name for name, write in measures.items() if any(write(row) for row in rows)]
    if not known:
        return None
    lines = (Line((word(row.system), *(Cell(measures[name](row)) for name in known)), row.group) for row in rows)
    return Table(("System", *known), tuple(lines))


def needs(data: DataSet, systems: Sequence[str]) -> Table | None:
    """Return how many training texts each of some systems needs to reach another's score on all texts."""
    shown = [curve for curve in data.curves if curve.system in systems]
    if len(shown) < 2:
        return None
    lines = []
    for curve in shown:
        cells = [Cell(_need(curve, one.system)) for one in shown]
        lines.append(Line((word(curve.system), *cells)))
    heads = (f"{curve.system} ({percent(curve.points[-1][1])}\u00a0%)" for curve in shown)
    return Table(("Who needs how many to reach", *heads), tuple(lines))


def points(data: DataSet) -> Table | None:
    """Return the learning curves in numbers."""
    if not data.curves:
        return None
    sizes = sorted({round(texts) for curve in data.curves for texts, _ in curve.points})
    lines = []
    for curve in data.curves:
        at = {round(texts): percent(score) for texts, score in curve.points}
        lines.append(Line((word(curve.system), *(Cell(at.get(size, NOTHING)) for size in sizes))))
    return Table(("System", *(f"{size:,} texts" for size in sizes)), tuple(lines))


def by_slice(data: DataSet) -> Table | None:
    """Return accuracy by slice: a row a slice, a column a system."""
    systems = [row.system for row in data.rows if any(row.system in one.accuracy for one in data.slices)]

    rows = [(one.value, f"{one.texts:,}", one.kind, one.accuracy) for one in data.slices]
    return _heat("Slice", "Texts", systems, rows) if rows else None


def flips(data: DataSet) -> Table | None:
    """Return the share of answers that each perturbation flips; fewer is better."""
    names = dict.fromkeys(name for found in data.flips.values() for name in found)
    rows = [
        (name, None, "", {one: found[name] for one, found in data.flips.items() if name in found}) for name in names
    ]
    return _heat("Perturbation", None, list(data.flips), rows, better=min) if rows else None


def behaviour(data: DataSet) -> Table | None:
    """Return the share of cases that fail by capability, far negation first; fewer is better."""
    names = dict.fromkeys(name for found in data.behaviour.values() for name in found)
    rows = []
    for name in sorted(names, key=lambda name: not name.startswith("far negation")):  # sorted() is stable
        tallies = {one: found[name] for one, found in data.behaviour.items() if name in found}
        cases = max(tally.cases for tally in tallies.values())
        shares = {one: tally.failures / tally.cases for one, tally in tallies.items()}
        rows.append((name, f"{cases:,}", "", shares))
    return _heat("Capability", "Cases", list(data.behaviour), rows, better=min) if rows else None


def transfer(data: DataSet) -> Table | None:
    """Return accuracy on data sets that nothing was trained on."""
    names = dict.fromkeys(name for found in data.transfer.values() for name in found)
    rows = [
        (name, None, "", {one: found[name] for one, found in data.transfer.items() if name in found}) for name in names
    ]
    return _heat("Tested on", None, list(data.transfer), rows) if rows else None


def disagreements(found: Disagreement) -> list[tuple[str, Table]]:
    """Return texts that one of two systems gets right and the other wrong, each way."""
    both = (
        (f"Right: {found.left}. Wrong: {found.right}.", found.only_left),
        (f"Right: {found.right}. Wrong: {found.left}.", found.only_right),
    )
    columns = ("Text", "Label", found.left, found.right)
    return [
        (title, Table(columns, tuple(Line(tuple(map(word, (o.text, o.label, o.left, o.right)))) for o in shown)))
        for title, shown in both
        if shown
    ]


def verdict(report: Report) -> Table:
    """Return the tests in numbers."""
    columns = ("Question", "Data", "Systems", "Difference", "p", "p, Holm", "Only left", "Only right", "Shown")
    lines = [
        Line(
            (
                word(one.question),
                word(one.data),
                word(f"{one.left} against {one.right}"),
                Cell(estimate(one.difference)),
                Cell(p_text(one.p_value)),
                Cell(p_text(one.adjusted)),
                Cell(f"{one.only_left:,}"),
                Cell(f"{one.only_right:,}"),
                word("yes" if one.shown else "no", strong=one.shown),
            )
        )
        for one in report.verdict
    ]
    return Table(columns, tuple(lines))


def about(report: Report) -> Table | None:
    """Return what each system is."""
    known = {row.system: row for data in report.data for row in data.rows if row.about}
    lines = (Line((word(name), word(row.about)), row.group) for name, row in known.items())
    return Table(("System", "What it is"), tuple(lines)) if known else None


def chosen(report: Report) -> Table | None:
    """Return the settings that dev chose."""
    lines = tuple(
        Line(
            (
                word(one.system),
                word(one.settings),
                Cell("" if one.trials is None else f"{one.trials:,}"),
                Cell(f"{one.runs:,}"),
            ),
            one.data,
        )
        for one in report.chosen
    )
    return Table(("System", "Chosen", "Tried", "Runs"), lines) if lines else None


def settings(report: Report) -> Table | None:
    """Return the settings of the networks."""
    lines = tuple(Line((word(name), word(values))) for name, values in report.settings.items())
    return Table(("System", "Settings"), lines) if lines else None


def made(report: Report) -> Table:
    """Return what the study was made with, on what data, and what became of its runs."""
    values: dict[str, str] = {name.capitalize(): "; ".join(found) for name, found in report.made.items()}
    counts = report.counts
    values["Runs"] = f"{counts['done']} done, {counts['failed']} failed, {counts['missing']} not run"
    for data in report.data:
        prints = ", ".join(one[:16] for one in data.fingerprints[:3])
        more = f" and {len(data.fingerprints) - 3} more" if len(data.fingerprints) > 3 else ""
        values[f"Data {data.name}"] = f"{data.sizes}; {len(data.labels)} labels; sha256 {prints or 'unknown'}{more}"
    return Table(("", ""), tuple(Line((word(name), word(value))) for name, value in values.items() if value))


def word(text: str, *, strong: bool = False) -> Cell:
    """Return a cell of words."""
    return Cell(text, number=False, strong=strong)


def percent(share: float | None) -> str:
    """Write a share as a percentage: ``87.4``."""
    return NOTHING if share is None else f"{100 * share:.1f}"


def estimate(found: Estimate | None) -> str:
    """Write an estimate in percent: ``87.4 [85.1, 89.5]``."""
    return "-" if found is None else f"{percent(found.value)} [{percent(found.low)}, {percent(found.high)}]"


def plain(number: float | None) -> str:
    """Write a number with about three figures that matter."""
    if number is None:
        return NOTHING
    if number >= 100 or number == int(number):
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2g}"


def amount(number: float | None) -> str:
    """Write a large number: ``22.7 M``, ``1.20 G``."""
    if number is None:
        return NOTHING
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def _heat(
    first: str,
    second: str | None,
    systems: Sequence[str],
    rows: Iterable[tuple[str, str | None, str, Mapping[str, float]]],
    *,
    better: Callable[[Iterable[float]], float] = max,
) -> Table:
    """Make a table of shares whose cells are shaded, each row from its worst to its best."""
    systems = [one for one in systems if one not in UNSHADED]
    lines = []
    for name, count, group, every in rows:
        values = {one: share for one, share in every.items() if one in systems}
        if not values:
            continue
        best, worst = better(values.values()), (min if better is max else max)(values.values())
        span = best - worst
        cells = [
            Cell(percent(values[one]), good=(values[one] - worst) / span if span else None)
            if one in values
            else Cell("")
            for one in systems
        ]
        counted = [] if count is None else [Cell(count)]
        lines.append(Line((word(name), *counted, *cells), group))
    return Table((first, *([] if second is None else [second]), *systems), tuple(lines))


def _need(curve: Curve, other: str) -> str:
    """Write how many texts a system needs to reach another; at the least that were tried, fewer may do."""
    if other not in curve.needs:
        return NOTHING
    (first, _), texts, (last, _) = curve.points[0], curve.needs[other], curve.points[-1]
    if texts is None:
        return f"more than {last:,.0f}"
    return f"{texts:,.0f}" if texts > first else f"at most {texts:,.0f}"


def _runs(row: SystemScores) -> str:
    if not row.runs and not row.failures:
        return NOT_RUN
    return f"{row.runs}" if row.runs == row.expected else f"{row.runs} of {row.expected}"


def _failures(row: SystemScores) -> str:
    return "" if not row.failures else f"{len(row.failures)} failed. " + "; ".join(row.failures)
