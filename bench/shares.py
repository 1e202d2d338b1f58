"""Do many labels that begin with their shares of the training texts do better than from one half each? On dev texts.

`BERTCNN_DATA=DATA python bench/shares.py frozen --texts 600 3000 --seeds 4`: a line a training, as in
docs/studies/shares.jsonl; docs/design/0003-training.md tells what was found.
"""

import argparse
import json
import os
import random
from pathlib import Path
from unittest.mock import patch

import numpy as np

from bertcnn import Settings, train
from bertcnn.settings import DataSettings, change
from bertcnn.text.dataset import Examples, Splits, load_examples

COLUMNS = DataSettings(label="labels", separator="|")
OUTSIDE = 1500
EMPTY, SHORT = "", "ok"


def main() -> None:
    """Train with and without, on the same samples of GoEmotions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=["frozen", "finetune"])
    parser.add_argument("--texts", type=int, nargs="+", default=[600])
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    folder = Path(os.environ["BERTCNN_DATA"]) / "goemotions"
    whole = load_examples(str(folder / "train.csv"), COLUMNS)["train"]
    outside = load_examples(str(folder / "dev.csv"), COLUMNS)["train"].pick(range(OUTSIDE), "outside")
    for texts in options.texts:
        for seed in range(options.seeds):
            splits = sample(whole, texts, seed)
            for begins in ("half", "shares"):
                print(json.dumps(tried(splits, outside, options.method, seed, begins)), flush=True)


def sample(whole: Examples, texts: int, seed: int) -> Splits:
    """Return some texts, a tenth of them for dev, those with a label to be learned."""
    rows = random.Random(seed).sample(range(len(whole)), texts)
    learned = whole.pick(rows[texts // 10 :], "train")
    return Splits(learned, known(whole.pick(rows[: texts // 10], "dev"), learned))


def known(examples: Examples, learned: Examples) -> Examples:
    """Leave out texts with a label that is not among those to learn from."""
    names = {name for label in learned.labels for name in label}
    return examples.pick((i for i, label in enumerate(examples.labels) if set(label) <= names), examples.source)


def tried(splits: Splits, outside: Examples, method: str, seed: int, begins: str) -> dict[str, object]:
    """Train once; return its scores on texts outside, and how many labels it gives to texts without evidence."""
    settings = change(Settings(), {"method": method, "depth": 3, "seed": seed, "report_to": "none"})
    if begins == "half":
        with patch("bertcnn.training.train._begin_with_shares"):
            trained = train(splits, settings)
    else:
        trained = train(splits, settings)
    asked = known(outside, splits.train)
    scores = {name: round(one.value, 4) for name, one in trained.predictor.evaluate(asked).headlines.items()}
    empty, short, *others = (len(one.labels or ()) for one in trained.predictor.predict([EMPTY, SHORT, *asked.texts]))
    head = {"method": method, "texts": len(splits.train) + len(splits.dev), "seed": seed, "begins": begins}
    return {**head, **scores, "empty": empty, "short": short, "a_text": round(float(np.mean(others)), 3)}


if __name__ == "__main__":
    main()
