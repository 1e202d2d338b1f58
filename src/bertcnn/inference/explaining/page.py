"""Explanations as HTML: a fragment for notebooks, and a page that asks the network for nothing.

It draws the JSON form of an explanation, so what ``bertcnn explain --json`` printed can be drawn
later, too. What users wrote is escaped by the template engine, never by hand.
"""

from collections.abc import Sequence
from typing import Any

from bertcnn.inference.templating import template
from bertcnn.text.cells import without_surrogates

SHOWN_PHRASES = 10
SHOWN_WORDS = 5
FAINT = 0.04
"""Words with less than this part of the greatest share are not coloured."""

MOST_CHARACTERS = 20_000
"""Of a text that is shown whole; of a longer one, what is around its strongest words."""

MOST_MARKED = 40
AROUND = 90
"""Of a longer one: so many of its strongest words, with so many characters on either side."""

Form = dict[str, Any]


def fragment(form: Form) -> str:
    """Return the picture of one explanation, with its style.

    Args:
        form: What ``Explanation.to_dict()`` returns.
    """
    return str(template("fragment.html.j2").render(one=view(form)))


def explanation_page(forms: Sequence[Form], *, title: str) -> str:
    """Return a page with the pictures of some explanations.

    Args:
        forms: What ``Explanation.to_dict()`` returns.
        title: Of the page.
    """
    views = [view(form) for form in forms]
    return str(template("page.html.j2").render(views=views, title=without_surrogates(title)))


def view(form: Form, shown_phrases: int = SHOWN_PHRASES) -> Form:
    """Return what is shown of an explanation: its form, and what is made of it.

    - ``rows``: the phrases with the greatest shares, each with its ``share`` and that as a ``part`` of the greatest;
    - ``rest``: ``count`` and ``share`` of the others;
    - ``against``, ``rounding``: in words;
    - ``marks``: :func:`marks`; ``left_out``: :func:`left_out`;
    - ``struck``: the text around what a counterfactual takes out.

    Args:
        form: What ``Explanation.to_dict()`` returns.
        shown_phrases: Most rows.
    """
    if not _is_clean(form["text"]):
        form = without_surrogates(form)  # moves no character
    why = form["why"]
    order = sorted(range(len(form["phrases"])), key=lambda i: -abs(why["shares"][i]))
    shown, rest = order[:shown_phrases], order[shown_phrases:]
    greatest = max((abs(why["shares"][i]) for i in shown), default=0.0)
    return {
        **form,
        "against": f"against {why['other']}" if why["other"] is not None else "",
        "marks": list(marks(form)),
        "rows": [
            {
                **form["phrases"][i],
                "text": shown_phrase(form["text"], form["phrases"][i]),
                "share": why["shares"][i],
                "part": abs(why["shares"][i]) / greatest if greatest else 0.0,
            }
            for i in shown
        ],
        "rest": {"count": len(rest), "share": sum(why["shares"][i] for i in rest)},
        "rounding": f"{why['residual']:.1e}".replace("-", "\u2212"),
        "struck": list(_struck(form)),
        "left_out": left_out(form),
    }


def _is_clean(text: str) -> bool:
    """Return whether UTF-8 can hold a text."""
    return text.isascii() or without_surrogates(text) == text


def marks(form: Form) -> list[Form]:
    """Return a text as stretches, each with its share of the decision and a strength from -1 to 1.

    Where words were left out, their effects stand in place of their shares. Stretches follow each
    other without a gap; of a very long text, what is around its strongest words, and ``gap`` is true
    where something is left out before.
    """
    text, shares = form["text"], _word_scores(form)
    greatest = max(map(abs, shares), default=0.0) or 1.0
    words = [(word, share) for word, share in zip(form["words"], shares, strict=True) if word["end"] > word["start"]]
    kept = _kept(text, words)
    found: list[Form] = []
    at = 0
    for low, high in kept:
        gap, at = low > at, max(low, at)  # the stretch before may have ended with a word that reaches into this one
        for word, share in words:
            if word["end"] <= at or word["start"] >= high or abs(share) < FAINT * greatest:
                continue
            found.append(_stretch(text[at : word["start"]], gap=gap))
            found.append(_stretch(text[word["start"] : word["end"]], share, share / greatest))
            gap, at = False, word["end"]
        found.append(_stretch(text[at : max(high, at)], gap=gap))
    if kept and kept[-1][1] < len(text):
        found.append(_stretch("", gap=True))
    return [one for one in found if one["text"] or one["gap"]]


def left_out(form: Form) -> list[tuple[str, float]]:
    """Return the words without which the margin changes most, and what it loses; none if none was left out."""
    effects = [
        (_short(word["text"]), e) for word, e in zip(form["words"], form["why"]["word_effects"], strict=True) if e
    ]
    return sorted(effects, key=lambda pair: -abs(pair[1]))[:SHOWN_WORDS]


def _word_scores(form: Form) -> list[float]:
    why = form["why"]
    if all(effect is None for effect in why["word_effects"]):
        return list(why["word_shares"])
    return [effect or 0.0 for effect in why["word_effects"]]


def _stretch(text: str, share: float = 0.0, strength: float = 0.0, *, gap: bool = False) -> Form:
    return {"text": text, "share": share, "strength": strength, "gap": gap}


def _kept(text: str, words: list[tuple[Form, float]]) -> list[tuple[int, int]]:
    """Return the stretches of a text that are shown, as characters."""
    if len(text) <= MOST_CHARACTERS:
        return [(0, len(text))]
    strongest = sorted(words, key=lambda pair: -abs(pair[1]))[:MOST_MARKED]
    spans: list[tuple[int, int]] = []
    for word, _ in sorted(strongest, key=lambda pair: pair[0]["start"]):
        low, high = max(word["start"] - AROUND, 0), min(word["end"] + AROUND, len(text))
        if spans and low <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(high, spans[-1][1])
        else:
            spans.append((low, high))
    return spans


def shown_phrase(text: str, phrase: Form) -> str:
    """Return a phrase with an ellipsis where it begins or ends inside a word, without line breaks.

    Of a very long one, such as a word of a thousand letters, its beginning and its end.
    """
    start, end = phrase["start"], phrase["end"]
    if start == end:
        return str(phrase["text"])
    before = "\u2026" if start > 0 and text[start - 1].isalnum() and text[start].isalnum() else ""
    after = "\u2026" if end < len(text) and text[end].isalnum() and text[end - 1].isalnum() else ""
    return before + _short(" ".join(text[start:end].split())) + after


def _struck(form: Form) -> list[Form]:
    """Return the text around what a counterfactual takes out of it, as stretches."""
    found = form["counterfactual"]
    if not found or not found["phrases"]:
        return []
    text, parts, at = form["text"], [], 0
    spans = sorted((one["start"], one["end"]) for one in found["phrases"])
    for start, end in spans:
        begin = max(start, at)
        if begin > at:
            parts.append({"text": _short(text[at:begin], first=at == 0), "out": False})
        if end > begin:
            parts.append({"text": _short(text[begin:end]), "out": True})
        at = max(at, end)
    parts.append({"text": _short(text[at:], last=True), "out": False})
    return [part for part in parts if part["text"]]


def _short(text: str, *, first: bool = False, last: bool = False) -> str:
    """Return what of a long stretch is near to its ends, or to the one that another stretch follows."""
    if len(text) <= 2 * AROUND:
        return text
    head, tail = ("" if first else text[:AROUND]), ("" if last else text[-AROUND:])
    return f"{head} \u2026 {tail}"
