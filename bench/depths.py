"""What depth, backend, batch size and compilation do to speed and accuracy: a part of docs/benchmarks.md.

python bench/depths.py prepare --data ../shared/data     a model of each depth, with its graphs (kept)
python bench/depths.py measure --data ../shared/data     the figures; run it alone
python bench/depths.py worker FOLDER BACKEND             what is measured, asked by ``measure``
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from corpora import SOURCES, write_corpora
from machine import describe
from worker import Answer, Worker, serve

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- written by bench/depths.py: begin -->", "<!-- written by bench/depths.py: end -->"
BACKENDS = ("torch", "onnx", "onnx-int8")
DEPTHS = (1, 2, 3, 4, 5, 6)
PROFILED = 3
"""The depth whose batches, operators and compilation are looked at: half of the encoder, the default."""
BATCHES = (256, 512, 1024, 2048, 4096)
ROUNDS = 3
KINDS = {
    "products": ("FusedMatMul", "MatMul", "Gemm"),
    "attention": ("MultiHeadAttention",),
    "normalization": ("LayerNormalization", "SkipLayerNormalization"),
    "GELU": ("Gelu", "BiasGelu", "FastGelu"),
}


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        serve(_Bench(Path(sys.argv[2]), sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("prepare", "measure"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BERTCNN_DATA", "../shared/data")))
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "depths")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.part == "prepare":
        prepare(options.folder, options.data)
    else:
        write_corpora(options.data, options.folder / "texts.json", quick=False)
        _write(options.folder, options.threads, measure(options.folder.absolute(), options.threads))


def prepare(folder: Path, data: Path) -> None:
    """Train a head on CR at each depth, the encoder frozen, export it, and score every backend on the test split."""
    from bertcnn import Predictor, Settings, load_splits, save, train
    from bertcnn.errors import ModelError
    from bertcnn.inference.export import export_onnx
    from bertcnn.settings import change

    for depth in DEPTHS:
        place = folder / str(depth)
        if (place / "scores.json").exists():
            continue
        settings = change(Settings(), {"method": "frozen", "depth": depth, "report_to": "none"})
        splits = load_splits(str(data / "cr" / "all.csv"), settings.data)
        assert splits.test is not None
        save(train(splits, settings), place, overwrite=True)
        refused = ""
        try:
            export_onnx(place, int8=True, dev=splits.dev)
        except ModelError as error:
            refused = str(error)
            export_onnx(place, dev=splits.dev)
        scores: dict[str, Any] = {"texts": len(splits.test), "refused": refused}
        logits = {}
        for backend in BACKENDS[: 2 if refused else 3]:
            predictor = Predictor.load(place, backend=backend)  # type: ignore[arg-type]
            logits[backend] = predictor.logits(splits.test.texts)
            answers = logits[backend].argmax(axis=1)
            right = [predictor.label_names[i] == label for i, label in zip(answers, splits.test.labels, strict=True)]
            scores[backend] = {
                "accuracy": 100 * statistics.mean(right),
                "difference": float(abs(logits[backend] - logits["torch"]).max()),
                "flips": int((answers != logits["torch"].argmax(axis=1)).sum()),
            }
        (place / "scores.json").write_text(json.dumps(scores, indent=1), "utf-8")
        print(f"depth {depth}: {scores}", flush=True)


def measure(folder: Path, threads: int) -> dict[str, Any]:
    """Return seconds by depth and backend and by batch size in interleaved rounds, the operators, ``torch.compile``."""
    workers = {
        name: Worker(["depths.py", "worker", str(folder), name], log=folder / f"{name}.log", threads=threads,
                     timeout_seconds=600)
        for name in BACKENDS
    }  # fmt: skip
    by_depth: dict[str, list[float]] = {}
    by_batch: dict[str, list[float]] = {}
    for count in range(ROUNDS + 1):  # the first one warms up
        for depth in DEPTHS:
            for name, worker in workers.items():
                took = worker.ask(do="run", depth=depth, texts="short", max_tokens=None)
                if count and "seconds" in took:
                    by_depth.setdefault(f"{depth} {name}", []).append(took["seconds"])
        for corpus in SOURCES:
            for size in BATCHES:
                for name, worker in workers.items():
                    took = worker.ask(do="run", depth=PROFILED, texts=corpus, max_tokens=size)
                    if count:
                        by_batch.setdefault(f"{corpus} {size} {name}", []).append(took["seconds"])
        print(f"round {count} of {ROUNDS}", flush=True)
    found = {
        "by_depth": by_depth,
        "by_batch": by_batch,
        "operators": workers["onnx"].ask(do="profile"),
        "compiled": workers["torch"].ask(do="compile"),
        "machine": describe(threads),
    }
    for worker in workers.values():
        worker.stop()
    (folder / "depths.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return found


class _Bench:
    """Answers of one backend's worker."""

    def __init__(self, folder: Path, backend: Any) -> None:
        self.folder, self.backend = folder, backend
        self.corpora = json.loads((folder / "texts.json").read_text("utf-8"))
        self.models: dict[int, Any] = {}

    def load(self, depth: int) -> Any:
        from bertcnn import Predictor

        return Predictor.load(self.folder / str(depth), backend=self.backend)

    def __call__(self, request: Answer) -> Answer:
        return getattr(self, request.pop("do"))(**request)  # type: ignore[no-any-return]

    def run(self, depth: int, texts: str, max_tokens: int | None) -> Answer:
        if self.backend == "onnx-int8" and not (self.folder / str(depth) / "model.int8.onnx").exists():
            return {}
        if depth not in self.models:
            self.models[depth] = self.load(depth)
        predictor = self.models[depth]
        predictor.max_tokens = max_tokens
        gc.collect()
        return {"seconds": _seconds(predictor, self.corpora[texts]["texts"])}

    def profile(self) -> Answer:
        """Return the share of each kind of operator in the graph's own time, by ONNX Runtime's profile."""
        import onnxruntime

        predictor = self.load(PROFILED)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
        options.enable_profiling = True
        options.profile_file_prefix = str(self.folder / "profile")
        graph = str(self.folder / str(PROFILED) / "model.onnx")
        predictor.backend.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        texts = self.corpora["short"]["texts"]
        predictor.predict(texts)
        started = time.perf_counter()
        predictor.tokenizer(texts)
        cutting = time.perf_counter() - started
        whole = _seconds(predictor, texts)
        file = Path(predictor.backend.session.end_profiling())
        spent: Counter[str] = Counter()
        for event in json.loads(file.read_text("utf-8")):
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                spent[event["args"]["op_name"]] += event["dur"]
        file.unlink()
        total = spent.total()
        kinds = {kind: sum(spent.pop(one, 0) for one in names) / total for kind, names in KINDS.items()}
        rest = {name: value / total for name, value in spent.most_common(4)}
        return {"kinds": {**kinds, **rest}, "tokenizing": cutting / whole}

    def compile(self) -> Answer:
        """Return what ``torch.compile`` of the encoder changes: seconds plain and compiled, and its warming up."""
        import torch

        predictor = self.load(PROFILED)
        texts = self.corpora["short"]["texts"]
        predictor.predict(texts)
        plain = [_seconds(predictor, texts) for _ in range(ROUNDS)]
        model = predictor.model
        model.encoder = torch.compile(model.encoder, dynamic=True)
        started = time.perf_counter()
        predictor.predict(texts)
        warming = time.perf_counter() - started
        compiled = [_seconds(predictor, texts) for _ in range(ROUNDS)]
        return {"plain": plain, "compiled": compiled, "warming": warming}


def _seconds(predictor: Any, texts: list[str]) -> float:
    started = time.perf_counter()
    predictor.predict(texts)
    return time.perf_counter() - started


def _write(folder: Path, threads: int, found: dict[str, Any]) -> None:
    """Put the figures between their marks, or at the end of the page."""
    section = "\n".join([BEGIN, *_section(folder, threads, found), END])
    text = PAGE.read_text("utf-8")
    if BEGIN in text:
        text = text[: text.index(BEGIN)] + section + text[text.index(END) + len(END) :]
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    PAGE.write_text(text, "utf-8")


def _section(folder: Path, threads: int, found: dict[str, Any]) -> list[str]:
    corpora, machine = json.loads((folder / "texts.json").read_text("utf-8")), found["machine"]
    number = {name: len(corpora[name]["texts"]) for name in SOURCES}

    def rate(times: list[float], corpus: str = "short") -> str:
        low, high = (number[corpus] / pick(times) for pick in (max, min))
        return f"{number[corpus] / statistics.median(times):,.0f} ({low:,.0f} to {high:,.0f})"

    how = (
        f"`python bench/depths.py prepare`, then `measure`: {threads} threads of {machine['processor']}, commit "
        f"{machine['commit']}; medians of {ROUNDS} interleaved rounds (least to greatest), {number['short']} sentences "
        "of CR. Heads trained on frozen states of CR, seed 0; accuracy on its test split; flips: answers not torch's."
    )
    columns = (
        "depth",
        "accuracy: torch, onnx, int8",
        "flips: onnx, int8",
        *(f"{name}, texts a second" for name in BACKENDS),
    )
    header = " | ".join([*columns, "onnx over torch", "int8 over torch"])
    lines = [
        "## Depth, backend, batch and compilation",
        "",
        how,
        "",
        f"| {header} |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for depth in DEPTHS:
        scores = json.loads((folder / str(depth) / "scores.json").read_text("utf-8"))
        times = {name: found["by_depth"].get(f"{depth} {name}") for name in BACKENDS}
        there = [name for name in BACKENDS if name in scores and times[name]]
        accuracy = ", ".join(f"{scores[name]['accuracy']:.1f}" if name in scores else "refused" for name in BACKENDS)
        flips = ", ".join(str(scores[name]["flips"]) if name in scores else "" for name in BACKENDS[1:])
        rates = [rate(times[name]) if name in there else "" for name in BACKENDS]
        gains = [_ratio(times["torch"], times[name]) if name in there else "" for name in BACKENDS[1:]]
        lines.append(f"| {depth} | {accuracy} | {flips} | {' | '.join([*rates, *gains])} |")
    lines += ["", f"Texts a second at depth {PROFILED} by the padded pieces of a batch (the default is 1,024):", ""]
    lines += [
        "| texts | by | " + " | ".join(f"{size:,}" for size in BATCHES) + " |",
        "|---|---|" + "---|" * len(BATCHES),
    ]
    for corpus in SOURCES:
        for name in BACKENDS:
            rates = [
                number[corpus] / statistics.median(found["by_batch"][f"{corpus} {size} {name}"]) for size in BATCHES
            ]
            lines.append(f"| {corpus} | {name} | " + " | ".join(f"{one:,.1f}" for one in rates) + " |")
    kinds = ", ".join(f"{name} {share:.0%}" for name, share in found["operators"]["kinds"].items())
    compiled = found["compiled"]
    operators = (
        f"Where the fp32 graph's time is at depth {PROFILED}, by ONNX Runtime's profile of short texts: {kinds}. "
        f"Cutting into pieces is {found['operators']['tokenizing']:.1%} of `predict`; in longer lists it overlaps."
    )
    compiling = (
        f"`torch.compile` of the encoder (dynamic shapes): {_ratio(compiled['plain'], compiled['compiled'])} the plain "
        f"speed, after {compiled['warming']:.0f} s of warming up."
    )
    return [*lines, "", operators, "", compiling]


def _ratio(base: list[float] | None, other: list[float] | None) -> str:
    """Return how many times as fast the other is: the median of rounds (least to greatest)."""
    if not base or not other:
        return ""
    ratios = [a / b for a, b in zip(base, other, strict=True)]
    return f"{statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
