"""Speed against what a user would pick instead, on the same texts, machine and run.

    python bench/speed.py --data ../shared/data

Every measurement is a process of its own (so that its peak memory is its own), the systems in
turn, several rounds; a ratio is taken within a round, and its median over rounds is printed.
Batch sizes are each system's best on this machine, found in a round before. Run it alone.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

TEXTS = 1500
BATCHES = {"pipeline": (1, 8, 32, 128), "bertcnn": (512, 1024, 2048)}
GOALS = (
    # what, measured, against, at least
    ("predict, depth 3", "predict-half", "predict-pipeline", 3.5),
    ("predict, whole encoder", "predict-all", "predict-pipeline", 1.8),
    ("frozen epoch, cached, against the same depth", "epoch-cached", "epoch-encoding", 20.0),
    ("frozen epoch, cached, against the whole encoder", "epoch-cached", "epoch-encoding-all", 20.0),
    ("fine-tuning, depth 3", "finetune-half", "finetune-trainer", 2.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BERTCNN_DATA", "../shared/data")))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="one measurement, in this process")
    parser.add_argument("--batch", type=int, default=0)
    options = parser.parse_args()
    if options.only:
        rate, extra = SYSTEMS[options.only](read_texts(options.data), options.batch)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"rate": rate, "peak_mb": peak, **extra}))
        return
    best: dict[str, int] = {}
    for name in ("predict-pipeline", "predict-half", "predict-all"):
        sizes = BATCHES["pipeline" if "pipeline" in name else "bertcnn"]
        tried = {size: measure(name, options.data, size)["rate"] for size in sizes}
        best[name] = max(tried, key=tried.__getitem__)
        said = ", ".join(f"{size}: {rate:.0f}" for size, rate in tried.items())
        print(f"{name} at batch {said}; best {best[name]}", flush=True)
    rounds: list[dict[str, dict[str, Any]]] = [
        {name: measure(name, options.data, best.get(name, 0)) for name in SYSTEMS} for _ in range(options.rounds)
    ]
    print("\n| measurement | per second, median (min to max) | peak memory, MB | |\n|---|---|---|---|")
    for name in SYSTEMS:
        rates: list[float] = [one[name]["rate"] for one in rounds]
        notes = ", ".join(f"{k} {v}" for k, v in rounds[0][name].items() if k not in {"rate", "peak_mb"})
        chosen = f"batch {best[name]}" if name in best else ""
        peak = max(r[name]["peak_mb"] for r in rounds)
        middle = statistics.median(rates)
        print(f"| {name} {chosen} | {middle:.0f} ({min(rates):.0f} to {max(rates):.0f}) | {peak:.0f} | {notes} |")
    print("\n| ratio | median (min to max) | goal |\n|---|---|---|")
    for what, ours, theirs, goal in GOALS:
        ratios = [r[ours]["rate"] / r[theirs]["rate"] for r in rounds]
        print(f"| {what} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | >= {goal} |")


def measure(name: str, data: Path, batch: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--data", str(data), "--only", name, "--batch", str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def read_texts(data: Path) -> list[str]:
    from bertcnn.settings import DataSettings
    from bertcnn.text.dataset import load_examples

    return load_examples(str(data / "cr" / "all.csv"), DataSettings())["train"].texts


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def predict_pipeline(texts: list[str], batch: int) -> tuple[float, dict[str, Any]]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    from bertcnn.network.encoder import resolve

    place = resolve("minilm")
    model = AutoModelForSequenceClassification.from_pretrained(place)
    classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(place))
    classify(texts[:50], batch_size=batch, truncation=True)
    return TEXTS / timed(lambda: classify(texts[:TEXTS], batch_size=batch, truncation=True)), {}


def predict_ours(depth: Literal["half", "all"]) -> Callable[[list[str], int], tuple[float, dict[str, Any]]]:
    def run(texts: list[str], batch: int) -> tuple[float, dict[str, Any]]:
        from bertcnn import BertCNN, Predictor
        from bertcnn.network.encoder import load_tokenizer
        from bertcnn.settings import ModelSettings
        from bertcnn.text.tokens import plan_batches

        sizes = ModelSettings()
        model = BertCNN.from_encoder(
            "minilm",
            depth=depth,
            num_filters=sizes.num_filters,
            kernel_sizes=sizes.kernel_sizes,
        )
        tokenizer = load_tokenizer("minilm")
        predictor = Predictor(model, tokenizer, max_tokens=batch or None)
        predictor.predict(texts[:50])
        seconds = timed(lambda: predictor.predict(texts[:TEXTS]))
        lengths = tokenizer(texts[:TEXTS]).lengths
        plan = plan_batches(lengths, model.config.windowing, max_tokens=batch or 1024, reach=3)
        padded = sum(sum(len(p.rows) for p in parts) * parts[0].rows.shape[1] for parts in plan)
        return TEXTS / seconds, {"padding wasted": f"{1 - lengths.sum() / padded:.1%}"}

    return run


def trained_epochs(texts: list[str], epochs: int, **values: object) -> tuple[float, float]:
    """Return examples a second of training alone, and seconds of encoding."""
    from bertcnn.settings import Settings, change
    from bertcnn.text.dataset import Examples, Splits
    from bertcnn.training import train as module

    labels = [("negative", "positive")[i % 2] for i in range(len(texts))]
    everything = Examples(texts, list(labels))
    splits = Splits(everything.pick(range(TEXTS), "train"), everything.pick(range(TEXTS, TEXTS + 32), "dev"))
    settings = change(Settings(), {"report_to": ("none",), "epochs": epochs, "head_epochs": epochs, **values})
    encoding = 0.0
    encode = module.cached_states  # type: ignore[attr-defined]

    def watched(*arguments: Any, **options: Any) -> Any:
        nonlocal encoding
        started = time.perf_counter()
        found = encode(*arguments, **options)
        encoding = time.perf_counter() - started
        return found

    module.cached_states = watched  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as cache:
        trained = module.train(splits, change(settings, {"cache": cache}))
    seconds = next(float(str(h["train_runtime"])) for h in trained.history if "train_runtime" in h)
    return TEXTS * epochs / seconds, encoding * TEXTS / (TEXTS + 32)


def epoch_cached(texts: list[str], _: int) -> tuple[float, dict[str, Any]]:
    rate, encoding = trained_epochs(texts, 3, method="frozen", patience=9)
    return 1 / (TEXTS / rate), {"seconds": round(TEXTS / rate, 2), "encoding once, seconds": round(encoding, 2)}


def epoch_encoding(depth: Literal["half", "all"]) -> Callable[[list[str], int], tuple[float, dict[str, Any]]]:
    """Return an epoch over states that are made anew, as textbooks do: unsorted, padded."""

    def run(texts: list[str], _: int) -> tuple[float, dict[str, Any]]:
        return 1 / encode_and_train(texts, depth), {}

    return run


def encode_and_train(texts: list[str], depth: Literal["half", "all"]) -> float:
    """Return the seconds of an epoch of the head that encodes its texts."""
    import torch

    from bertcnn import BertCNN
    from bertcnn.network.encoder import load_tokenizer
    from bertcnn.network.model import batch_tensors
    from bertcnn.text.tokens import make_batch, segments

    model = BertCNN.from_encoder("minilm", depth=depth, freeze_encoder=True).train()
    tokenizer = load_tokenizer("minilm")
    pieces = tokenizer(texts[:TEXTS])
    optimizer = torch.optim.AdamW(model.head.parameters(), fused=True)
    labels = torch.tensor([i % 2 for i in range(TEXTS)])

    def epoch() -> None:
        order = torch.randperm(TEXTS).tolist()
        for i in range(0, TEXTS, 32):
            rows = order[i : i + 32]
            parts = [s for r in rows for s in segments(r, int(pieces.lengths[r]), model.config.windowing, reach=0)]
            ids, mask, _source, _mask = batch_tensors(make_batch(pieces, parts, pad_id=0))
            with torch.no_grad():
                states, _ = model.stitched_states(ids, mask, None)
            model.head(states, mask, labels[rows]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return timed(epoch)


def finetune_ours(texts: list[str], _: int) -> tuple[float, dict[str, Any]]:
    return trained_epochs(texts, 1, method="finetune")[0], {}


def finetune_trainer(texts: list[str], _: int) -> tuple[float, dict[str, Any]]:
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    from bertcnn.network.encoder import resolve

    place = resolve("minilm")
    tokenizer = AutoTokenizer.from_pretrained(place)
    items = [{**tokenizer(t, truncation=True), "labels": i % 2} for i, t in enumerate(texts[:TEXTS])]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=1, per_device_train_batch_size=32, report_to="none", save_strategy="no",
            disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(
            AutoModelForSequenceClassification.from_pretrained(place), arguments, train_dataset=items,
            data_collator=DataCollatorWithPadding(tokenizer),
        )  # fmt: skip
        return trainer.train().metrics["train_samples_per_second"], {}


SYSTEMS: dict[str, Callable[[list[str], int], tuple[float, dict[str, Any]]]] = {
    "predict-pipeline": predict_pipeline,
    "predict-half": predict_ours("half"),
    "predict-all": predict_ours("all"),
    "epoch-cached": epoch_cached,
    "epoch-encoding": epoch_encoding("half"),
    "epoch-encoding-all": epoch_encoding("all"),
    "finetune-half": finetune_ours,
    "finetune-trainer": finetune_trainer,
}

if __name__ == "__main__":
    main()
