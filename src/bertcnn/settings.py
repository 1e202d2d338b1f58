"""The settings of a run: frozen dataclasses, filled by flags, a TOML file, or keywords.

Each setting is written once, here, with its meaning and its range: the command line's ``--help`` and the
estimator's parameters come from the same lines. A TOML file has the sections ``[data]``,
``[model]`` and ``[training]``; ``run.toml`` of a saved model is one.
"""

import math
import tomllib
from collections.abc import Callable
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import tomli_w
from pydantic import TypeAdapter, ValidationError

from bertcnn.errors import SettingsError, nearest

T = TypeVar("T")

BackendName = Literal["auto", "torch", "torch-bf16", "onnx", "onnx-int8"]
"""What runs a trained network; auto: the fastest that is there."""


@dataclass(frozen=True)
class Range:
    """What values a setting may have, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


POSITIVE = Range("more than 0", lambda value: value > 0)
NOT_NEGATIVE = Range("at least 0", lambda value: value >= 0)
UP_TO_HALF = Range("0 to 0.5", lambda value: 0 <= value <= 0.5)
BELOW_ONE = Range("0 to below 1", lambda value: 0 <= value < 1)
PIECES = Range("at least 8", lambda value: value >= 8)  # special pieces have room in it


def _setting(default: Any, meaning: str, within: Range | None = None) -> Any:
    return field(default=default, metadata={"help": meaning, "range": within})


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where texts and labels stand, and how they are divided."""

    text: str = _setting("text", "Column with the texts; several with commas between (title,body) are joined.")
    label: str = _setting(
        "label", "Column with the labels; several with commas between (food,price) hold 0 or 1, of one label each."
    )
    separator: str = _setting("", "Between labels, where a text can have many (such as '|'); empty: one label.")
    delimiter: str = _setting(
        "",
        "Between csv columns; empty: a comma, and a tab for .tsv.",
        Range("one character", lambda value: len(value) <= 1 or value == "\\t"),
    )
    encoding: str = _setting("utf-8", "Of csv, tsv and jsonl files.")
    dev_fraction: float = _setting(
        0.1, "Share of the training texts to choose on, where there is no dev file.", UP_TO_HALF
    )
    test_fraction: float = _setting(
        0.1, "Share of the training texts to test on, where there is no test file.", UP_TO_HALF
    )


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What the network is made of."""

    encoder: str = _setting(
        "minilm",
        "'minilm', a folder, a Hugging Face name; or 'words' (random word vectors), 'words:FILE' (.npz, .vec, "
        ".txt, .bin), 'pieces:NAME' (the input table of an encoder, without its layers).",
    )
    depth: int | Literal["half", "all", "half-or-all", "auto"] = _setting(
        "half-or-all",
        "Encoder layers to keep, from below: a number, half, all; half-or-all: half, but all where a head on them is "
        "better by more than a standard error, on dev or, where that is small, by a regression; auto: as few as do, by "
        "trying each (--tolerance).",
    )
    states: str = _setting("last", "States the convolution reads: last, mix (learned), concat-N (last N layers).")
    features: Literal["windows", "mean", "first"] = _setting(
        "windows", "What decides: windows (the convolution); the mean or first state (a plain linear head, to compare)."
    )
    num_filters: int = _setting(100, "Filters of each window width.", POSITIVE)
    kernel_sizes: tuple[int, ...] = _setting(
        (1, 2, 3, 4),
        "Window widths, in word pieces.",
        Range("widths >= 1", lambda value: bool(value) and min(value) >= 1),
    )
    dropout: float = _setting(0.5, "Share of features dropped in training.", BELOW_ONE)
    max_length: int = _setting(
        256,
        "Pieces encoded at once, if the encoder can; longer texts are read in overlapping windows.",
        PIECES,
    )
    overlap: int = _setting(32, "Pieces that neighbouring windows share, at most half of one.", NOT_NEGATIVE)
    vector_size: int = _setting(300, "Width of random word vectors.", POSITIVE)

    @property
    def searches_depth(self) -> bool:
        """Whether training chooses the depth."""
        return self.depth in {"auto", "half-or-all"}

    @property
    def layers(self) -> int | Literal["half", "all"]:
        """The depth, where something must know it.

        Raises:
            SettingsError: It is one that only training can make a depth of.
        """
        if self.searches_depth:
            raise SettingsError(
                f"depth is {self.depth!r}, which is chosen in training. Expected a number, half or all here."
            )
        return cast(int | Literal["half", "all"], self.depth)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How the network is trained."""

    method: Literal["frozen", "finetune", "head-then-finetune"] = _setting(
        "head-then-finetune", "frozen: the head on cached states; finetune: all; head-then-finetune: both in turn."
    )
    epochs: int = _setting(4, "Passes over the texts with the encoder trained.", POSITIVE)
    head_epochs: int = _setting(10, "Passes over cached states with the encoder frozen.", POSITIVE)
    batch_size: int | Literal["auto"] = _setting(
        "auto",
        "Texts a step; auto: 8 where there are fewer than 1,000 texts to learn from, else 32.",
        Range("auto, or more than 0", lambda value: value == "auto" or value > 0),
    )
    encoder_learning_rate: float = _setting(5e-5, "Of the encoder; word vectors take the head's.", POSITIVE)
    head_learning_rate: float = _setting(1e-3, "Of the head while the encoder is frozen, and in finetune.", POSITIVE)
    layer_decay: float = _setting(
        0.9,
        "Factor of the learning rate from each encoder layer to the one below.",
        Range("above 0, to 1", lambda value: 0 < value <= 1),
    )
    weight_decay: float = _setting(0.01, "Of AdamW.", NOT_NEGATIVE)
    warmup: float = _setting(
        0.1,
        "Share of the steps in which the learning rate rises; it falls linearly after.",
        Range("0 to 1", lambda value: 0 <= value <= 1),
    )
    max_gradient_norm: float = _setting(1.0, "Gradients are clipped to this norm.", POSITIVE)
    patience: int = _setting(
        0,
        "Keep the epoch with the best dev score, and stop after so many that are no better; 0: go through all and keep "
        "the last, which is better as a rule, for rates fall to the end.",
        NOT_NEGATIVE,
    )
    metric: Literal["auto", "accuracy", "macro_f1", "micro_f1", "log_loss"] = _setting(
        "auto",
        "Dev score that choices are made by: of the depth, of the head alone or fine-tuned, with patience of the "
        "epoch; auto: accuracy, or macro_f1 where texts have many labels.",
    )
    tolerance: float = _setting(
        0.3,
        "With depth auto: points of the dev score (hundredths) that the chosen depth may be below the best.",
        NOT_NEGATIVE,
    )
    budget_ms: float = _setting(
        0.0,
        "With depth auto: choose the depth, the filters and the backend that are best on dev among those that answer "
        "one text of median length in so many milliseconds here; 0: no limit.",
        NOT_NEGATIVE,
    )
    train_word_embeddings: bool = _setting(False, "Train the encoder's table of pieces as well.")
    class_weights: Literal["none", "balanced"] | tuple[float, ...] = _setting(
        "none",
        "Factors of the loss: none, balanced, or one number a label in order of its name.",
        Range("numbers above 0", lambda value: isinstance(value, str) or all(0 < one < math.inf for one in value)),
    )
    focal_gamma: float = _setting(0.0, "Exponent of the focal loss; 0 is cross entropy.", NOT_NEGATIVE)
    label_smoothing: float = _setting(0.0, "Share of the target spread over all labels.", BELOW_ONE)
    negation_contrasts: float = _setting(
        0.0,
        "Add so many times the training texts as far negations made of them (English, negative and positive only).",
        Range("0 to 5", lambda value: 0 <= value <= 5),
    )
    max_train_pieces: int = _setting(2048, "Longer texts are cut to this in training; never in prediction.", PIECES)
    precision: Literal["auto", "fp32", "bf16"] = _setting(
        "auto", "auto: bf16 on a GPU that has it; on a CPU bf16 pays where that has it (AMX, AVX512_BF16)."
    )
    gradient_accumulation: int = _setting(1, "Batches a step of the optimizer.", POSITIVE)
    gradient_checkpointing: bool = _setting(False, "Trade time for memory in the encoder.")
    report_to: tuple[str, ...] = _setting(("tensorboard",), "Where to log: tensorboard, wandb, mlflow, ..., or none.")
    cache: str = _setting("", "Folder for encoder states; empty: BERTCNN_CACHE, or ~/.cache/bertcnn/states.")
    seed: int = _setting(
        0, "Of splits, weights, order and dropout.", Range("0 to 4294967295", lambda value: 0 <= value < 2**32)
    )


def batch_for(texts: int) -> int:
    """Return the texts a step that ``batch_size = "auto"`` stands for: few texts would make too few steps.

    Source:
        docs/design/0012-few-texts.md.
    """
    return 8 if texts < 1000 else 32


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a run depends on, but for the texts.

    >>> change(Settings(), {"depth": "4", "kernel_sizes": "3,4,5"}).model.kernel_sizes
    (3, 4, 5)
    """

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()


WHOLE = {"half", "all", "half-or-all"}
"""Depths for which an encoder without layers is taken as it is."""

SECTIONS: dict[str, type] = {"data": DataSettings, "model": ModelSettings, "training": TrainingSettings}


def all_settings() -> list[tuple[str, "Field[Any]"]]:
    """Return every setting with the section it stands in; names are unique over sections."""
    return [(section, one) for section, kind in SECTIONS.items() for one in fields(kind)]


def change(settings: Settings, values: dict[str, Any]) -> Settings:
    """Return settings with some changed, by their bare names.

    Args:
        settings: To start from.
        values: Name to value; texts are read as TOML would read them, tuples also as ``3,4,5``.

    Raises:
        SettingsError: An unknown name, a wrong type, or a value out of range; all are named.
    """
    sections: dict[str, Any] = {name: asdict(getattr(settings, name)) for name in SECTIONS}
    homes = {one.name: section for section, one in all_settings()}
    unknown = [name for name in values if name not in homes]
    if unknown:
        raise SettingsError(" ".join(f"Unknown setting {n!r}.{nearest(n, homes)}" for n in unknown))
    for name, value in values.items():
        sections[homes[name]][name] = value
    return _validated(sections)


def read_settings(file: str | Path) -> Settings:
    """Read a TOML file over the defaults.

    Raises:
        SettingsError: The file is missing or broken, a section or setting unknown, a value wrong.
    """
    given = read_toml(file)
    faults = []
    sections: dict[str, Any] = asdict(Settings())
    for section, values in given.items():
        if section not in SECTIONS or not isinstance(values, dict):
            homes = [name for name, one in all_settings() if one.name == section]
            hint = f" It belongs under [{homes[0]}]." if homes else nearest(section, SECTIONS)
            faults.append(f"{file}: unknown section or setting {section!r}.{hint}")
            continue
        known = [one.name for one in fields(SECTIONS[section])]
        for name, value in values.items():
            if name in known:
                sections[section][name] = value
            else:
                faults.append(f"{file}: unknown setting {name!r} in [{section}].{nearest(name, known)}")
    if faults:
        raise SettingsError("\n".join(faults))
    return _validated(sections)


def read_toml(file: str | Path) -> dict[str, Any]:
    """Return what a TOML file says.

    Raises:
        SettingsError: The file is missing or broken.
    """
    try:
        return tomllib.loads(Path(file).read_text("utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"Cannot read the settings file {str(file)!r}: {error.strerror}.") from error
    except ValueError as error:
        raise SettingsError(f"{file} is not TOML: {error}.") from error


def write_settings(settings: Settings, file: str | Path) -> None:
    """Write all settings as TOML."""
    Path(file).write_text(tomli_w.dumps(asdict(settings)), "utf-8")


def _validated(sections: dict[str, Any]) -> Settings:
    for section, one in all_settings():
        home = sections[section]
        value = home[one.name]
        if isinstance(value, str) and "tuple" in str(one.type) and value not in {"none", "balanced"}:
            home[one.name] = [part.strip() for part in value.split(",") if part.strip()]
        elif isinstance(value, str) and "tuple[str" in str(one.type):
            home[one.name] = [value]
    adapter = TypeAdapter(Settings)
    try:
        settings = adapter.validate_python(sections)
        faults = _out_of_range(settings) + _at_odds(settings)
    except ValidationError as error:
        found: dict[tuple[str, str], list[str]] = {}
        for fault in error.errors():
            section, name = map(str, fault["loc"][:2])
            found.setdefault((name, repr(fault["input"])), []).append(fault["msg"])
            sections[section].pop(name, None)
        faults = [_fault(*given, says) for given, says in found.items()]
        faults += _out_of_range(adapter.validate_python(sections))  # of the others, so that all are named at once
    if faults:
        raise SettingsError("\n".join(faults))
    return settings


def _fault(name: str, given: str, says: list[str]) -> str:
    """Say what is wrong with a setting; one that can have several forms has a fault of each."""
    hint = next(one.metadata["help"] for _, one in all_settings() if one.name == name)
    why = f": {says[0][0].lower()}{says[0][1:]}" if len(says) == 1 else ", which it cannot be"
    return f"Setting {name!r} is {given}{why}. {hint}"


def _out_of_range(settings: Settings) -> list[str]:
    faults = []
    for section, one in all_settings():
        value, within = getattr(getattr(settings, section), one.name), one.metadata["range"]
        if within is not None and not within.holds(value):
            faults.append(_expected(one.name, value, within.words))
        elif one.type is float and not value < math.inf:
            faults.append(_expected(one.name, value, "a finite number"))
    return faults


def _at_odds(settings: Settings) -> list[str]:
    """Return the faults of settings that do not go together."""
    model, training = settings.model, settings.training
    kind = model.encoder.partition(":")[0]
    faults = []
    if kind in {"words", "pieces"} and model.depth not in WHOLE:
        faults.append(_expected("depth", model.depth, f"all: an encoder of {kind} has no layers to cut"))
    if training.budget_ms > 0 and model.depth != "auto":
        faults.append(_expected("budget_ms", training.budget_ms, "0, or depth = auto to choose by it"))
    return faults


def _expected(name: str, value: Any, wanted: str) -> str:
    return f"Setting {name!r} is {value!r}, expected {wanted}."
