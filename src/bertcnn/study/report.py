"""``report.html``, ``report.md`` and ``results.csv`` of a study folder, drawn from what lies in it.

The page is one file: pictures and figures are in it, and it asks the network for nothing.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup, escape

from bertcnn.files import write_whole
from bertcnn.study import pictures, tables
from bertcnn.study.evidence import Result, Study, read_study
from bertcnn.study.findings import DataSet, Report, find
from bertcnn.study.verdict import Answer
from bertcnn.text.cells import as_json

__all__ = ["Report", "write_report"]

NOT_IN_CSV = {"schema", "settings", "progress", "labels", "warnings"}


@dataclass(frozen=True)
class Block:
    """A picture, a table, or both, under a title.

    Attributes:
        title: May be empty.
        table: Or None.
        picture: A data URI, or None.
        alt: What the picture shows, for those who do not see it.
        caption: Under the picture.
        wide: Whether the table is words, which wrap, and not numbers.
        folded: If set, the table is behind these words.
    """

    title: str = ""
    table: tables.Table | None = None
    picture: str | None = None
    alt: str = ""
    caption: str = ""
    wide: bool = False
    folded: str = ""


@dataclass(frozen=True)
class Section:
    """Blocks under a heading, with a word on how to read them."""

    anchor: str
    title: str
    text: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class AnsweredQuestion:
    """What was asked, and the answers on each data set."""

    asks: str
    over_data: str
    answers: tuple[Answer, ...]


def write_report(folder: Path) -> Report:
    """Write the report of a study into its folder, and return what it says.

    Each file is written beside its place and then renamed, so that none is ever half there.

    Args:
        folder: Of the study.

    Raises:
        StudyError: There is no run in the folder.
    """
    study = read_study(folder)
    report = find(study)
    values = {
        "report": report,
        "summary": _summary(report),
        "verdict": _questions(report),
        "sections": [section for section in _sections(report) if section.blocks],
    }
    page = _page.get_template("report.html.j2").render(
        **values, json=htmlsafe_json_dumps(report.to_dict(), dumps=as_json)
    )
    write_whole(folder / "report.html", page)
    write_whole(folder / "report.md", _text.get_template("report.md.j2").render(**values))
    write_whole(folder / "results.csv", _csv(study))
    return report


def _sections(report: Report) -> Iterable[Section]:
    several = len(report.data) > 1

    def each(make: Any, **more: Any) -> tuple[Block, ...]:
        """Make a block a data set, of those for which there is something."""
        found = ((data, make(data)) for data in report.data)
        return tuple(Block(data.name if several else "", table, **more) for data, table in found if table)

    if report.verdict:
        picture = pictures.forest(report.verdict)
        alt = "Differences with their 95 % intervals, a line a question and data set."
        block = Block(picture=picture, alt=alt, table=tables.verdict(report), folded="The tests in numbers")
        yield Section("differences", "Differences", "", (block,))
    yield Section("systems", "Systems", _ON_SCORES, tuple(_systems(report, several)))
    yield Section("frontier", "Accuracy against speed", "", tuple(_frontiers(report, several)))
    yield Section("curves", "With less data", _ON_CURVES, tuple(_curves(report, several)))
    yield Section("slices", "By kind of text", _ON_SLICES, each(tables.by_slice))
    yield Section("robustness", "Robustness", _ON_FLIPS, each(tables.flips))
    yield Section("behaviour", "Behaviour", _ON_BEHAVIOUR, each(tables.behaviour))
    yield Section("transfer", "Elsewhere", _ON_TRANSFER, each(tables.transfer))
    yield Section("reliability", "Calibration", _ON_RELIABILITY, tuple(_reliabilities(report, several)))
    yield Section("examples", "Examples", _ON_EXAMPLES, tuple(_examples(report, several)))
    yield Section("made", "How it was made", "", tuple(_made(report)))


_ON_SCORES = (
    "Test accuracy and macro-F1 in percent with 95 % intervals over texts, and over seeds where there are several: "
    "with one seed, another may give another result. The other figures are means, costs medians over runs, peak "
    "memory the greatest, of a process that has torch loaded. 99 %: of the final dev score."
)
_ON_CURVES = (
    "Accuracy on test by the number of training texts, means over runs; and how many texts a system needs to reach "
    "what another reaches with all."
)
_ON_SLICES = "Accuracy on test in percent. The stronger the shade, the better in the row."
_ON_FLIPS = (
    "Percent of the answers that change with the text, though its meaning does not. The stronger the shade, the better."
)
_ON_BEHAVIOUR = (
    "Percent of hand-written cases that fail, by what they ask of a system. Far negation stands first: it is what a "
    "window of a few words cannot see. The stronger the shade, the better."
)
_ON_TRANSFER = (
    "Accuracy in percent on other data sets, of which nothing was learned but where a warning says so. The stronger "
    "the shade, the better."
)
_ON_RELIABILITY = (
    "How often a system is right when it is so sure; on the dashed line it would be as right as it says. Larger points "
    "hold more texts."
)
_ON_EXAMPLES = "Test texts that one side of the first question has right and the other wrong, in the most seeds."


def _systems(report: Report, several: bool) -> Iterable[Block]:
    for data in report.data:
        yield Block(data.name if several else "", tables.scores(data))
        if costs := tables.costs(data):
            yield Block(f"{data.name}: what it costs" if several else "What it costs", costs)


def _frontiers(report: Report, several: bool) -> Iterable[Block]:
    for data in report.data:
        if picture := pictures.frontier(data):
            ahead = ", ".join(row.system for row in data.rows if row.on_frontier)
            caption = f"Hollow: another system is at least as fast and as accurate. Not beaten: {ahead}."
            caption += " The majority is not drawn." if any(row.system == "majority" for row in data.rows) else ""
            alt = f"Accuracy against texts per second on {data.name}."
            yield Block(data.name if several else "", None, picture, alt, caption)


def _curves(report: Report, several: bool) -> Iterable[Block]:
    for data in report.data:
        if data.curves:
            standing = _standing(report, data)
            alt = f"Learning curves on {data.name}; the table has their figures."
            picture = pictures.curves(data, standing)
            yield Block(data.name if several else "", tables.points(data), picture, alt, folded="The curves in numbers")
            yield Block("", tables.needs(data, standing))


def _standing(report: Report, data: DataSet) -> list[str]:
    """Return the systems that stand for a side of a question, the first questions first."""
    here = [one for one in report.verdict if one.data == data.name]
    return list(dict.fromkeys(name for one in here for name in (one.left, one.right)))


def _reliabilities(report: Report, several: bool) -> Iterable[Block]:
    for data in report.data:
        if picture := pictures.reliability(data):
            alt = f"Confidence against accuracy on {data.name}: {', '.join(data.reliability)}."
            yield Block(data.name if several else "", None, picture, alt)


def _examples(report: Report, several: bool) -> Iterable[Block]:
    for data in report.data:
        if data.disagreement:
            for title, table in tables.disagreements(data.disagreement):
                yield Block(f"{data.name}. {title}" if several else title, table, wide=True)


def _made(report: Report) -> Iterable[Block]:
    yield Block("", tables.made(report), wide=True)
    if about := tables.about(report):
        yield Block("The systems", about, folded="What each system is", wide=True)
    if chosen := tables.chosen(report):
        yield Block("Chosen settings", chosen, folded="What was chosen on dev", wide=True)
    if settings := tables.settings(report):
        yield Block("Settings", settings, folded="The settings of the networks", wide=True)
    trouble = {**{f"{text}": f"{count}" for text, count in report.warnings.items()}, **dict.fromkeys(report.notes, "")}
    if report.counts["broken"]:
        trouble["Lines of results.jsonl that could not be read"] = f"{report.counts['broken']}"
    if trouble:
        lines = tuple(tables.Line((tables.word(text), tables.Cell(count))) for text, count in trouble.items())
        yield Block("Warnings", tables.Table(("Warning", "Times"), lines), wide=True)


def _questions(report: Report) -> list[AnsweredQuestion]:
    found: dict[str, list[Answer]] = {}
    for one in report.verdict:
        found.setdefault(one.question, []).append(one)
    return [
        AnsweredQuestion(group[0].asks, report.over_data.get(name, ""), tuple(group)) for name, group in found.items()
    ]


def _summary(report: Report) -> str:
    systems = {row.system for data in report.data for row in data.rows}
    counts = report.counts
    parts = [
        f"{len(systems)} systems on {len(report.data)} data set{'s' * (len(report.data) != 1)}",
        f"{counts['done']} runs",
        *([f"{counts['failed']} failed"] if counts["failed"] else []),
        *([f"{counts['missing']} not run"] if counts["missing"] else []),
        *([f"{counts['broken']} broken line{'s' * (counts['broken'] != 1)}"] if counts["broken"] else []),
    ]
    return ", ".join(parts) + "."


def _csv(study: Study) -> str:
    """Return one row a run; what is nested in a line has a column each, as ``cost.latency_ms``."""
    rows = [_flat({key: value for key, value in run.line.items() if key not in NOT_IN_CSV}) for run in _sorted(study)]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _sorted(study: Study) -> list[Result]:
    return sorted(study.runs, key=lambda run: (run.data, run.system, -run.fraction, run.seed, run.fold or 0))


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key != "chosen":
            found |= _flat(value, f"{before}{key}.")
        else:
            found[before + key] = json.dumps(value) if isinstance(value, list | dict) else value
    return found


def _prose(text: str) -> Markup:
    """Write a sentence of the verdict: what is in brackets softer, and no number parted from its unit."""
    safe = re.sub(r"(?<=\d) (?=%)|(?<=\bp) (?=&lt;|=)|(?<=&lt;) (?=\d)|(?<==) (?=\d)", "\u00a0", str(escape(text)))
    return Markup(re.sub(r"\(.*?\)", r'<span class="how">\g<0></span>', safe))  # noqa: S704  # escaped above


def _breaks(name: str) -> Markup:
    """Let a name of a system break after its "@" where it heads a narrow column."""
    return Markup(str(escape(name)).replace("@", "@<wbr>"))  # noqa: S704  # escaped


def _markdown_cell(text: str) -> str:
    """Write text so that it neither ends a cell nor is read as HTML."""
    line = " ".join(str(text).split())
    for mark, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`")):
        line = line.replace(mark, written)
    return re.sub(r"(?<!\w)_|_(?!\w)|!(?=\[)|(?<=\])\(", r"\\\g<0>", line)  # emphasis, pictures and links


_folder = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
_page = jinja2.Environment(loader=_folder, autoescape=True, undefined=jinja2.StrictUndefined)
_text = jinja2.Environment(
    loader=_folder,
    autoescape=False,  # noqa: S701  # Markdown: every value goes through the filter "cell"
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_page.filters |= {"prose": _prose, "breaks": _breaks}
_text.filters["cell"] = _markdown_cell
