"""One stage of training: Hugging Face's Trainer, composed and not subclassed.

A stage trains either the head on cached states, or the whole model on pieces; both read the
same truth, keep the last epoch, or with patience the best on dev, and can be taken up again after a kill.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import EvalPrediction
from transformers.utils import is_torch_bf16_gpu_available

from bertcnn.arrays import Ints
from bertcnn.errors import SettingsError, TrainingError
from bertcnn.files import write_whole
from bertcnn.inference.calibration import fit_thresholds, probabilities_of
from bertcnn.inference.metrics import LOWER_IS_BETTER, SCORES, Truth, decide
from bertcnn.network.encoder import layer_of_parameters, quiet_transformers
from bertcnn.network.model import BertCNN, Head, batch_tensors
from bertcnn.network.states import States, uses_bf16
from bertcnn.network.vectors import WordVectors
from bertcnn.settings import TrainingSettings
from bertcnn.text.tokens import Pieces, Windowing, make_batch, segments
from bertcnn.training.callbacks import NOT_FINITE, Interruption

Item = dict[str, Any]

LOGS_AN_EPOCH = 10


class TextSet(Dataset[Item]):
    """Texts as Trainer wants them: pieces, truth, and their row among the pieces."""

    def __init__(self, pieces: Pieces, rows: Ints, truth: Truth, seed: int) -> None:
        self.pieces, self.rows, self.truth, self.seed = pieces, rows, truth, seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Item:
        row = int(self.rows[i])
        return {"input_ids": self.pieces[row], "labels": self.truth[i], "row": row}

    def set_epoch(self, epoch: int) -> None:
        """Give each epoch random numbers of its own, whatever came before.

        Trainer calls this right before it draws an epoch's order, after it restored the state of a
        checkpoint; so a run that was resumed goes through the same batches as one that was not.
        """
        torch.manual_seed(self.seed * 100_003 + epoch)


def collate_states(states: States) -> Callable[[Sequence[Item]], dict[str, Tensor]]:
    """Return what pads ready states to a batch for the head, gathered at once from where they are mapped."""

    def collate(items: Sequence[Item]) -> dict[str, Tensor]:
        rows = np.array([item["row"] for item in items])
        starts = states.starts[rows]
        lengths = states.starts[rows + 1] - starts
        columns = np.arange(max(1, lengths.max()))
        mask = columns < lengths[:, None]
        padded = np.zeros((*mask.shape, states.values.shape[1]), dtype=np.float32)
        padded[mask] = states.values[(starts[:, None] + columns)[mask]]
        return {"labels": _truth(items), "states": torch.from_numpy(padded), "mask": torch.from_numpy(mask)}

    return collate


def collate_pieces(windowing: Windowing, pad_id: int) -> Callable[[Sequence[Item]], dict[str, Tensor]]:
    """Return what pads pieces to a batch for the whole model, long texts in windows."""

    def collate(items: Sequence[Item]) -> dict[str, Tensor]:
        pieces = Pieces.of([item["input_ids"] for item in items])
        parts = [part for i, n in enumerate(pieces.lengths.tolist()) for part in segments(i, n, windowing, reach=0)]
        batch = make_batch(pieces, parts, pad_id=pad_id)
        input_ids, attention_mask, source, source_mask = batch_tensors(batch)
        # Labels first: Trainer counts the texts of a batch by the first tensor.
        inputs = {"labels": _truth(items), "input_ids": input_ids, "attention_mask": attention_mask}
        return inputs if batch.is_plain else {**inputs, "source": source, "source_mask": source_mask}

    return collate


def _truth(items: Sequence[Item]) -> Tensor:
    return torch.from_numpy(np.stack([item["labels"] for item in items]))


@dataclass(frozen=True)
class Stage:
    """What one stage trains on, and for how long."""

    name: str
    train: TextSet
    dev: TextSet
    collate: Callable[[Sequence[Item]], dict[str, Tensor]]
    epochs: int
    metric: str
    folder: Path


def run_stage(
    module: Head | BertCNN,
    stage: Stage,
    settings: TrainingSettings,
    callbacks: Sequence[TrainerCallback],
    *,
    resume: bool,
) -> list[dict[str, float]]:
    """Train a module in place and leave it with the weights of the epoch that is kept; return Trainer's log.

    A stage that was finished before the run was killed is not trained again.

    Raises:
        KeyboardInterrupt: Ctrl-C; a checkpoint was saved.
        SettingsError: Gradient checkpointing is asked for, and the encoder has none.
        TrainingError: A dev score is no number.
    """
    weights, note = stage.folder / "finished.safetensors", stage.folder / "finished.json"
    if resume and note.is_file():
        with suppress(ValueError):  # a note that a crash of the machine has emptied: the stage is gone through again
            log = list(json.loads(note.read_text("utf-8")))
            load_model(module, weights)
            return log
    if settings.gradient_checkpointing and isinstance(module, BertCNN):
        _spare_memory(module)
    trainer = Trainer(
        model=module,
        args=_arguments(stage, settings),
        data_collator=stage.collate,
        train_dataset=stage.train,
        eval_dataset=stage.dev,
        compute_metrics=score_epoch,
        optimizers=(make_optimizer(module, settings), None),
        callbacks=[*([EarlyStoppingCallback(settings.patience)] if settings.patience else []), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    last = _last_whole_checkpoint(stage.folder) if resume else None
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=last)
    if any(isinstance(callback, Interruption) and callback.wanted for callback in callbacks):
        raise KeyboardInterrupt
    module.eval()
    if trainer.is_world_process_zero():
        save_model(module, str(weights))
        write_whole(note, json.dumps(trainer.state.log_history))
    return list(trainer.state.log_history)


def _spare_memory(module: BertCNN) -> None:
    """Have an encoder compute its states again on the way back, instead of keeping them.

    Raises:
        SettingsError: It cannot.
    """
    if not module.supports_gradient_checkpointing:
        raise SettingsError(
            f"gradient_checkpointing is on, but {module.config.encoder.model_type} has none. Turn it off, and "
            "give a smaller --batch-size with a greater --gradient-accumulation if memory is short."
        )
    # Called gradient checkpointing before transformers 5.20, with a warning since.
    enable: Any = getattr(module, "activation_checkpointing_enable", module.gradient_checkpointing_enable)
    enable()


def _arguments(stage: Stage, settings: TrainingSettings) -> TrainingArguments:
    """Return what Trainer is told."""
    assert settings.batch_size != "auto", "train() chooses it"
    bf16 = uses_bf16(settings.precision)
    texts_a_step = settings.batch_size * settings.gradient_accumulation * processes()
    arguments = TrainingArguments(
        output_dir=str(stage.folder),
        num_train_epochs=stage.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        max_grad_norm=settings.max_gradient_norm,
        warmup_steps=settings.warmup if settings.warmup < 1 else 0.999,
        lr_scheduler_type="linear",
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,  # the best and the last; of 1, Trainer deletes the last when it ends, if only to stop
        load_best_model_at_end=settings.patience > 0,
        restore_callback_states_from_checkpoint=True,  # how many epochs were no better
        metric_for_best_model=stage.metric,
        greater_is_better=stage.metric not in LOWER_IS_BETTER,
        logging_nan_inf_filter=False,  # else the watchdog is told of an earlier loss
        logging_steps=max(1, len(stage.train) // texts_a_step // LOGS_AN_EPOCH),
        report_to=[name for name in settings.report_to if name != "none"] or "none",
        bf16=bf16,
        use_cpu=joins_on_cpu() or (bf16 and not is_torch_bf16_gpu_available()),
        seed=settings.seed,
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
    )
    # One process has one GPU, and more go by torchrun: torch's DataParallel would split windows from their texts.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def check_reports(settings: TrainingSettings) -> None:
    """Find out whether Trainer can log where it shall, before any work is done.

    Raises:
        SettingsError: It does not know the place, or a package is missing.
    """
    wanted = [name for name in settings.report_to if name != "none"]
    try:
        for make in get_reporting_integration_callbacks("all" if wanted == ["all"] else wanted):
            make()
    except (ValueError, RuntimeError, ImportError) as error:
        raise SettingsError(f"Cannot report to {', '.join(wanted)}: {error} Or give --report-to none.") from error


def processes() -> int:
    """Return how many processes train together (torchrun, accelerate)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def joins_on_cpu() -> bool:
    """Return whether this is one of several processes without a GPU: they are joined only if told to be on the CPU."""
    return processes() > 1 and not torch.cuda.is_available()


def _last_whole_checkpoint(folder: Path) -> str | None:
    """Return the newest checkpoint that was written to its end, and delete broken ones."""
    for place in sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True):
        try:
            json.loads((place / "trainer_state.json").read_text("utf-8"))  # Trainer writes it last
            return str(place)
        except (OSError, ValueError):
            shutil.rmtree(place)
    return None


def score_epoch(outcome: EvalPrediction) -> dict[str, float]:
    """Return the dev scores of an epoch, and which share of texts got the commonest answer.

    Where texts have many labels, thresholds are fitted first, as they will be in the end.

    Raises:
        TrainingError: A logit is no finite number.
    """
    logits = np.asarray(outcome.predictions, dtype=np.float32)
    if not np.isfinite(logits).all():
        what, value = "A score of a dev text after an epoch", logits[~np.isfinite(logits)][0]
        raise TrainingError(NOT_FINITE.format(what=what, value=value))
    truth = np.asarray(outcome.label_ids)
    many = truth.ndim == 2
    table = probabilities_of(logits, many=many)
    answers = decide(table, many=many, thresholds=fit_thresholds(table, truth) if many else None)
    scores = {name: score(truth, answers, table) for name, score in SCORES.items()}
    is_one = len(np.unique(truth, axis=0)) == 1  # then one answer is right
    commonest = 0.0 if is_one else np.unique(answers, axis=0, return_counts=True)[1].max() / len(answers)
    return {**scores, "commonest_answer": float(commonest)}


def make_optimizer(module: Head | BertCNN, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Return AdamW: the head at its rate, each encoder layer at the one above it times the decay.

    Word vectors are trained at the head's rate. Biases and norms are not decayed.

    Source:
        Sun et al. (2019), "How to Fine-Tune BERT for Text Classification?", sec. 5.3.4.
    """
    rates: dict[str, float] = {}
    if isinstance(module, BertCNN):
        base = settings.encoder_learning_rate
        heights = layer_of_parameters(module.encoder)
        top = max(heights.values(), default=0)
        if isinstance(module.encoder, WordVectors):
            base, top = settings.head_learning_rate, 0
        rates = {f"encoder.{n}": base * settings.layer_decay ** (top - h) for n, h in heights.items()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            decay = settings.weight_decay if weight.dim() > 1 else 0.0
            groups.setdefault((rates.get(name, settings.head_learning_rate), decay), []).append(weight)
    options = [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in groups.items()]
    return torch.optim.AdamW(options, fused=True)
