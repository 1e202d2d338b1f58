"""Few texts a label, learned from with nothing left out: ours against SetFit and against what it sets out from.

    OMP_NUM_THREADS=1 python bench/fewshot.py --data ../shared/data --output runs/fewshot.jsonl
    python bench/fewshot.py --table runs/fewshot.jsonl

All start from the packaged encoder and see the same texts alone: ours take the texts that they choose on from among
them. SetFit is not among what the benches install: pip install setfit==1.2.0
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertcnn.inference.metrics import wilson
from bertcnn.network.encoder import resolve
from bertcnn.settings import Settings, change
from bertcnn.study.systems import fit, system
from bertcnn.text.dataset import load_examples, load_splits
from bertcnn.training.train import train

Answer = Callable[[Sequence[str]], Sequence[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", default="banking77_10shot", help="of the data: with train.csv and test.csv")
    parser.add_argument("--output", type=Path, default=Path("runs/fewshot.jsonl"))
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--table", type=Path, help="only show what a file holds, against its first system")
    options = parser.parse_args()
    if options.table:
        show([json.loads(line) for line in options.table.read_text().splitlines()])
        return
    options.output.parent.mkdir(parents=True, exist_ok=True)
    file = options.data / options.folder / "train.csv"
    test = load_examples(str(options.data / options.folder / "test.csv"), Settings().data)["train"]
    for seed in options.seeds:
        for name in options.systems:
            started = time.perf_counter()
            answer, chosen = SYSTEMS[name](file, seed)
            seconds = time.perf_counter() - started
            right = [int(one == label) for one, label in zip(answer(test.texts), test.labels, strict=True)]
            record = {
                "system": name,
                "set": options.folder,
                "seed": seed,
                "chosen": chosen,
                "seconds": round(seconds, 1),
            }
            with options.output.open("a") as stream:
                stream.write(json.dumps({**record, "ok": "".join(map(str, right))}) + "\n")
            print(name, seed, f"{100 * np.mean(right):.1f}, {seconds:.0f} s", chosen, flush=True)


def ours(**changes: Any) -> Callable[[Path, int], tuple[Answer, dict[str, Any]]]:
    def make(file: Path, seed: int) -> tuple[Answer, dict[str, Any]]:
        settings = change(Settings(), {**changes, "seed": seed, "test_fraction": 0.0, "report_to": "none"})
        trained = train(load_splits(str(file), settings.data, seed=seed), settings)
        chosen = {"depth": trained.settings.model.depth}
        return lambda texts: [str(one.label) for one in trained.predictor.predict(texts)], chosen

    return make


def mean_of_states(file: Path, seed: int) -> tuple[Answer, dict[str, Any]]:
    """What SetFit sets out from: the mean of the last states, and logistic regression at scikit-learn's defaults."""
    learned = load_examples(str(file), Settings().data)["train"]
    made = fit(system("bert-mean-frozen@all"), Settings(), {"C": 1.0}, learned, learned, seed=seed)
    return lambda texts: [str(made.classes_[k]) for k in made.predict_proba(texts).argmax(axis=1)], {}


def setfit(file: Path, seed: int) -> tuple[Answer, dict[str, Any]]:
    """An epoch of all pairs of like texts and as many of unlike ones, in batches of 16 pairs."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    learned = load_examples(str(file), Settings().data)["train"]
    model = SetFitModel.from_pretrained(resolve("minilm"))
    arguments = TrainingArguments(
        batch_size=(16, 2), num_epochs=(1, 1), sampling_strategy="undersampling", seed=seed,
        report_to="none", save_strategy="no", eval_strategy="no", output_dir="runs/setfit",
    )  # fmt: skip
    given = Dataset.from_dict({"text": list(learned.texts), "label": list(learned.labels)})
    Trainer(model=model, args=arguments, train_dataset=given).train()
    return lambda texts: [str(one) for one in model.predict(list(texts))], {"pairs": "undersampling"}


SYSTEMS: dict[str, Callable[[Path, int], tuple[Answer, dict[str, Any]]]] = {
    "mean of states": mean_of_states,
    "setfit": setfit,
    "ours, frozen": ours(method="frozen"),
    "ours, frozen, half": ours(method="frozen", depth="half"),
    "ours": ours(),
}


def show(records: Sequence[dict[str, Any]]) -> None:
    """Print accuracy with its interval over texts, and the difference from the first, each the mean over seeds."""
    right = {
        name: np.array([[int(x) for x in one["ok"]] for one in records if one["system"] == name], dtype=float)
        for name in dict.fromkeys(one["system"] for one in records)
    }
    first = next(iter(right.values())).mean(axis=0)
    for name, rows in right.items():
        texts = rows.mean(axis=0)
        low, high = wilson(round(float(texts.sum())), len(texts))
        difference = 100 * (texts - first)
        middle, half = difference.mean(), 1.96 * difference.std() / np.sqrt(len(texts))
        seconds = np.median([one["seconds"] for one in records if one["system"] == name])
        print(
            f"{name} ({len(rows)}): {100 * texts.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}], "
            f"{middle:+.1f} [{middle - half:.1f}, {middle + half:.1f}], {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
