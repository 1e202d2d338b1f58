"""What the web page shows, as HTML. All of it goes through templates that escape."""

from collections import Counter
from pathlib import Path
from typing import Any

from bertcnn.inference.explaining.page import fragment
from bertcnn.inference.templating import sure, template
from bertcnn.text.cells import without_surrogates

Form = dict[str, Any]

SHOWN_LABELS = 8


def draw(what: str, **values: Any) -> str:
    """Return one of the macros of ``web.html.j2``, filled."""
    macros = template("web.html.j2", "bertcnn.apps.web").module
    return str(getattr(macros, what)(**without_surrogates(values)))


def style() -> str:
    """Return the page's own CSS."""
    return (Path(__file__).parent / "templates" / "web.css").read_text("utf-8")


def script() -> str:
    """Return the page's own script, as HTML."""
    return str(template("web_head.html.j2", "bertcnn.apps.web").render())


def explanation(form: Form, *, name: str = "") -> str:
    """Return an explanation's answer with its probabilities, and the text with what decided.

    Args:
        form: What ``Explanation.to_dict()`` returns.
        name: Of the model, where several are shown.
    """
    return prediction(form["prediction"], name=name) + fragment(form)


def prediction(form: Form, *, name: str = "") -> str:
    """Return the probabilities of labels, the greatest first, the answer in bold.

    Args:
        form: What ``Prediction.to_dict()`` returns.
        name: Of the model, where several are shown.
    """
    held = form.get("labels", [form["label"]])
    found = sorted(form["probabilities"].items(), key=lambda pair: -pair[1])
    rows = [{"label": label, "part": p, "shown": sure(p), "holds": label in held} for label, p in found[:SHOWN_LABELS]]
    return draw("bars", rows=rows, rest=len(found) - len(rows), name=name)


def answer_bars(counts: Counter[str], *, heading: str) -> str:
    """Return how many rows got each answer, the commonest first."""
    total = max(counts.total(), 1)
    rows = [
        {"label": label or "(no label)", "part": n / total, "shown": f"{n:,}", "holds": True}
        for label, n in counts.most_common(SHOWN_LABELS)
    ]
    return draw("bars", rows=rows, rest=len(counts) - len(rows), name=heading)
