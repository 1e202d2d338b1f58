"""A made-up study folder, in the formats of docs/design/0005-study.md."""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from bertcnn.study.plan import Run, make_plan, write_plan

LABELS = ["negative", "positive"]
SKILL = {
    "majority": 0.5,
    "tfidf": 0.80,
    "cnn-random": 0.78,
    "cnn-static": 0.83,
    "cnn-tuned": 0.84,
    "cnn-pieces": 0.82,
    "bert-mean-frozen@half": 0.86,
    "bert-cnn-frozen@half": 0.87,
    "bert-cnn-frozen@mix": 0.872,
    "bert-mean@all": 0.91,
    "bert-cnn@all": 0.915,
    "bert-cnn@half": 0.905,
}
SPEED = {"majority": 4e5, "tfidf": 2.4e4, "cnn-random": 3100, "cnn-static": 3000, "cnn-tuned": 2900, "cnn-pieces": 1800}
DEAR = {"bert-mean@all": 160, "bert-cnn@all": 150, "bert-cnn@half": 290, "bert-cnn-frozen@half": 270}
FAR = "far negation of good"
Key = tuple[str, str, int]


def make_study(
    folder: Path,
    *,
    data: Sequence[str] = ("sst2",),
    systems: Sequence[str] = tuple(SKILL),
    seeds: int = 1,
    fractions: Sequence[float] = (1.0,),
    texts: int = 200,
    skill: dict[str, float] | None = None,
    failed: Sequence[Key] = (),
    missing: Sequence[Key] = (),
    text: Callable[[int], str] = "Text number {} is here to be judged.".format,
) -> Path:
    """Write a study whose systems are right as often as ``skill`` says, on texts of shared difficulty."""
    plan = make_plan(
        {
            "data": [{"name": name, "source": f"{name}.csv"} for name in data],
            "systems": list(systems),
            "seeds": seeds,
            "fractions": list(fractions),
        }
    )
    for sub in ("outcomes", "texts"):
        (folder / sub).mkdir(parents=True)
    write_plan(plan, folder / "plan.toml")
    for name in data:
        _write_texts(folder, name, texts, text)
    with (folder / "results.jsonl").open("w") as file:
        for run in plan.runs():
            key = (run.data, run.system, run.seed)
            if key not in missing:
                line = _failed(run) if key in failed else _done(folder, run, texts, {**SKILL, **(skill or {})})
                file.write(json.dumps(line) + "\n")
    return folder


def _write_texts(folder: Path, name: str, texts: int, text: Callable[[int], str]) -> None:
    with (folder / "texts" / f"{name}.jsonl").open("w") as file:
        for i in range(texts):
            slices = {
                "length": ("up to 10 words", "11 to 25 words", "26 to 60 words")[i % 3],
                "negation": "yes" if i % 5 == 0 else "no",
                "label": LABELS[i % 2],
            }
            line = {"example": i, "text": text(i), "label": LABELS[i % 2], "slices": slices}
            file.write(json.dumps(line) + "\n")


def _done(folder: Path, run: Run, texts: int, skill: dict[str, float]) -> dict[str, Any]:
    own = np.random.default_rng(zlib.crc32(run.key.encode()))
    hard = np.random.default_rng(zlib.crc32(run.data.encode())).normal(size=texts)
    strength = skill[run.system] + 0.05 * np.log10(run.fraction)
    # Texts have a difficulty that all systems share, runs some luck of their own.
    worth = 0.8 * hard + 0.6 * own.normal(size=texts)
    right = worth < NormalDist().inv_cdf(strength) + 0.03 * own.normal()
    truth = np.arange(texts) % 2
    answers = np.where(right, truth, 1 - truth)
    sure = own.uniform(0.55, 0.99, texts).astype(np.float32)
    probabilities = np.where(np.arange(2) == answers[:, None], sure[:, None], 1 - sure[:, None])
    np.savez(
        folder / "outcomes" / f"{run.key}.npz",
        example=np.arange(texts),
        truth=truth,
        answers=answers,
        probabilities=probabilities.astype(np.float32),
    )
    deep = run.system.startswith("bert")
    cnn = "cnn" in run.system
    speed = DEAR.get(run.system, SPEED.get(run.system, 140))
    accuracy = float(right.mean())
    return {
        **_head(run),
        "status": "done",
        "error": None,
        "texts": {"train": round(6920 * run.fraction), "dev": 872, "test": texts},
        "trials": 4,
        "chosen": {"dropout": 0.5, "kernel_sizes": [1, 2, 3, 4]} if cnn else {},
        "dev": {"accuracy": strength, "macro_f1": strength, "micro_f1": strength, "log_loss": 0.3},
        "test": {"accuracy": accuracy, "macro_f1": accuracy, "log_loss": 0.3, "calibration_error": 0.031},
        "flips": {"typos": 0.11 if deep else 0.16, "lower case": 0.0, "neutral before": 0.04},
        "behaviour": {
            "near negation of good": {"cases": 40, "failures": 4 if deep else 17},
            FAR: {"cases": 40, "failures": 14 if deep else 38},
            "affirmative control": {"cases": 40, "failures": 1},
        },
        "transfer": {"cr": {"texts": 377, "accuracy": accuracy - 0.08, "macro_f1": accuracy - 0.09}},
        "cost": {
            "train_seconds": 640.0 if deep else 21.5,
            "predict_seconds": texts / speed,
            "texts_per_second": speed,
            "latency_ms": 1100 / speed,
            "flops_per_text": 1.07e9 if deep else 4.2e6 if cnn else None,
            "parameters": 22_713_216 if deep else 5_300_000 if cnn else None,
            "megabytes": 86.6 if deep else 20.2,
            "peak_megabytes": 1450 if deep else 610,
        },
        "progress": list(_progress(accuracy)) if cnn else [],
        "warnings": ["3 texts were longer than 512 word pieces."] if deep else [],
    }


def _failed(run: Run) -> dict[str, Any]:
    return {**_head(run), "status": "failed", "error": "MemoryError: 4 GiB asked, 2 GiB free"}


def _head(run: Run) -> dict[str, Any]:
    return {
        "schema": 1,
        "data": run.data,
        "system": run.system,
        "seed": run.seed,
        "fold": run.fold,
        "fraction": run.fraction,
        "labels": LABELS,
        "settings": {"method": "finetune"},
        "made": {
            "commit": "0123abc",
            "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
            "machine": "x86_64, 2 cores",
            "threads": 2,
            "when": f"2026-11-2{run.seed % 10}T10:00:00",
        },
        "fingerprint": f"{zlib.crc32(run.data.encode()):08x}" * 8,
    }


def _progress(final: float) -> Iterator[dict[str, float]]:
    for epoch in range(1, 6):
        yield {"epoch": epoch, "seconds": 12.5 * epoch, "dev": final * (1 - 0.2 / epoch**2)}
