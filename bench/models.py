"""The models that are measured: ours, trained on CR once, and the whole encoder as rivals' graphs.

    python bench/models.py --data ../shared/data --folder runs/bench

What stands in the folder already is kept, ours if it has its accuracy.json; remove it to make it anew.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

OURS = "model"
SEEDS = range(5)
WHOLE = "whole"
GRAPHS = {
    # A graph of the whole encoder with mean pooling or [CLS], and a linear layer: file, how it was made.
    "fused": "our export of a mean-pooled model, attention fused",
    "optimizer": "torch's export of transformers' classifier, then onnxruntime.transformers.optimizer",
    "plain": "torch's export of transformers' classifier",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    faults: dict[str, str] = {}
    for name, make in (("ours", ours), ("whole", whole_graphs), ("fasttext", fasttext_lines)):
        try:
            make(options.folder, options.data)
        except Exception as error:  # noqa: BLE001  # systems without their graph say so in their rows
            faults[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            print(f"{name}: {faults[name]}")
    (options.folder / "faults.json").write_text(json.dumps(faults), "utf-8")


def ours(folder: Path, data: Path) -> None:
    """Train at depth 3 on CR, the encoder frozen, export, and score each backend on the test split.

    The first seed whose int8 graph is not refused; of CR's 340 dev texts two may decide that.
    """
    from bertcnn import Settings, load_splits, save, train
    from bertcnn.errors import ModelError
    from bertcnn.inference.export import export_onnx
    from bertcnn.settings import change

    place = folder / OURS
    scores = folder / "accuracy.json"
    if scores.exists():
        return
    for seed in SEEDS:
        settings = change(Settings(), {"method": "frozen", "depth": "3", "report_to": "none", "seed": seed})
        splits = load_splits(str(data / "cr" / "all.csv"), settings.data)
        shutil.rmtree(place, ignore_errors=True)
        save(train(splits, settings), place)
        try:
            export_onnx(place, int8=True, dev=splits.dev)
        except ModelError as error:
            print(f"seed {seed}: {error}")
            if seed == SEEDS[-1]:
                raise
        else:
            found = _scores(place, splits) | {"seed": seed}
            scores.write_text(json.dumps(found, indent=1), "utf-8")
            return


def _scores(place: Path, splits: Any) -> dict[str, Any]:
    """Return the accuracy of each backend, in percent, and the share of texts it answers as torch does."""
    from bertcnn import Predictor

    found: dict[str, Any] = {}
    wanted: list[str] = []
    backends: tuple[Any, ...] = ("torch", "torch-bf16", "onnx", "onnx-int8")
    for backend in backends:
        predictor = Predictor.load(place, backend=backend)
        said = [one.label for one in predictor.predict(splits.test.texts)]
        wanted = wanted or said
        right = sum(a == b for a, b in zip(said, splits.test.labels, strict=True))
        same = sum(a == b for a, b in zip(said, wanted, strict=True))
        found[backend] = {"accuracy": 100 * right / len(said), "as torch": 100 * same / len(said), "texts": len(said)}
    return found


def fasttext_lines(folder: Path, data: Path) -> None:
    """Write CR's training texts as fastText reads them."""
    from bertcnn import Settings, load_splits

    train = load_splits(str(data / "cr" / "all.csv"), Settings().data).train
    lines = [
        f"__label__{label} {' '.join(text.split())}" for text, label in zip(train.texts, train.labels, strict=True)
    ]
    (folder / "fasttext.txt").write_text("\n".join(lines) + "\n", "utf-8")


def whole_graphs(folder: Path, _: Path) -> None:
    """Write the whole encoder with an untrained linear layer, which is as fast as a trained one."""
    place = folder / WHOLE
    if (place / "done").exists():
        return
    place.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    _fused(place)
    _plain(place / "plain.onnx")
    _optimized(place / "plain.onnx", place / "optimizer.onnx")
    for name in ("fused", "optimizer"):
        dynamic(place / f"{name}.onnx", place / f"{name}.int8.onnx")
    (place / "done").write_text(f"{time.perf_counter() - started:.0f} s", "utf-8")


def dynamic(source: Path, file: Path) -> None:
    """Write a graph in int8 as ONNX Runtime's users do: scales of activations are taken as they come."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        file,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul"],
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
    )


def _fused(place: Path) -> None:
    from bertcnn import BertCNN
    from bertcnn.inference.export import export_onnx
    from bertcnn.network.encoder import load_tokenizer

    # Not LABEL_0, LABEL_1: Hugging Face leaves such names out of config.json.
    model = BertCNN.from_encoder("minilm", depth="all", features="mean", labels=["negative", "positive"])
    model.save_pretrained(place)
    load_tokenizer("minilm").save(place)
    export_onnx(place, texts=["A good one.", "Not what I had expected of them, and dear."])
    (place / "model.onnx").rename(place / "fused.onnx")


def _plain(file: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    from bertcnn.network.encoder import resolve

    model = AutoModelForSequenceClassification.from_pretrained(resolve("minilm"), attn_implementation="eager").eval()
    ids = torch.ones(3, 7, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    free = {0: torch.export.Dim("texts"), 1: torch.export.Dim("pieces")}
    program = torch.onnx.export(
        model,
        (ids, mask),
        dynamo=True,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes={"input_ids": free, "attention_mask": free},
        opset_version=20,
        optimize=True,
        external_data=False,
    )
    assert program is not None
    program.save(str(file))


def _optimized(source: Path, file: Path) -> None:
    from onnxruntime.transformers.optimizer import optimize_model

    better = optimize_model(str(source), model_type="bert", num_heads=12, hidden_size=384, opt_level=0)
    better.save_model_to_file(str(file))


if __name__ == "__main__":
    main()
