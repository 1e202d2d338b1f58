"""What watches a training run: progress, signs of failure, and being told to stop."""

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from statistics import fmean
from time import perf_counter
from types import FrameType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bertcnn.errors import TrainingError

COLLAPSED = (
    "{name} gives every dev text the same answer. Usual causes: labels out of balance ({balance}), a "
    "learning rate too high ({rate}, try a third), too few steps ({epochs}), or labels that do not belong to their "
    "texts."
)
VANISHED = (
    "{name} has gradients of almost zero. Usual causes: a learning rate that made the network saturate (lower {rate}, "
    "raise --warmup), or all of it frozen."
)
NOT_FINITE = (
    "{what} is {value}. Usual causes: a learning rate too high (--encoder-learning-rate, --head-learning-rate), or "
    "--precision bf16 on a machine without it."
)
SMALLEST_GRADIENT = 1e-6
UNKNOWN = "..."
"""For a number that there is none of yet."""


@contextmanager
def encoding_bar(console: Console, pieces: int) -> Iterator[Callable[[int], None]]:
    """Show how far the encoding of so many pieces is; yields what to call with the pieces done."""
    columns = (TextColumn("[bold]encoding"), BarColumn(bar_width=24), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=pieces)
        yield lambda done: bar.advance(task, done)


class ProgressBar(TrainerCallback):
    """A bar with loss, dev score and time left, shown while ``bar`` is entered; else a line an epoch."""

    def __init__(self, console: Console, name: str, metric: str) -> None:
        self.console, self.name, self.metric = console, name, metric
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.losses, self.score = list[float](), math.nan
        self.task: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.task = self.bar.add_task(self.name, total=state.max_steps, completed=state.global_step, said="")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        said = f"loss {self._loss()}  {self.metric} {self.score:.3f}"
        self.bar.update(self.task, completed=state.global_step, said=said.replace("nan", UNKNOWN))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        if "loss" in (logs or {}):
            self.losses.append(logs["loss"])

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **_: Any
    ) -> None:
        self.score = (metrics or {}).get(f"eval_{self.metric}", self.score)
        self.console.print(
            f"  {self.name} epoch {round(state.epoch or 0)}: loss {self._loss()}, dev {self.metric} {self.score:.3f}",
            highlight=False,
        )
        self.losses.clear()

    def _loss(self) -> str:
        """Return the mean since the last dev score: that of a few steps goes up and down."""
        return f"{fmean(self.losses):.3f}" if self.losses else UNKNOWN


class Clock(TrainerCallback):
    """Notes in Trainer's log how many seconds of training had gone by at each dev score."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        before = [entry["seconds"] for entry in state.log_history if "seconds" in entry]
        self.started = perf_counter() - (before[-1] if before else 0.0)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.log_history:
            state.log_history[-1]["seconds"] = round(perf_counter() - self.started, 3)


class Watchdog(TrainerCallback):
    """Says when a run fails in one of the usual ways.

    Args:
        name: Of the stage.
        is_weighted: Labels have weights already.

    Attributes:
        warnings: What was said, each once.
    """

    def __init__(self, name: str, *, is_weighted: bool = False) -> None:
        self.name, self.is_weighted = name, is_weighted
        self.warnings: list[str] = []
        self.small_gradients = 0
        self.collapsed = False

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        loss, norm = (logs or {}).get("loss"), (logs or {}).get("grad_norm")
        what, value = ("loss", loss) if norm is None or math.isfinite(norm) else ("gradient's norm", norm)
        if value is not None and not math.isfinite(value):
            where = f"The {what} of {self.name} at step {state.global_step}"
            raise TrainingError(NOT_FINITE.format(what=where, value=value))
        if norm is not None:
            self.small_gradients = self.small_gradients + 1 if norm < SMALLEST_GRADIENT else 0
            if self.small_gradients == 3 and (loss is None or loss > 0.01):
                self._say(VANISHED)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **_: Any
    ) -> None:
        self.collapsed = (metrics or {}).get("eval_commonest_answer", 0.0) >= 1.0

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.collapsed:
            self._say(COLLAPSED)

    def _say(self, what: str) -> None:
        trained = "encoder" if self.name == "finetune" else "head"
        epochs = "--epochs" if self.name == "finetune" else "--head-epochs"
        balance = "more texts of the rare ones" if self.is_weighted else "--class-weights balanced"
        said = what.format(name=self.name, rate=f"--{trained}-learning-rate", epochs=epochs, balance=balance)
        if said not in self.warnings:
            self.warnings.append(said)


class Interruption(TrainerCallback):
    """The first Ctrl-C saves a checkpoint and stops after the step; the second stops at once.

    So does being terminated, as by a machine's scheduler, and a terminal that is closed.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))  # Windows: none

    def __init__(self) -> None:
        self.wanted = False
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        with suppress(ValueError):  # not the main thread: signals do not come there
            for number in self.SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                    self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.wanted:
            control.should_training_stop = True
            control.should_save = not _is_whole(state)  # else it is saved after its score is known

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.wanted and not _is_whole(state):
            # The epoch was cut short: its score would be kept as if it were a whole one's.
            control.should_evaluate = control.should_save = False


def _is_whole(state: TrainerState) -> bool:
    """Return whether training stands at the end of an epoch."""
    return float(state.epoch or 0.0).is_integer()
