"""A trained model to a folder that appears when it is whole."""

import importlib.metadata
import json
import platform
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from bertcnn.errors import DISK_FULL, ModelError, TrainingError
from bertcnn.files import beside
from bertcnn.inference.export import export_onnx
from bertcnn.inference.golden import write_golden
from bertcnn.inference.metrics import Evaluation
from bertcnn.network.encoder import quiet_transformers
from bertcnn.network.folder import WEIGHTS
from bertcnn.settings import write_settings
from bertcnn.text.dataset import fingerprint_of
from bertcnn.training.depth import DepthCurve
from bertcnn.training.estimator import BertCNNClassifier
from bertcnn.training.output import check_output
from bertcnn.training.train import Trained

VERSIONS_OF = ("bertcnn", "torch", "transformers", "tokenizers", "numpy")


def save(
    trained: Trained | BertCNNClassifier,
    folder: str | Path,
    *,
    overwrite: bool = False,
    sources: Mapping[str, str | None] | None = None,
) -> None:
    """Write weights, tokenizer, settings, scores and a model card.

    Args:
        trained: What :func:`~bertcnn.training.train.train` returned, or a fitted classifier.
        folder: It appears under this name when all is written.
        overwrite: Replace a model that is there; the old one goes when the new one is whole.
        sources: What :func:`~bertcnn.text.dataset.load_splits` read the texts from, for ``bertcnn export`` to find
            the dev texts again.

    Raises:
        TrainingError: Something is there already that must not be replaced, or the folder cannot be written.
        TypeError: ``trained`` is neither.
    """
    made = getattr(trained, "trained_", trained)
    if not isinstance(made, Trained):
        raise TypeError(
            f"Expected what train() returned or a fitted BertCNNClassifier, got {type(trained).__name__}"
            f"{', which is not fitted yet' if isinstance(trained, BertCNNClassifier) else ''}."
        )
    place = check_output(folder, overwrite=overwrite).resolve()
    draft = old = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = beside(place)
        draft.mkdir()
        _write(made, draft, sources)
        if place.exists():
            old = beside(place)
            place.rename(old)
        try:
            draft.rename(place)
        except OSError:
            if old is not None:
                old.rename(place)
            raise
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk by an error of its own
        what = "Free some space or give" if _is_full(error) else "Give"
        raise TrainingError(
            f"Cannot write {folder}: {error}. Nothing was left half-written. {what} another --output."
        ) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        if old is not None and place.exists():  # else it holds the only model there is
            shutil.rmtree(old, ignore_errors=True)


def _is_full(error: Exception) -> bool:
    """Return whether a disk or a quota has no room left; safetensors tells the number in words only."""
    told = getattr(error, "errno", None)
    return told in DISK_FULL or any(f"os error {number}" in str(error) for number in DISK_FULL)


def _write(trained: Trained, folder: Path, sources: Mapping[str, str | None] | None) -> None:
    predictor = trained.predictor
    predictor.model.config.encoder._name_or_path = ""  # a path of this machine
    with quiet_transformers():
        predictor.model.save_pretrained(folder)
    (folder / WEIGHTS).chmod((folder / "config.json").stat().st_mode)  # safetensors makes it private
    predictor.tokenizer.save(folder)
    if trained.depth_curve is not None:
        _write_graphs(trained, folder, trained.depth_curve)
    write_settings(trained.settings, folder / "run.toml")
    scores = {
        "dev": trained.dev.to_dict(),
        "test": None if trained.test is None else trained.test.to_dict(),
        "temperature": trained.temperature,
        "seconds": round(trained.seconds, 1),
        "warnings": trained.warnings,
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS_OF},
        "python": platform.python_version(),
        "depth_curve": None if trained.depth_curve is None else trained.depth_curve.to_dict(),
        "history": trained.history,
        "sources": None if sources is None else dict(sources),
        "dev_sha256": None if trained.proof is None else fingerprint_of([trained.proof]),
    }
    (folder / "metrics.json").write_text(json.dumps(scores, indent=1) + "\n", "utf-8")
    (folder / "README.md").write_text(model_card(trained), "utf-8")
    write_golden(folder, "torch", predictor.in_one_batch().logits)


def _write_graphs(trained: Trained, folder: Path, curve: DepthCurve) -> None:
    """Write the graph by which the model keeps its budget; where it fails its proof, say so."""
    if curve.chosen.backend == "torch":
        return
    try:
        export_onnx(folder, int8=curve.chosen.backend == "onnx-int8", dev=trained.proof)
    except ModelError as error:
        said = (
            f"the budget of {curve.budget_ms:g} ms was to be kept by {curve.chosen.backend}, but: {error} "
            "The model is slower than was asked for."
        )
        if said not in trained.warnings:  # a model may be saved twice
            trained.warnings.append(said)
        if curve.chosen.backend == "onnx-int8":
            with suppress(ModelError):
                export_onnx(folder, dev=trained.proof)  # the next best


def model_card(trained: Trained) -> str:
    """Return the README of a model folder, with the front matter the Hugging Face hub reads."""
    config, settings = trained.predictor.model.config, trained.settings
    encoder = (
        f"{settings.model.encoder}, {config.num_hidden_layers} layer{'s' if config.num_hidden_layers != 1 else ''}"
    )
    widths = f"widths {', '.join(map(str, config.kernel_sizes))} x {config.num_filters} filters"
    head = {
        "windows": f"A convolution ({widths}) over the states",
        "mean": "A linear layer over the mean of the states",
        "first": "A linear layer over the first state",
    }[config.features]
    rows = [_score_row("dev", trained.dev)]
    if trained.test is not None:
        rows.append(_score_row("test", trained.test))
    kind = "any number of labels a text" if config.is_multi_label else "one label a text"
    warnings = "".join(f"\n> **Warning:** {warning}\n" for warning in trained.warnings)
    has_patience = settings.training.patience > 0
    chosen, epoch = ("The epoch, the", "the best of its epochs") if has_patience else ("The", "after its last epoch,")
    return f"""---
library_name: bertcnn
pipeline_tag: text-classification
tags: [bertcnn, text-classification]
---
# A text classifier made with bertcnn

{head} of
{encoder}, trained by `{settings.training.method}` in {trained.seconds:.0f} s. Labels ({kind}):
{", ".join(f"`{name}`" for name in config.label_names)}.
{warnings}
| split | texts | accuracy | macro F1 | log loss | calibration error |
|---|---|---|---|---|---|
{chr(10).join(rows)}

In brackets: 95 % intervals over the texts (accuracy: Wilson; the others: bootstrap). {chosen} temperature
({trained.temperature:.2f}, folded into the weights) and any thresholds were chosen on dev, so its scores flatter.
{"" if trained.depth_curve is None else _depth_section(trained.depth_curve, epoch)}
```python
from bertcnn import Predictor

predictor = Predictor.load("path/to/this/folder")
predictor.predict(["..."])[0].label
```

All settings are in `run.toml`, all scores in `metrics.json`. Texts of any length are read whole. The model has
seen only texts like its training texts; on others, measure before you trust it.
"""


def _depth_section(curve: DepthCurve, epoch: str) -> str:
    return f"""
## Why this depth

{curve.table()}

{curve.why} Each score is that of a head on
frozen states, {epoch} on dev. One text is the training text of median length
({curve.timed_pieces} pieces), alone, on the machine that trained; by a graph where torch is over the budget.
"""


def _score_row(name: str, scores: Evaluation) -> str:
    cells = [
        f"{scores.headlines[key].value:.3f} [{scores.headlines[key].low:.3f}, {scores.headlines[key].high:.3f}]"
        for key in ("accuracy", "macro_f1", "log_loss", "calibration_error")
    ]
    return f"| {name} | {scores.texts} | {' | '.join(cells)} |"
