"""The command ``explain``: which phrases of a text decided, on the terminal, as JSON, or as a page."""

import json
import unicodedata
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bertcnn.apps.options import (
    Delimiter,
    Device,
    Encoding,
    Model,
    Runner,
    Source,
    check_is_other,
    check_is_page,
    load_predictor,
    quiet,
    read_texts,
    reading,
    until_closed,
)
from bertcnn.apps.options import (
    Text as Column,
)
from bertcnn.apps.show import CONTROL, counted, err, out, printable
from bertcnn.errors import DataError, nearest

if TYPE_CHECKING:
    from bertcnn.inference.explaining.explanation import Explanation

TEXTS_AT_ONCE = 256
MOST_ON_A_PAGE = 500
SHOWN_PHRASES = 8
BAR = 12
LEVELS = (0.2, 0.5, 0.8)
"""Of a word's share, as parts of the greatest one: from where its mark is weak, middling, strong."""
UNSEEN = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})
"""Unicode's categories of spaces and of signs that have no shape."""

LEAST_TOLD = 1e-4
"""What is unexplained and less than that is rounding, and says nothing to who reads shares of two digits."""

STYLES = {
    True: ("green", "bold green", "bold black on green"),
    False: ("underline red", "bold underline red", "bold underline white on red"),
}
SIGNS = {True: "\u207a", False: "\u207b"}


def explain(
    model: Model,
    source: Source = "-",
    text: Column = None,
    label: Annotated[
        Optional[str], typer.Option(help="Explain this label, whatever was answered; default: the answer.")
    ] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="How much of each phrase is left without its context?")
    ] = False,
    counterfactual: Annotated[
        bool, typer.Option("--counterfactual", help="Without which phrases is the answer another?")
    ] = False,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="What is lost without each word, the text read again? Slow.")
    ] = False,
    threshold: Annotated[
        Optional[float], typer.Option(help="Below this confidence, say 'not sure' and why.", min=0, max=1)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
    html: Annotated[Optional[Path], typer.Option(help="Write a page of its own to this file.")] = None,
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = None,
    backend: Runner = "auto",
    device: Device = None,
) -> None:
    """Show which phrases decided, with their exact shares.

    Examples:
    `echo "The movie was not bad at all." | bertcnn explain models/reviews --counterfactual`

    `bertcnn explain models/reviews new.csv --text review --html why.html`

    Shares and bias add up to the margin of the answer over the next best one. A share is exact for what the filters
    read; the encoder has mixed the sentence into it, and `--audit` measures how much. Of a fine-tuned encoder
    `--leave-one-out` names the decisive words best.
    """
    quiet()
    if html is not None:
        check_is_other(html, source, "--html")
        check_is_page(html, "--html")
    predictor = load_predictor(model, backend, device)
    if label is not None and label not in predictor.label_names:
        known = ", ".join(map(repr, predictor.label_names))
        hint = nearest(label, predictor.label_names)
        raise DataError(f"--label is {label!r}, but the model knows {known}.{hint}")
    data = reading(model, source, text=text, encoding=encoding, delimiter=delimiter)
    texts = read_texts(source, data.text, encoding=encoding, delimiter=data.delimiter)
    forms: list[dict[str, Any]] = []
    number = 0
    with until_closed():
        while chunk := list(islice(texts, TEXTS_AT_ONCE)):
            asked = {"audit": audit, "counterfactual": counterfactual, "leave_one_out": leave_one_out}
            for one in predictor.explain(chunk, **asked, threshold=threshold):
                number += 1
                if html is not None and len(forms) < MOST_ON_A_PAGE:
                    forms.append(one.to_dict(label=label))
                if as_json:
                    typer.echo(json.dumps(one.to_dict(label=label)))
                elif html is None:
                    out.print(picture(one, label, coloured=out.color_system is not None and not out.no_color))
    if html is not None:
        _write(html, forms, f"Why {model.name} answers as it does", number)


def _write(file: Path, forms: list[dict[str, Any]], title: str, number: int) -> None:
    from bertcnn.files import write_whole
    from bertcnn.inference.explaining.page import explanation_page

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, explanation_page(forms, title=title))
    except OSError as error:
        raise DataError(f"Cannot write {file}: {error}. Give another --html FILE.") from error
    rest = f", the first of {number:,}" if number > len(forms) else ""
    err.print(f"{counted(len(forms))}{rest} on [bold]{escape(str(file))}[/].", highlight=False, soft_wrap=True)


def picture(explanation: "Explanation", label: str | None = None, *, coloured: bool = True) -> Group:
    """Return an explanation as a terminal shows it.

    Args:
        explanation: What to show.
        label: What it is about; None: the decision.
        coloured: False: words are marked by raised signs, not by colours.
    """
    from bertcnn.inference.explaining.page import view
    from bertcnn.text.cells import without_surrogates

    form = view(without_surrogates(explanation.to_dict(label=label)), SHOWN_PHRASES)
    parts: list[RenderableType] = [_headline(form)]
    refusal, checks = _refusal(form), (_audit(form), _counterfactual(form), _left_out(form))
    if refusal is not None:
        parts.append(Padding(refusal, (0, 0, 0, 2)))
    parts += [Padding(_coloured(form, coloured=coloured), (0, 0, 0, 2)), _table(form)]
    parts += [Padding(part, (0, 0, 1, 2)) for part in checks if part is not None]
    return Group(*parts)


def _headline(form: dict[str, Any]) -> Text:
    from bertcnn.inference.templating import sure

    prediction, why = form["prediction"], form["why"]
    line = Text()
    line.append(prediction["label"] or "(no label)", style="bold")
    line.append(f"  {sure(prediction['confidence'])} sure")
    against = "" if why["other"] is None else f" and not {why['other']}"
    return line.append(f"  (why {why['label']}{against})", style="dim")


def _refusal(form: dict[str, Any]) -> Text | None:
    from bertcnn.inference.templating import percent

    verdict = form["verdict"]
    if verdict is None or not verdict["reason"]:
        return None
    return Text(f"{verdict['answer']} at {percent(verdict['threshold'])}: {verdict['reason']}", style="yellow")


def _coloured(form: dict[str, Any], *, coloured: bool) -> Text:
    text = Text()
    for part in form["marks"]:
        if part["gap"]:
            text.append(" \u2026 ", style="dim")
        level = sum(abs(part["strength"]) >= least for least in LEVELS)
        speaks_for = part["strength"] > 0
        if not level:
            text.append(part["text"])
        elif coloured:
            text.append(part["text"], style=STYLES[speaks_for][level - 1])
        else:
            text.append(part["text"] + SIGNS[speaks_for] * level)
    text.plain = CONTROL.sub(" ", text.plain)  # of the same length, so styles stay where they are
    is_seen = any(unicodedata.category(sign) not in UNSEEN for sign in text.plain)
    return text if is_seen else Text("(blank text)" if text.plain else "(empty text)", style="dim")


def _table(form: dict[str, Any]) -> Padding:
    from bertcnn.inference.templating import percent, signed

    why, rest, audited = form["why"], form["rest"], form["audit"] is not None
    table = Table(show_edge=False, box=None, pad_edge=False)
    table.add_column("share", justify="right", style="bold", header_style="dim")
    table.add_column(f"{'against':>{BAR}} for", header_style="dim", no_wrap=True)
    if audited:
        table.add_column("alone", justify="right", header_style="dim")
    table.add_column("phrase", header_style="dim", overflow="fold")
    for row in form["rows"]:
        kept = [percent(row["survives"])] if audited else []
        table.add_row(signed(row["share"]), _bar(row["share"], row["part"]), *kept, Text(printable(row["text"])))
    blank = [""] * (1 + audited)
    if rest["count"]:
        others = f"{rest['count']} other phrase{'s' * (rest['count'] > 1)}"
        table.add_row(signed(rest["share"]), *blank, others, style="dim")
    table.add_row(signed(why["bias"]), *blank, "bias", style="dim")
    rounding = f"  unexplained {why['residual']:.0e}" if abs(why["residual"]) >= LEAST_TOLD else ""
    sum_up = Text.assemble((_margin(why), "bold"), (rounding, "dim"))
    table.add_row(signed(why["margin"]), *blank, sum_up)
    return Padding(table, (1, 0, 1, 2))


def _margin(why: dict[str, Any]) -> str:
    return f"{why['label']} over {why['other']}" if why["other"] is not None else f"{why['label']} in all"


def _bar(share: float, part: float) -> Text:
    """Return a bar to the left (against) or to the right (for), as long as this part of the greatest."""
    length = max(1, round(BAR * part)) if part else 0
    if share > 0:
        return Text(" " * BAR + "\u2502" + "\u2588" * length, style="green")
    return Text(" " * (BAR - length) + "\u2593" * length + "\u2502", style="red")


def _audit(form: dict[str, Any]) -> Text | None:
    from bertcnn.inference.templating import percent

    audit = form["audit"]
    if audit is None:
        return None
    return Text.assemble(
        f"Read alone, the phrases keep {percent(audit['survives'])} of their response; the answer would be ",
        (audit["label"] or "(no label)", "bold"),
        ".",
    )


def _counterfactual(form: dict[str, Any]) -> Text | None:
    found = form["counterfactual"]
    if found is None:
        return None
    if not found["phrases"]:
        return Text("No small set of phrases changes the answer.")
    from bertcnn.inference.explaining.page import shown_phrase
    from bertcnn.inference.templating import sure

    names = ", ".join(f"\u201c{printable(shown_phrase(form['text'], one))}\u201d" for one in found["phrases"])
    again = found["prediction"]
    line = Text.assemble("Without ", (names, "bold"), " the head says ", (found["label"] or "(no label)", "bold"))
    line.append("; no fewer phrases do that. " if found["is_smallest"] else ". ")
    line.append(f"The text read again without: {again['label'] or '(no label)'}, {sure(again['confidence'])} sure")
    return line.append(", so it changes there, too." if found["holds"] else ", so there the answer stays.")


def _left_out(form: dict[str, Any]) -> Text | None:
    from bertcnn.inference.templating import signed

    words = form["left_out"]
    if not words:
        return None
    line = Text("The text read again without a word, the margin loses most by ")
    for i, (word, effect) in enumerate(words):
        line.append(", " if i else "").append(f"\u201c{printable(word)}\u201d", style="bold")
        line.append(f" {signed(effect)}")
    return line.append(" (marked above).")
