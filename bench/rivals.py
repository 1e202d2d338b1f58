"""What is compared: ours by each backend, and what a user would pick instead. One small class each.

    python bench/rivals.py FOLDER NAME      a worker, asked by bench/inference.py

All run on the CPU with the threads the environment says. A rival's ``knobs`` are tried, and it is
measured at its best; ours runs as it comes.
"""
# ruff: noqa: D102  # what the methods give is told once, in System and Graph

import gc
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from corpora import CUT
from models import OURS, WHOLE
from worker import Answer, peak_megabytes, reset_peak, serve

BATCHES = (1, 8, 32, 64, 128)
Setting = dict[str, Any]


class System(ABC):
    """One way to classify texts.

    Attributes:
        says: What it is, for the table.
        knobs: Settings to try, the first of each to start from.
        reads: Most pieces of a text that it reads; None: all.
    """

    says: str
    knobs: ClassVar[dict[str, tuple[Any, ...]]] = {"batch": BATCHES}
    reads: ClassVar[int | None] = CUT

    @abstractmethod
    def load(self, folder: Path) -> Path:
        """Make it ready, and return the file its weights stand in."""

    @abstractmethod
    def classify(self, texts: list[str], setting: Setting) -> Sequence[Any]:
        """Return one answer a text, in the order of the texts."""

    def settle(self, settings: list[Setting]) -> None:  # noqa: B027  # most have nothing to let go
        """Let go of what was only tried: these are the settings it will be measured with."""

    def note(self) -> str:
        """Return what else a reader should know once it ran."""
        return ""


class Ours(System):
    """A trained :class:`bertcnn.Predictor`, as it comes."""

    knobs: ClassVar[dict[str, tuple[Any, ...]]] = {}
    reads = None

    def __init__(self, backend: Any, says: str) -> None:
        self.backend, self.says = backend, says

    def load(self, folder: Path) -> Path:
        from bertcnn import Predictor

        self.predictor = Predictor.load(folder / OURS, backend=self.backend)
        file = {"onnx": "model.onnx", "onnx-int8": "model.int8.onnx"}.get(self.backend, "model.safetensors")
        return folder / OURS / file

    def classify(self, texts: list[str], setting: Setting) -> Sequence[Any]:  # noqa: ARG002
        return self.predictor.predict(texts)


class Pipeline(System):
    """transformers' ``pipeline``; with ``is_sorted`` the user sorts the texts by length."""

    def __init__(self, says: str, *, is_sorted: bool, dtype: str = "float32") -> None:
        self.says, self.is_sorted, self.dtype = says, is_sorted, dtype

    def load(self, folder: Path) -> Path:  # noqa: ARG002
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

        from bertcnn.network.encoder import resolve

        place = Path(resolve("minilm"))
        model = AutoModelForSequenceClassification.from_pretrained(place, dtype=self.dtype)
        self.pipe = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(place))
        return place / "model.safetensors"

    def classify(self, texts: list[str], setting: Setting) -> Sequence[Any]:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i])) if self.is_sorted else range(len(texts))
        options = {"truncation": True, "max_length": CUT}
        found = self.pipe([texts[i] for i in order], batch_size=setting["batch"], **options)
        return [one for _, one in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]


class SentenceEmbedder(System):
    """sentence-transformers' ``encode`` and a logistic regression, which is what SetFit runs. It sorts by itself."""

    says = "sentence-transformers `encode` + logistic regression (SetFit)"

    def load(self, folder: Path) -> Path:
        import numpy as np
        from sentence_transformers import SentenceTransformer
        from sklearn.linear_model import LogisticRegression

        from bertcnn.network.encoder import resolve

        place = Path(resolve("minilm"))
        self.model = SentenceTransformer(str(place), device="cpu")
        self.model.max_seq_length = CUT
        some = json.loads((folder / "texts.json").read_text("utf-8"))["latency"]["texts"][:32]
        states = self.model.encode(some, show_progress_bar=False)
        self.head = LogisticRegression().fit(states, np.arange(len(states)) % 2)
        return place / "model.safetensors"

    def classify(self, texts: list[str], setting: Setting) -> Sequence[Any]:
        states = self.model.encode(texts, batch_size=setting["batch"], show_progress_bar=False)
        found: Sequence[Any] = self.head.predict(states)
        return found


class Graph(System):
    """The whole encoder and a linear layer as an ONNX graph: sorted by pieces, padded to the batch's longest."""

    def load(self, folder: Path) -> Path:
        from tokenizers import Tokenizer

        self.place = folder / WHOLE
        self.tokenizer = Tokenizer.from_file(str(self.place / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(CUT)
        self.opened: dict[str, Any] = {}
        return self.file({knob: values[0] for knob, values in self.knobs.items()})

    @abstractmethod
    def file(self, setting: Setting) -> Path:
        """Return the graph that a setting stands for."""

    def key(self, setting: Setting) -> str:
        """Return what tells apart settings that need a session of their own."""
        return self.file(setting).name

    def settle(self, settings: list[Setting]) -> None:
        kept = {self.key(setting) for setting in settings}
        self.opened = {key: one for key, one in self.opened.items() if key in kept}
        gc.collect()

    @abstractmethod
    def logits(self, batches: Iterator[tuple[Any, dict[str, Any]]], setting: Setting) -> Iterator[tuple[Any, Any]]:
        """Yield each batch's rows and logits."""

    def classify(self, texts: list[str], setting: Setting) -> Sequence[Any]:
        import numpy as np

        answers = np.zeros(len(texts), dtype=np.int64)
        for rows, logits in self.logits(self._batches(texts, setting["batch"]), setting):
            answers[rows] = logits.argmax(axis=1)
        return list(answers)

    def _batches(self, texts: list[str], batch: int) -> Iterator[tuple[Any, dict[str, Any]]]:
        import numpy as np

        rows = [one.ids for one in self.tokenizer.encode_batch_fast(texts)]
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        for start in range(0, len(order), batch):
            some = order[start : start + batch]
            ids = np.zeros((len(some), len(rows[some[0]])), dtype=np.int64)
            for line, i in enumerate(some):
                ids[line, : len(rows[i])] = rows[i]
            yield some, {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}


class OnnxRuntime(Graph):
    """ONNX Runtime's session, as Optimum runs it."""

    knobs: ClassVar[dict[str, tuple[Any, ...]]] = {"batch": BATCHES, "graph": ("fused", "optimizer")}

    def __init__(self, says: str, ending: str) -> None:
        self.says, self.ending = says, ending

    def file(self, setting: Setting) -> Path:
        return self.place / f"{setting['graph']}{self.ending}.onnx"

    def logits(self, batches: Iterator[tuple[Any, dict[str, Any]]], setting: Setting) -> Iterator[tuple[Any, Any]]:
        session = self._session(self.file(setting))
        for rows, feed in batches:
            yield rows, session.run(["logits"], feed)[0]

    def _session(self, file: Path) -> Any:
        import onnxruntime

        if file.name not in self.opened:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = _threads()
            options.log_severity_level = 3
            self.opened[file.name] = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return self.opened[file.name]


class OpenVino(Graph):
    """OpenVINO, in float32 or in what it takes by itself (bfloat16 where the processor has it)."""

    knobs: ClassVar[dict[str, tuple[Any, ...]]] = {
        "batch": BATCHES,
        "graph": ("plain", "optimizer"),
        "hint": ("LATENCY", "THROUGHPUT"),
    }

    def __init__(self, says: str, precision: str) -> None:
        self.says, self.precision, self.chosen = says, precision, ""

    def file(self, setting: Setting) -> Path:
        return self.place / f"{setting['graph']}.onnx"

    def logits(self, batches: Iterator[tuple[Any, dict[str, Any]]], setting: Setting) -> Iterator[tuple[Any, Any]]:
        queue = self._queue(self.key(setting), self.file(setting), setting["hint"])
        found: list[tuple[Any, Any]] = []
        queue.set_callback(lambda request, rows: found.append((rows, request.get_output_tensor(0).data.copy())))
        for rows, feed in batches:
            queue.start_async(feed, rows)
        queue.wait_all()
        yield from found

    def key(self, setting: Setting) -> str:
        return f"{self.file(setting).name} {setting['hint']}"

    def _queue(self, key: str, file: Path, hint: str) -> Any:
        import openvino

        if key not in self.opened:
            options = {"INFERENCE_NUM_THREADS": _threads(), "PERFORMANCE_HINT": hint}
            if self.precision:
                options["INFERENCE_PRECISION_HINT"] = self.precision
            model = openvino.Core().compile_model(str(file), "CPU", options)
            self.chosen = model.get_property("INFERENCE_PRECISION_HINT").to_string()
            self.opened[key] = openvino.AsyncInferQueue(model)
        return self.opened[key]

    def note(self) -> str:
        return f"computes in {self.chosen}"


class FastText(System):
    """fastText, trained on CR as it loads: the floor that a static model sets."""

    says = "fastText (static vectors, no encoder)"
    knobs: ClassVar[dict[str, tuple[Any, ...]]] = {}
    reads = None

    def load(self, folder: Path) -> Path:
        import fasttext

        file = folder / "fasttext.bin"
        if not file.exists():
            options = {"epoch": 10, "wordNgrams": 2, "bucket": 50_000, "thread": 1, "verbose": 0}
            fasttext.train_supervised(str(folder / "fasttext.txt"), **options).save_model(str(file))
        self.model = fasttext.load_model(str(file))
        return file

    def classify(self, texts: list[str], setting: Setting) -> Sequence[Any]:  # noqa: ARG002
        found: Sequence[Any] = self.model.predict([" ".join(text.split()) for text in texts])[0]
        return found


def _threads() -> int:
    from bertcnn.machine import threads

    return threads()


SYSTEMS: dict[str, System] = {
    "bertcnn-int8": Ours("onnx-int8", "**bertcnn**, depth 3, ONNX int8"),
    "bertcnn-onnx": Ours("onnx", "**bertcnn**, depth 3, ONNX fp32"),
    "bertcnn-torch": Ours("torch", "**bertcnn**, depth 3, torch fp32"),
    "bertcnn-bf16": Ours("torch-bf16", "**bertcnn**, depth 3, torch bf16"),
    "pipeline": Pipeline("transformers `pipeline`", is_sorted=False),
    "pipeline-sorted": Pipeline("transformers `pipeline`, texts sorted by hand", is_sorted=True),
    "pipeline-bf16": Pipeline(
        "transformers `pipeline` in bf16, texts sorted by hand", is_sorted=True, dtype="bfloat16"
    ),
    "sentence-transformers": SentenceEmbedder(),
    "ort": OnnxRuntime("ONNX Runtime fp32", ""),
    "ort-int8": OnnxRuntime("ONNX Runtime int8", ".int8"),
    "openvino": OpenVino("OpenVINO fp32", "f32"),
    "openvino-default": OpenVino("OpenVINO, its own precision", ""),
    "fasttext": FastText(),
}


class _Bench:
    """Answers of one system's worker."""

    def __init__(self, folder: Path, system: System) -> None:
        self.folder, self.system = folder, system
        self.corpora = json.loads((folder / "texts.json").read_text("utf-8"))

    def __call__(self, request: Answer) -> Answer:
        if request["do"] == "load":
            file = self.system.load(self.folder)
            return {"megabytes": file.stat().st_size / 1e6}
        if request["do"] == "settle":
            self.system.settle(request["settings"])
            return {}
        texts = self.corpora[request["texts"]]["texts"][: request.get("limit")]
        if request["do"] == "latency":
            return {"milliseconds": [1000 * self._seconds([text], request["setting"]) for text in texts]}
        reset_peak()
        seconds = self._seconds(texts, request["setting"])
        return {"seconds": seconds, "peak_mb": peak_megabytes(), "note": self.system.note()}

    def _seconds(self, texts: list[str], setting: Setting) -> float:
        started = time.perf_counter()
        answers = self.system.classify(texts, setting)
        took = time.perf_counter() - started
        if len(answers) != len(texts):
            raise ValueError(f"{len(answers)} answers to {len(texts)} texts")
        return took


if __name__ == "__main__":
    serve(_Bench(Path(sys.argv[1]), SYSTEMS[sys.argv[2]]))
