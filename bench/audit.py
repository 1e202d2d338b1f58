"""What does a CNN see after BERT? How much of the filters' response is left when their windows are read alone.

    OMP_NUM_THREADS=1 python bench/audit.py sst2-frozen sst2-finetuned cr-frozen amazon-frozen --texts 500

Each name is a model of :mod:`trained`; its test texts are audited (:mod:`bertcnn.inference.explaining.audit`), by
window width, label, kind of phrase and phrase. Results go to docs/studies/faithfulness-audit.json.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertcnn import Predictor
from bertcnn.arrays import Bools, Floats64, Ints
from bertcnn.inference.explaining.audit import alone_features
from bertcnn.inference.explaining.explain import read_winners
from bertcnn.inference.explaining.winners import Winners
from bertcnn.study.slices import has_negation
from machine import describe
from trained import DATA, ROOT, prepared

STUDY = ROOT / "docs" / "studies" / "faithfulness-audit.json"
DRAWS = 2_000
TEXTS_AT_ONCE = 64
SEEN = 5
"""Texts in which a phrase must be found to be named."""

WEIGHTIEST = 150
"""Phrases, by the response they have in context over all texts, among which the most and least local are named."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = json.loads(STUDY.read_text("utf-8")) if STUDY.exists() else {}
    for name in options.names:
        predictor, splits = prepared(name, options.data)
        assert splits.test is not None
        rows = np.random.default_rng(0).permutation(len(splits.test))[: options.texts]
        texts = [splits.test.texts[i] for i in rows]
        truth = np.array([predictor.label_names.index(str(splits.test.labels[i])) for i in rows])
        study[name] = {"made": describe(1), **report(predictor, audited(predictor, texts), truth)}
        STUDY.write_text(json.dumps(study, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(json.dumps(study[name], indent=1, ensure_ascii=False))


@dataclass(frozen=True, eq=False)
class Audited:
    """A text, what its filters found, and what they find in the same windows read alone.

    Attributes:
        found: Windows and features.
        alone: Features of the windows read alone, ``(M,)``.
        logits: In context, and of the windows alone, ``(2, K)``.
    """

    found: Winners
    alone: Floats64
    logits: Floats64


def audited(predictor: Predictor, texts: list[str]) -> list[Audited]:
    """Return texts with their audit, in their order."""
    weight, bias = (array.astype(np.float64) for array in predictor.backend.classifier)
    done = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        winners, logits = read_winners(predictor, texts[start : start + TEXTS_AT_ONCE])
        alone = alone_features(predictor.backend, predictor.tokenizer, winners)
        for found, row, features in zip(winners, logits, alone, strict=True):
            done.append(Audited(found, features, np.stack([row, weight @ features + bias])))
    return done


def report(predictor: Predictor, done: list[Audited], truth: Ints) -> dict[str, Any]:
    """Return what survives, over all and by kind, and what the windows alone answer."""
    weight = predictor.backend.classifier[0].astype(np.float64)
    counts = np.ptp(weight, axis=0)  # how far a filter can move a decision, as in the product
    favours = np.array(predictor.label_names)[weight.argmax(axis=0)]
    answers = np.array([one.logits.argmax(axis=1) for one in done])
    widths = done[0].found.widths
    negated = np.array([has_negation(one.found.text) for one in done])
    said = np.array(predictor.label_names)
    return {
        "texts": len(done),
        "survives": survives(done, counts),
        "by width": {str(w): survives(done, counts * (widths == w)) for w in np.unique(widths)},
        "by label that the filters favour": {str(k): survives(done, counts * (favours == k)) for k in said},
        "by true label": {str(k): survives(_where(done, said[truth] == k), counts) for k in said},
        "texts with negation": survives(_where(done, negated), counts),
        "texts without negation": survives(_where(done, ~negated), counts),
        "phrases with negation": survives(done, counts, kind=True),
        "phrases without negation": survives(done, counts, kind=False),
        "alone answers the same": interval(answers[:, 0] == answers[:, 1]),
        "accuracy": interval(answers[:, 0] == truth),
        "accuracy of the windows alone": interval(answers[:, 1] == truth),
        "with negation: alone answers the same": interval((answers[:, 0] == answers[:, 1])[negated]),
        "with negation: accuracy": interval((answers[:, 0] == truth)[negated]),
        "with negation: accuracy of the windows alone": interval((answers[:, 1] == truth)[negated]),
        "phrases": named_phrases(done, counts),
    }


def _where(done: list[Audited], rows: Bools) -> list[Audited]:
    return [one for one, wanted in zip(done, rows, strict=True) if wanted]


def survives(done: Iterable[Audited], counts: Floats64, *, kind: bool | None = None) -> list[float] | None:
    """Return the share of the filters' response that survives, over all texts, with its 95 % interval over texts.

    None where there is no response.

    Args:
        done: Texts with their audit.
        counts: What each filter counts, ``(M,)``; 0 leaves it out.
        kind: Only windows whose phrase has a negation, or has none.
    """
    sums = []
    for one in done:
        weights = counts
        if kind is not None:
            has = np.array([*(has_negation(span.text) for span in one.found.phrases), False])
            weights = counts * (has[one.found.phrase_of] == kind)
        whole = weights * one.found.features
        sums.append((float((weights * np.minimum(one.alone, one.found.features)).sum()), float(whole.sum())))
    table = np.array(sums).reshape(-1, 2)
    if not table[:, 1].any():
        return None
    drawn = table[np.random.default_rng(0).integers(len(table), size=(DRAWS, len(table)))].sum(axis=1)
    drawn = drawn[drawn[:, 1] > 0]
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return [round(float(value), 4) for value in (table[:, 0].sum() / table[:, 1].sum(), low, high)]


def interval(values: Bools) -> list[float] | None:
    """Return a share and its 95 % interval, by drawing texts; None of no texts."""
    if not len(values):
        return None
    drawn = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return [round(float(value), 4) for value in (values.mean(), low, high)]


def named_phrases(done: list[Audited], counts: Floats64, most: int = 15) -> dict[str, Any]:
    """Return the phrases that survive most and least, of the weightiest in several texts: phrase, texts, survival."""
    left: dict[str, float] = defaultdict(float)
    whole: dict[str, float] = defaultdict(float)
    texts: dict[str, int] = defaultdict(int)
    for one in done:
        parts = one.found.by_phrase(counts * np.minimum(one.alone, one.found.features))
        wholes = one.found.by_phrase(counts * one.found.features)
        for span, part, all_of_it in zip(one.found.phrases, parts, wholes, strict=True):
            if span.end > span.start:
                key = span.text.lower()
                left[key] += float(part)
                whole[key] += float(all_of_it)
                texts[key] += 1
    known = sorted((key for key in texts if texts[key] >= SEEN), key=lambda key: -whole[key])[:WEIGHTIEST]
    ranked = sorted(([key, texts[key], round(left[key] / max(whole[key], 1e-12), 3)] for key in known), key=_survival)
    return {"least": ranked[:most], "most": ranked[::-1][:most], "counted": len(ranked)}


def _survival(row: list[Any]) -> float:
    return float(row[2])


if __name__ == "__main__":
    main()
