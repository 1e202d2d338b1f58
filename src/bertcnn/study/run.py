"""One run of a study: a system chosen on dev, then shown the test split, then measured."""

import importlib.metadata
import math
import os
import platform
import random
import re
import subprocess
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from bertcnn.arrays import Floats64, Ints
from bertcnn.errors import BertCNNError, DataError, StudyError
from bertcnn.inference.metrics import SCORES, decide
from bertcnn.settings import Settings, all_settings, batch_for, change
from bertcnn.study.behaviour import applies_to, failures, load_cases
from bertcnn.study.cost import measure
from bertcnn.study.division import Division, divide, read_task, read_transfer
from bertcnn.study.evidence import SCHEMA
from bertcnn.study.perturb import ENGLISH_ONLY, PERTURBATIONS, perturbed
from bertcnn.study.plan import Plan, Run, find_source
from bertcnn.study.slices import is_english
from bertcnn.study.systems import FIXED, Classifier, System, Values, fit, network_settings, system
from bertcnn.text.dataset import Examples, normal_form

PERTURBED_TEXTS = 200
_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z-]+)")
NOT_ENGLISH = (
    "the texts do not seem to be English, so negation, contractions, added sentences and English cases are left out"
)
VERSIONS_OF = ("bertcnn", "torch", "transformers", "scikit-learn", "numpy")
CANDIDATE = "candidate"
"""Folder in the study's in which a run leaves its model, for the runner to keep or not."""

Record = dict[str, Any]


def work(plan: Plan, run: Run, folder: Path) -> Record:
    """Do one run and return its record; what goes wrong is in the record."""
    head: Record = {"schema": SCHEMA, **asdict(run), "status": "done", "error": None}
    try:
        return {**head, **_work(plan, run, folder)}
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:  # noqa: BLE001  # one failed run stops nothing else; its line says why
        said = str(error) if isinstance(error, BertCNNError) else "".join(traceback.format_exception(error)[-2:])
        line = " ".join(said.split()) or type(error).__name__
        return {**head, "status": "failed", "error": f"{type(error).__name__}: {line}", "made": made_by()}


@dataclass(frozen=True)
class _Fitted:
    """A final system."""

    system: Classifier
    chosen: Values
    seconds: float
    dev: dict[str, float]
    trials: int = 1

    @property
    def score(self) -> tuple[float, float]:
        """By which one is chosen: accuracy is coarse on a small dev split, so the log loss decides between equals."""
        return self.dev["accuracy"], -self.dev["log_loss"]


def _work(plan: Plan, run: Run, folder: Path) -> Record:
    table = read_task(plan.task(run.data))
    division = divide(table, run)
    fitted = _tune(plan, run, division)
    division.test.allow()
    test, ids = division.test.open()
    started = time.perf_counter()
    probabilities = np.asarray(fitted.system.predict_proba(test.texts))
    seconds = time.perf_counter() - started
    known = [str(label) for label in fitted.system.classes_]
    labels, probabilities = _with_unseen(known, probabilities, test)
    truth = _truth(test, labels)
    answers = decide(probabilities, many=False)
    _save_outcomes(run.outcomes_in(folder), example=ids, truth=truth, answers=answers, probabilities=probabilities)
    trained = getattr(fitted.system, "trained_", None)
    if trained is not None:
        from bertcnn.training.save import save

        save(trained, folder / CANDIDATE, overwrite=True)
    cost = measure(fitted.system, test.texts, train_seconds=fitted.seconds, predict_seconds=seconds)
    english = is_english(table.train.texts)
    transfer, seen = _transfer(plan, run, fitted.system, known, division) if run.fraction == 1 else ({}, [])
    return {
        "texts": {"train": len(division.train), "dev": len(division.dev), "test": len(test)},
        "labels": labels,
        "trials": fitted.trials,
        "chosen": fitted.chosen,
        "dev": fitted.dev,
        "test": _scores(truth, probabilities),
        "flips": _flips(fitted.system, test.texts, run.seed, english) if run.fraction == 1 else None,
        "behaviour": _behaviour(fitted.system, known) if run.fraction == 1 and english else None,
        "transfer": transfer,
        "cost": asdict(cost),
        "progress": _curve(fitted.system),
        "settings": settings_of(plan, run, fitted.chosen, train=len(division.train)),
        "made": made_by(),
        "fingerprint": division.fingerprint,
        "warnings": [
            # They name flags of `train`, which here are settings: --set epochs=5.
            *(
                _FLAG.sub(lambda flag: flag[1].replace("-", "_"), said)
                for said in (trained.warnings if trained else [])
            ),
            *(
                f"{count:,} {'text is' if count == 1 else 'texts are'} in both {pair}"
                for pair, count in division.leaks.items()
            ),
            *seen,
            *([] if english else [NOT_ENGLISH]),
            *(f"label {name!r} is in test and not in train" for name in labels if name not in known),
        ],
    }


def _tune(plan: Plan, run: Run, division: Division) -> _Fitted:
    """Try ``plan.tune`` settings on dev, the ladder's own first; keep the best."""
    one, base = system(run.system), _base(plan)
    own = _own(plan, one)
    # What the study sets is not to be tuned.
    space = {name: choices for name, choices in one.space.items() if name not in own and len(choices) > 1}
    best: _Fitted | None = None
    tried: dict[str, float] = {}

    def attempt(values: Values) -> float:
        nonlocal best
        key = repr(sorted(values.items()))
        if key in tried:
            return tried[key]
        started = time.perf_counter()
        made = fit(
            one,
            base,
            {**own, **values},
            division.train,
            division.dev,
            seed=run.seed,
            vectors=_vectors(plan),
            also_encode=division.also_encode,
        )
        seconds = time.perf_counter() - started
        labels = [str(label) for label in made.classes_]
        dev = _scores(_truth(division.dev, labels), np.asarray(made.predict_proba(division.dev.texts)))
        found = _Fitted(made, values, seconds, dev)
        if best is None or found.score > best.score:
            best = found
        tried[key] = dev["accuracy"]
        return tried[key]

    if plan.tune == 1 or not space:
        attempt({})
    else:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        search = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=run.seed))
        search.enqueue_trial(dict.fromkeys(space, 0))
        while len(tried) < min(plan.tune, math.prod(map(len, space.values()))):
            trial = search.ask()
            picks = {name: trial.suggest_categorical(name, list(range(len(space[name])))) for name in space}
            search.tell(trial, attempt({name: space[name][pick] for name, pick in picks.items()}))
    assert best is not None
    return replace(best, trials=len(tried))


def _scores(truth: Ints, probabilities: Floats64) -> dict[str, float]:
    answers = decide(probabilities, many=False)
    return {name: score(truth, answers, probabilities) for name, score in SCORES.items()}


def _truth(examples: Examples, labels: Sequence[str]) -> Ints:
    place = {label: i for i, label in enumerate(labels)}
    unknown = next((label for label in examples.labels if label not in place), None)
    if unknown is not None:
        raise DataError(f"Label {unknown!r} of {examples.source} is not among the training labels.")
    return np.array([place[str(label)] for label in examples.labels], dtype=np.int64)


def _with_unseen(known: list[str], probabilities: Floats64, test: Examples) -> tuple[list[str], Floats64]:
    """Give labels that only the test split has a column of zeros: no system can be right there."""
    labels = sorted({*known, *map(str, test.labels)})
    full = np.zeros((len(probabilities), len(labels)))
    full[:, [labels.index(name) for name in known]] = probabilities
    return labels, full


def _flips(one: Classifier, texts: Sequence[str], seed: int, english: bool) -> dict[str, float]:
    """Return the share of answers that each perturbation changes, on some of the texts; of those that change any."""
    picked = random.Random(seed).sample(list(texts), min(PERTURBED_TEXTS, len(texts)))  # noqa: S311
    ways = [name for name in PERTURBATIONS if english or name not in ENGLISH_ONLY]
    changed = {name: made for name in ways if (made := perturbed(picked, name, seed=seed)) != picked}
    # In one go: what a change leaves as it was is computed once.
    table = np.asarray(one.predict_proba(list(chain(picked, *changed.values()))))
    answers, *others = table.argmax(axis=1).reshape(1 + len(changed), -1)
    return {name: float((found != answers).mean()) for name, found in zip(changed, others, strict=True)}


def _behaviour(one: Classifier, labels: Sequence[str]) -> dict[str, dict[str, int]] | None:
    if not applies_to(labels):
        return None
    cases = load_cases()
    answers = np.asarray(one.predict_proba([case.text for case in cases])).argmax(axis=1)
    tallies = failures(cases, [labels[k].lower() for k in answers])
    return {name: asdict(tally) for name, tally in tallies.items()}


def _transfer(
    plan: Plan, run: Run, one: Classifier, labels: Sequence[str], division: Division
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return the scores on other data sets, and warnings of texts there that were learned from or chosen on."""
    found, warnings = {}, []
    transfers = plan.task(run.data).transfer
    known = {normal_form(text) for text in (*division.train.texts, *division.dev.texts)} if transfers else set()
    for transfer in transfers:
        examples = read_transfer(transfer)
        if shared := sum(normal_form(text) in known for text in examples.texts):
            share = max(0.01, shared / len(examples))  # rounded, so that folds say the same
            warnings.append(f"{share:.0%} of the texts of transfer {transfer.name} are in train or dev, too")
        probabilities = np.asarray(one.predict_proba(examples.texts))
        scores = _scores(_truth(examples, labels), probabilities)
        found[transfer.name] = {
            "texts": len(examples),
            "accuracy": scores["accuracy"],
            "macro_f1": scores["macro_f1"],
        }
    return found, warnings


def _curve(one: Classifier) -> list[dict[str, float]]:
    """Return the dev score after each epoch, both stages of a training in a row."""
    trained = getattr(one, "trained_", None)
    if trained is None:
        return []
    curve: list[dict[str, float]] = []
    epochs, seconds = 0.0, trained.encoding_seconds
    stage = None
    for entry in trained.history:
        if "eval_accuracy" in entry:
            if entry["stage"] != stage and curve:
                epochs, seconds = curve[-1]["epoch"], curve[-1]["seconds"]
            stage = entry["stage"]
            curve.append(
                {
                    "epoch": epochs + entry["epoch"],
                    "seconds": round(seconds + entry["seconds"], 3),
                    "dev": entry["eval_accuracy"],
                }
            )
    return curve


def _base(plan: Plan) -> Settings:
    return change(Settings(), plan.given())


def _own(plan: Plan, one: System) -> Values:
    """Return what the plan says of a system: for a network also what it says of all; not its encoder.

    Raises:
        StudyError: It says what the system's name decides, or what the system does not know.
    """
    if one.settings is None:
        own = dict(plan.settings.get(one.name, {}))
        wrong = [name for name in own if name not in one.space]
        known = ", ".join(one.space) or "none"
    else:
        own = {name: value for name, value in plan.given(one.name).items() if name != "encoder"}
        own |= plan.settings.get(one.name, {})
        homes = {one.name: section for section, one in all_settings()}
        wrong = [name for name in own if name in FIXED or homes.get(name) == "data"]
        known = "settings of the network and its training, but for " + ", ".join(FIXED)
    if wrong:
        raise StudyError(f"{one.name}: {', '.join(wrong)} cannot be set. Expected: {known}.")
    return own


def _vectors(plan: Plan) -> str:
    return find_source(plan.vectors) if plan.vectors else ""


def settings_of(plan: Plan, run: Run, chosen: Values, *, train: int) -> Values:
    """Return all settings of a run, by name.

    Args:
        plan: What it says goes over the ladder's own.
        run: Which.
        chosen: What was tuned.
        train: Texts to learn from, by which the batches may go.
    """
    one = system(run.system)
    changes = {**_own(plan, one), **chosen}
    if one.settings is None:
        return {**one.defaults, **changes}
    settings = network_settings(one, _base(plan), changes, seed=run.seed, vectors=_vectors(plan))
    found = {**vars(settings.model), **vars(settings.training)}
    return {**found, "batch_size": batch_for(train)} if found["batch_size"] == "auto" else found


def check_system(one: System, plan: Plan) -> None:
    """Raise what can be known to be wrong before anything is trained."""
    own = _own(plan, one)
    if one.settings is None:
        return
    vectors = _vectors(plan)
    network_settings(one, _base(plan), own, seed=0, vectors=vectors)
    if "VECTORS" in str(one.settings.get("encoder")) and not Path(vectors).is_file():
        raise StudyError(f"No file of word vectors {vectors!r}, which {one.name} reads. Give --vectors FILE.")


def made_by() -> Record:
    """Return what made a record: versions, machine, commit, when."""
    from torch import get_num_threads

    return {
        "commit": _commit(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS_OF},
        "python": platform.python_version(),
        "machine": _machine(),
        "threads": get_num_threads(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    here = Path(__file__)
    tracked = ["git", "-C", str(here.parent), "ls-files", "--error-unmatch", here.name]
    command = ["git", "-C", str(here.parent), "describe", "--always", "--dirty"]
    try:
        if subprocess.run(tracked, capture_output=True, timeout=10, check=False).returncode:  # noqa: S603
            return None  # installed; what repository lies around it says nothing
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _machine() -> str:
    from torch import cuda

    gpu = f", {cuda.get_device_name()}" if cuda.is_available() else ""
    return f"{platform.machine()}, {os.cpu_count()} cores{gpu}"


def _save_outcomes(file: Path, **arrays: Any) -> None:
    draft = file.with_suffix(".draft.npz")
    np.savez_compressed(
        draft,
        example=np.asarray(arrays["example"], dtype=np.int64),
        truth=np.asarray(arrays["truth"], dtype=np.int64),
        answers=np.asarray(arrays["answers"], dtype=np.int64),
        probabilities=np.asarray(arrays["probabilities"], dtype=np.float32),
    )
    draft.replace(file)
