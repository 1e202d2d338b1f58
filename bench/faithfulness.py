"""Are the explanations faithful? Deletes the words they name, against what a user would pick instead.

    OMP_NUM_THREADS=1 python bench/faithfulness.py sst2-frozen --texts 200
    OMP_NUM_THREADS=1 python bench/faithfulness.py --page

Each name is a model of :mod:`trained`. One line a text goes to ``runs/explained``, where a run that was
stopped goes on. Methods take turns on each text, one text at a time and one thread, timed in CPU seconds
of this process, so that other work on the machine hits all alike. Forms of ours are chosen with
``--split dev``. ``--page`` writes the tables of docs/faithfulness.md from docs/studies/faithfulness.json.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import attributions
import forms
from attributions import Method
from bertcnn import Predictor
from bertcnn.arrays import Floats64
from bertcnn.inference.explaining.winners import words_of
from eraser import outcomes
from machine import describe
from trained import DATA, KEPT, ROOT, prepared

METHODS: dict[str, Method] = {
    "word shares, spread evenly": forms.even_shares,
    "shares x what survives alone": forms.surviving_shares,
    "shares by piece": forms.piece_shares,
    "head without the word's windows": forms.without_windows,
    "head without the word's states": forms.without_states,
    "blend: by piece + without states": forms.blend,
    "integrated gradients": attributions.integrated_gradients,
    "gradient x input": attributions.gradient_x_input,
    "LIME": attributions.lime,
    "SHAP (kernel)": attributions.shap,
    "leave-one-out": attributions.leave_one_out,
    "attention of [CLS]": attributions.attention,
    "attention rollout": attributions.rollout,
    "random": attributions.chance,
}
RIVAL = "integrated gradients"
SLOW = {"LIME", "SHAP (kernel)"}
NEEDS_WEIGHTS = {"attention of [CLS]", "attention rollout"}
MEASURES = ("comprehensiveness", "sufficiency", "flips", "needed")
DRAWS = 5_000
STUDY = ROOT / "docs" / "studies" / "faithfulness.json"
PAGE = ROOT / "docs" / "faithfulness.md"
BEGIN, END = "<!-- written by bench/faithfulness.py: begin -->", "<!-- written by bench/faithfulness.py: end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--words", type=int, default=80, help="longer texts are left out")
    parser.add_argument("--slow-texts", type=int, default=50, help="LIME and SHAP explain the first so many only")
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if options.name:
        torch.set_num_threads(1)
        predictor, splits = prepared(options.name, options.data)
        everything = splits.dev if options.split == "dev" else splits.test
        assert everything is not None
        texts = chosen(everything.texts, options.texts, options.words)
        file = KEPT / f"{options.name}-{options.split}-{options.words}.jsonl"
        rows = run(predictor, texts, options.methods, file, slow=options.slow_texts)
        found = {**summary(rows, options.methods), "together": together(predictor, texts)}
        print("\n".join(table(found)))
        if options.split == "test":
            made = {"words": options.words, "slow_texts": options.slow_texts, **describe(1), "rivals": versions()}
            keep(options.name, found, made)
    if options.page:
        write_page()


def chosen(texts: Sequence[str], count: int, words: int) -> list[str]:
    """Return some texts of 2 to so many words, by a fixed draw; more are the same ones and others."""
    fit = [text for text in dict.fromkeys(texts) if 2 <= len(words_of(text)) <= words]
    return [fit[i] for i in np.random.default_rng(0).permutation(len(fit))[:count]]


def run(
    predictor: Predictor, texts: list[str], methods: Sequence[str], file: Path, *, slow: int
) -> list[dict[str, Any]]:
    """Return for each text what each method is worth; what the file holds is not computed again."""
    done = [json.loads(line) for line in file.open(encoding="utf-8")] if file.exists() else []
    kept = {row["text"]: row for row in done}
    eager = eager_copy(predictor)
    for method in methods:  # the first call of a library is slow
        METHODS[method](eager if method in NEEDS_WEIGHTS else predictor, "A fair start.")
    with file.open("a", encoding="utf-8") as stream:
        for i, text in enumerate(texts):
            wanted = [method for method in methods if i < slow or method not in SLOW]
            if not set(wanted) <= set(kept.get(text, {"methods": ()})["methods"]):
                started = time.process_time()
                predictor.predict([text])
                alone = round(time.process_time() - started, 5)
                kept[text] = {"text": text, "prediction": alone, "methods": measured(predictor, eager, text, wanted)}
                stream.write(json.dumps(kept[text]) + "\n")
                stream.flush()
    return [kept[text] for text in texts]


def together(predictor: Predictor, texts: list[str]) -> dict[str, float]:
    """Return CPU seconds a text where all texts are given at once, as from a file."""
    ways: dict[str, Callable[[], object]] = {
        "prediction": lambda: predictor.predict(texts),
        "explain(), phrases and words": lambda: predictor.explain(texts),
        "shares by piece": lambda: [forms.by_piece(read) for read in forms.readings(predictor, texts)],
        "blend: by piece + without states": lambda: [forms.blended(r) for r in forms.readings(predictor, texts)],
    }
    found = {}
    for name, way in ways.items():
        started = time.process_time()
        way()
        found[name] = round((time.process_time() - started) / len(texts), 5)
    return found


def eager_copy(predictor: Predictor) -> Predictor:
    """Return the same model with attention that tells its weights."""
    from bertcnn import BertCNN

    model = BertCNN.from_pretrained(predictor.model.name_or_path)
    model.encoder.set_attn_implementation("eager")
    return Predictor(model, predictor.tokenizer)


def measured(predictor: Predictor, eager: Predictor, text: str, methods: Sequence[str]) -> dict[str, list[float]]:
    """Return for each method its outcomes, in the order of ``MEASURES``, and its CPU seconds."""
    scores: list[Floats64] = []
    seconds = []
    for method in methods:
        started = time.process_time()
        scores.append(METHODS[method](eager if method in NEEDS_WEIGHTS else predictor, text))
        seconds.append(time.process_time() - started)
    found = outcomes(predictor, [text] * len(methods), scores)
    return {
        method: [*(round(float(getattr(outcome, measure)), 5) for measure in MEASURES), round(took, 5)]
        for method, outcome, took in zip(methods, found, seconds, strict=True)
    }


def summary(rows: list[dict[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """Return of each method the means with their intervals, also of the difference to the rival on each text."""
    found = {}
    for method in methods:
        own = [row["methods"] for row in rows if method in row["methods"]]
        if not own:  # a slow one, left out
            continue
        values = np.array([row[method] for row in own])
        drawn = np.random.default_rng(0).integers(len(own), size=(DRAWS, len(own)))
        rival = np.array([row[RIVAL] for row in own])
        found[method] = {
            "texts": len(own),
            **{m: _interval(values[:, i], drawn) for i, m in enumerate(MEASURES)},
            "minus_rival": {m: _interval((values - rival)[:, i], drawn) for i, m in enumerate(MEASURES)},
            "seconds": round(float(values[:, -1].mean()), 5),
            "times_rival": round(float(values[:, -1].sum() / rival[:, -1].sum()), 5),
        }
    alone = round(float(np.mean([row["prediction"] for row in rows])), 5)
    return {"texts": len(rows), "mean_words": _mean_words(rows), "prediction_seconds": alone, "methods": found}


def _mean_words(rows: list[dict[str, Any]]) -> float:
    return round(float(np.mean([len(words_of(row["text"])) for row in rows])), 1)


def _interval(values: Floats64, drawn: Any) -> list[float]:
    """Return a mean and its 95 % interval, by drawing texts."""
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return [round(float(x), 4) for x in (values.mean(), low, high)]


def versions() -> dict[str, str]:
    """Return what explains instead of us."""
    return {name: version(name) for name in ("captum", "lime", "shap")}


def keep(name: str, found: dict[str, Any], made: dict[str, Any]) -> None:
    """Put a model's results into the study's file."""
    study = json.loads(STUDY.read_text("utf-8")) if STUDY.exists() else {}
    study[name] = {"made": made, **found}
    STUDY.write_text(json.dumps(study, indent=1, ensure_ascii=False) + "\n", "utf-8")


def table(found: dict[str, Any]) -> list[str]:
    """Return one model's table as Markdown, best comprehensiveness first."""
    heads = ("scores of words", "comprehensiveness", "less IG's", "sufficiency", "less IG's")
    lines = [f"| {' | '.join(heads)} | flips | to flip | ms | of IG's time |", "|---|---|---|---|---|---|---|---|---|"]
    for method, row in sorted(found["methods"].items(), key=lambda item: -item[1]["comprehensiveness"][0]):
        fewer = "" if row["texts"] == found["texts"] else f" ({row['texts']} texts)"
        cells = [method + fewer]
        for measure in ("comprehensiveness", "sufficiency"):
            cells += [_said(row[measure], ".3f"), _said(row["minus_rival"][measure], "+.3f")]
        cells += [f"{100 * row['flips'][0]:.0f} %", f"{100 * row['needed'][0]:.0f} %"]
        cells += [f"{1000 * row['seconds']:.1f}", _ratio(row["times_rival"])]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _said(values: list[float], form: str) -> str:
    mean, low, high = (format(value, form) for value in values)
    return f"{mean} [{low}, {high}]"


def _ratio(times: float) -> str:
    return f"1/{1 / times:.0f}" if times < 0.7 else f"{times:.1f}"


def section(name: str, found: dict[str, Any]) -> list[str]:
    """Return one model's part of the page."""
    made, texts = found["made"], found["texts"]
    sizes = f"--texts {texts} --words {made['words']} --slow-texts {made['slow_texts']}"
    command = f"OMP_NUM_THREADS=1 python bench/faithfulness.py {name} {sizes}"
    rivals = ", ".join(f"{rival} {number}" for rival, number in made["rivals"].items())
    rival = found["methods"][RIVAL]["seconds"]
    batch = ", ".join(f"{way} {1000 * took:.1f} ms ({_ratio(took / rival)})" for way, took in found["together"].items())
    return [
        f"### {name}",
        "",
        f"{texts} test texts of 2 to {made['words']} words, {found['mean_words']} in the mean. `{command}`;",
        f"{made['processor']}, one thread, load {made['load']}; {rivals}; commit {made['commit']}, {made['date']}.",
        "",
        *table(found),
        "",
        f"One text at a time, as above, a prediction alone takes {1000 * found['prediction_seconds']:.1f} ms. With all",
        f"texts given at once, a text (and of integrated gradients' time): {batch}.",
        "",
    ]


def write_page() -> None:
    """Put the tables between their marks in docs/faithfulness.md."""
    study = json.loads(STUDY.read_text("utf-8"))
    parts = [line for name, found in study.items() for line in section(name, found)]
    before, rest = PAGE.read_text("utf-8").split(BEGIN)
    PAGE.write_text(before + "\n".join([BEGIN, "", *parts]) + END + rest.split(END)[1], "utf-8")


if __name__ == "__main__":
    main()
