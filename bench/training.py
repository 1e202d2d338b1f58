"""Training against ``Trainer`` on the whole encoder: examples a second, and a whole training on CR.

python bench/training.py DATA NAME      a worker: ours, or trainer
"""

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from worker import Answer, Worker, WorkerError, serve

NAMES = ("ours", "trainer")
EXAMPLES = 256
"""Examples of one measurement of fine-tuning's speed."""

EPOCHS = 3
BATCH = 32


def measure(data: Path, folder: Path, *, rounds: int, threads: int, quick: bool) -> dict[str, Any]:
    """Return examples a second in rounds, then the seconds and accuracy of whole trainings."""
    (folder / "logs").mkdir(exist_ok=True)
    workers = {
        name: Worker(
            ["training.py", str(data), name],
            log=folder / "logs" / f"training-{name}.log",
            threads=threads,
            timeout_seconds=530,
        )
        for name in NAMES
    }
    found: dict[str, Any] = {"rates": {}, "whole": {}, "errors": {}}
    examples = 64 if quick else EXAMPLES
    try:
        ways: dict[str, list[tuple[str, dict[str, Any]]]] = {
            "ours": [("ours", {})],
            "trainer": [("trainer", {}), ("trainer-grouped", {"grouped": True})],
        }
        for name, worker in workers.items():
            _try(found, name, worker, do="rate", examples=BATCH)  # what is done only once
        for count in range(rounds):
            print(f"  fine-tuning, round {count + 1}", flush=True)
            for name, worker in workers.items():
                for label, options in ways[name]:
                    rate = _try(found, label, worker, do="rate", examples=examples, **options)
                    if rate:
                        found["rates"].setdefault(label, []).append(rate["rate"])
        rates = found["rates"]
        grouped = max(rates.get("trainer-grouped", [0])) > max(rates.get("trainer", [0]))
        for name, worker in workers.items():
            print(f"  whole training, {name}", flush=True)
            limit = 160 if quick else None
            found["whole"][name] = _try(found, name, worker, do="whole", limit=limit, grouped=grouped)
    finally:
        for worker in workers.values():
            worker.stop()
    return found


def _try(found: dict[str, Any], label: str, worker: Worker, **request: Any) -> Answer | None:
    try:
        return worker.ask(**request)
    except WorkerError as error:
        found["errors"][label] = str(error)
        print(f"    {label} failed: {error}", flush=True)
        return None


def _splits(data: Path) -> Any:
    """Return CR's splits, mixed: its file has all negative texts first, and rates are of the first texts."""
    from bertcnn import Settings, load_splits
    from bertcnn.text.dataset import Splits

    found = load_splits(str(data / "cr" / "all.csv"), Settings().data)
    assert found.test is not None
    draw = random.Random(0)
    mixed = [part.pick(draw.sample(range(len(part)), len(part)), name) for name, part in _named(found)]
    return Splits(*mixed)


def _named(splits: Any) -> list[tuple[str, Any]]:
    return [("train", splits.train), ("dev", splits.dev), ("test", splits.test)]


def _shorter(splits: Any, *, train: int | None, dev: int | None) -> Any:
    from bertcnn.text.dataset import Splits

    return Splits(
        splits.train.pick(range(min(train or len(splits.train), len(splits.train))), "train"),
        splits.dev.pick(range(min(dev or len(splits.dev), len(splits.dev))), "dev"),
        splits.test,
    )


def ours(splits: Any, request: Answer) -> Answer:
    """Fine-tune at depth 3 for a rate, or train the head on a frozen encoder with an empty cache."""
    from bertcnn import Settings
    from bertcnn.settings import change
    from bertcnn.text.dataset import Splits
    from bertcnn.training.train import train

    with tempfile.TemporaryDirectory() as cache:
        settings = change(Settings(), {"depth": "3", "report_to": "none", "cache": cache})
        if request["do"] == "rate":
            some = _shorter(splits, train=request["examples"], dev=BATCH)
            trained = train(Splits(some.train, some.dev, None), change(settings, {"method": "finetune", "epochs": "1"}))
            took = next(float(str(one["train_runtime"])) for one in trained.history if "train_runtime" in one)
            return {"rate": len(some.train) / took}
        started = time.perf_counter()
        trained = train(_shorter(splits, train=request["limit"], dev=None), change(settings, {"method": "frozen"}))
        seconds = time.perf_counter() - started
    assert trained.test is not None
    return {"seconds": seconds, "accuracy": 100 * trained.test.headlines["accuracy"].value}


def trainer(splits: Any, request: Answer) -> Answer:
    """Fine-tune the whole encoder with a linear head by ``Trainer``, at its defaults but for batches of 32."""
    limit = request.get("examples") or request.get("limit") or len(splits.train)
    epochs = 1 if request["do"] == "rate" else EPOCHS
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run, tokenizer, names = _trainer(splits, limit, epochs, grouped=bool(request.get("grouped")), folder=folder)
        took = run.train().metrics["train_runtime"]
        seconds = time.perf_counter() - started
        if request["do"] == "rate":
            return {"rate": limit / took}
        items = _items(tokenizer, splits.test, names)
        # Where texts are grouped by length, it answers in an order of its own, and its labels are in that order.
        outcome = run.predict(items)
    right = (outcome.predictions.argmax(axis=1) == outcome.label_ids).mean()
    return {"seconds": seconds, "accuracy": 100 * float(right), "grouped": bool(request.get("grouped"))}


def _trainer(splits: Any, limit: int, epochs: int, *, grouped: bool, folder: str) -> tuple[Any, Any, list[str]]:
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from bertcnn.network.encoder import resolve

    set_seed(0)
    place = resolve("minilm")
    tokenizer = AutoTokenizer.from_pretrained(place)
    names = sorted(set(splits.train.labels))
    arguments = TrainingArguments(
        folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        train_sampling_strategy="group_by_length" if grouped else "random",
    )
    run = Trainer(
        AutoModelForSequenceClassification.from_pretrained(place, num_labels=len(names)),
        arguments,
        train_dataset=_items(tokenizer, splits.train, names)[:limit],
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    return run, tokenizer, names


def _items(tokenizer: Any, examples: Any, names: list[str]) -> list[dict[str, Any]]:
    return [
        {**tokenizer(text, truncation=True), "labels": names.index(label)}
        for text, label in zip(examples.texts, examples.labels, strict=True)
    ]


if __name__ == "__main__":
    everything = _splits(Path(sys.argv[1]))
    serve(lambda request: {"ours": ours, "trainer": trainer}[sys.argv[2]](everything, request))
