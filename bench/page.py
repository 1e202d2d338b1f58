"""What was measured, as a page and a picture. Computes ratios and medians, measures nothing."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

from corpora import CUT, SOURCES

BEGIN = "<!-- written by bench/speed.py: begin -->"
END = "<!-- written by bench/speed.py: end -->"
HEADING = "## Speed"

OURS = ("bertcnn-int8", "bertcnn-onnx", "bertcnn-torch", "bertcnn-bf16")
FP32 = ("bertcnn-onnx", "bertcnn-torch")
PIPELINES = ("pipeline", "pipeline-sorted")

Measured = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """A goal and what came of it.

    Attributes:
        what: In words.
        value: Measured; NaN where it could not be.
        spread: Of the rounds, as text.
        bound: What it is to reach.
        at_least: True: ``value`` is to be at least ``bound``; False: at most.
        unit: Behind the value.
    """

    what: str
    value: float
    spread: str
    bound: float
    at_least: bool = True
    unit: str = " x"

    @property
    def verdict(self) -> str:
        """``yes``, ``no`` or ``not measured``."""
        if math.isnan(self.value):
            return "not measured"
        return "yes" if (self.value >= self.bound) == self.at_least or self.value == self.bound else "**no**"


def write_page(measured: Measured, file: Path) -> None:
    """Write the speed part of the page between its marks, or in place of what stood under its heading."""
    text = "\n".join([BEGIN, *_sections(measured, file.with_suffix(".png").name), END])
    before, after = f"# Benchmarks\n\n{HEADING}\n\n", "\n"
    if file.exists():
        old = file.read_text("utf-8")
        if BEGIN in old and END in old:
            before, after = old[: old.index(BEGIN)], old[old.index(END) + len(END) :]
        else:
            before = old.split(f"{HEADING}\n")[0] + f"{HEADING}\n\n"
    file.write_text(before + text + after, "utf-8")


def _sections(measured: Measured, picture: str) -> Iterable[str]:
    if "inference" in measured:
        yield from _about(measured, picture)
    yield from ("", "### Goals", "", *_goal_table(goals(measured)))
    if "inference" in measured:
        for corpus in SOURCES:
            yield from _throughput(measured["inference"], corpus)
        yield from _latency_table(measured["inference"])
        yield from _limit_text(measured["inference"])
    if "training" in measured:
        yield from _training_text(measured["training"])
    if "memory" in measured:
        yield from _memory_text(measured["memory"])


def _about(measured: Measured, picture: str) -> Iterable[str]:
    found = measured["inference"]
    machine = found["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    rounds = len(found["gemm"])
    yield (
        f"`python bench/speed.py`, {machine['date']}, commit {machine['commit']}: {machine['threads']} threads of "
        f"{machine['processor']} ({', '.join(machine['has']) or 'no AVX-512'}), {machine['memory_gib']} GiB, no GPU; "
        f"Python {machine['python']}, {packages}. Load of the machine when it ended: {machine['load']}."
    )
    yield ""
    yield (
        f"Each system is a process of its own, and {rounds} rounds go over all of them in turn; figures are medians "
        "over rounds (least to greatest), ratios are taken within a round. Rivals run the whole 6-layer encoder with a "
        "linear layer, at the best of batches of 1, 8, 32, 64 and 128 and of the other settings named; ours, at its "
        "defaults."
    )
    yield from ("", f"![Texts a second and latency of all systems]({picture})")


# ---- goals


def goals(measured: Measured) -> list[Goal]:
    """Return every goal of the speed bench with what was measured."""
    found: list[Goal] = []
    if "inference" in measured:
        found += _inference_goals(measured["inference"])
    if "memory" in measured:
        found += _memory_goals(measured["memory"])
    if "training" in measured:
        found += _training_goals(measured["training"])
    return found


def _inference_goals(found: Measured) -> list[Goal]:
    short = "short texts, depth 3, fp32"
    fp32 = fastest(found, FP32, "short")
    share = _shares(found, fp32)
    accuracy = found.get("accuracy", {})
    lost = accuracy["torch"]["accuracy"] - accuracy["onnx-int8"]["accuracy"] if "onnx-int8" in accuracy else math.nan
    exponents = exponent(found, "bertcnn-torch"), exponent(found, "bertcnn-int8")
    return [
        _ratio(f"{short}, against `pipeline`", found, "short", fp32, PIPELINES[:1], 4.5),
        _ratio(f"{short}, against `pipeline` on texts sorted by hand", found, "short", fp32, PIPELINES[1:], 4.5),
        _ratio(f"{short}, against sentence-transformers", found, "short", fp32, ("sentence-transformers",), 2.5),
        Goal(f"{short}, share of the GEMM limit ({fp32})", *_middle(share, 100), 75, unit=" %"),
        _ratio("short texts, int8, against `pipeline`", found, "short", OURS[0], PIPELINES[:1], 7.5),
        _ratio(
            "short texts, int8, against `pipeline` on texts sorted by hand", found, "short", OURS[0], PIPELINES[1:], 7.5
        ),
        _ratio(
            "short texts, int8, against ONNX Runtime int8, whole encoder", found, "short", OURS[0], ("ort-int8",), 2
        ),
        Goal("int8, points of accuracy lost on CR's test split", lost, "", 0.5, at_least=False, unit=""),
        _ratio(
            "long texts read whole, fp32, pieces against `pipeline`'s",
            found,
            "long",
            fastest(found, FP32, "long"),
            PIPELINES,
            2,
            pieces=True,
        ),
        Goal("exponent of the cost of a text of 1k to 16k pieces", max(exponents), "", 1.1, at_least=False, unit=""),
        Goal(
            "latency of one text of 25 pieces, int8, against `pipeline`'s",
            *_latency_share(found),
            1 / 3,
            at_least=False,
        ),
    ]


def _memory_goals(found: Measured) -> list[Goal]:
    peaks = [one["peak_mb"] for _, one in sorted(found["rows"].items(), key=lambda pair: int(pair[0]))]
    counts = sorted(int(rows) for rows in found["rows"])
    grown = 100 * (peaks[-1] / peaks[0] - 1) if len(peaks) > 1 else math.nan
    what = f"`predict`, memory of {counts[-1]:,} rows over that of {counts[0]:,}" if counts else "`predict`, memory"
    rows = [Goal(what, grown, "", 10, at_least=False, unit=" %")]
    for name, bound in (("import bertcnn", 0.15), ("bertcnn --help", 0.4)):
        middle, low, high = found["starts"][name]
        bare = found["starts"]["python"][0] if name.startswith("import") else 0.0
        what = f"`{name}`" + (", beyond a bare Python" if bare else "")
        spread = f"{low - bare:.2f} to {high - bare:.2f}"
        rows.append(Goal(what, middle - bare, spread, bound, at_least=False, unit=" s"))
    return rows


def _training_goals(found: Measured) -> list[Goal]:
    whole, rates = found["whole"], found["rates"]
    both = whole.get("ours") and whole.get("trainer")
    share = whole["ours"]["seconds"] / whole["trainer"]["seconds"] if both else math.nan
    lost = whole["trainer"]["accuracy"] - whole["ours"]["accuracy"] if both else math.nan
    return [
        Goal("frozen training on CR, seconds against `Trainer`'s, 3 epochs", share, "", 1 / 8, at_least=False),
        Goal("frozen training on CR, points of accuracy below `Trainer`'s", lost, "", 1, at_least=False, unit=""),
        Goal("fine-tuning at depth 3, examples against `Trainer`'s", *_faster(rates, "trainer"), 2.5),
        Goal("the same, `Trainer` told to group by length", *_faster(rates, "trainer-grouped"), 2.5),
    ]


def _faster(rates: Measured, other: str) -> tuple[float, str]:
    return _middle([a / b for a, b in zip(rates.get("ours", []), rates.get(other, []), strict=False)])


def _goal_table(rows: Sequence[Goal]) -> Iterable[str]:
    yield "| what | measured | goal | reached |"
    yield "|---|---|---|---|"
    for one in rows:
        value = (
            "" if math.isnan(one.value) else f"{one.value:.2f}{one.unit}" + (f" ({one.spread})" if one.spread else "")
        )
        sign = "at least" if one.at_least else "at most"
        yield f"| {one.what} | {value} | {sign} {one.bound:.3g}{one.unit} | {one.verdict} |"


def _ratio(
    what: str,
    found: Measured,
    corpus: str,
    ours: str,
    theirs: Sequence[str],
    bound: float,
    *,
    pieces: bool = False,
) -> Goal:
    """Return how often we are as fast as the best of some rivals, within rounds."""
    other = _best_by_round([r for name in theirs if (r := rates(found, name, corpus, pieces=pieces))], max)
    mine = rates(found, ours, corpus, pieces=pieces)
    return Goal(f"{what} ({ours})", *_middle([a / b for a, b in zip(mine, other, strict=False)]), bound)


def fastest(found: Measured, names: Sequence[str], corpus: str) -> str:
    """Return the system with the highest median rate; the last where none was measured."""
    return max(reversed(names), key=lambda name: median(rates(found, name, corpus) or [0.0]))


def rates(found: Measured, name: str, corpus: str, *, pieces: bool = False) -> list[float]:
    """Return texts (or pieces that it reads) a second of one system in each round."""
    row = found["systems"].get(name)
    if row is None or "error" in row:
        return []
    size = found["pieces"][corpus]
    count = size["texts"] if not pieces else size["cut" if row["reads"] else "all"]
    return [count / seconds for seconds in row["seconds"][corpus]]


def exponent(found: Measured, name: str) -> float:
    """Return the slope of log seconds over log pieces; NaN where it was not measured."""
    stretched = found["systems"].get(name, {}).get("stretched", {})
    points = [(math.log(int(count)), math.log(min(seconds))) for count, seconds in stretched.items()]
    return linear_regression(*zip(*points, strict=True)).slope if len(points) > 1 else math.nan


def _shares(found: Measured, name: str, corpus: str = "short") -> list[float]:
    """Return in each round what a system reaches of the rate at which its products alone could be made."""
    return [rate / limit for rate, limit in zip(rates(found, name, corpus), limits(found, corpus), strict=False)]


def limits(found: Measured, corpus: str) -> list[float]:
    """Return texts a second, if depth 3 cost nothing but its matrix products, in each round."""
    size, (constant, slope) = found["pieces"][corpus], found["mflop"]["depth 3, whole model"]
    total = 1e6 * (constant * size["all"] + slope * size["squares"])
    return [size["texts"] * 1e9 * max(rates.values()) / total for rates in found["gemm"]]


def _latency_share(found: Measured) -> tuple[float, str]:
    ours, theirs = (
        [median(one) for one in found["systems"].get(name, {}).get("milliseconds", [])]
        for name in ("bertcnn-int8", "pipeline")
    )
    return _middle([a / b for a, b in zip(ours, theirs, strict=False)])


def _best_by_round(series: Sequence[Sequence[float]], best: Any) -> list[float]:
    return [best(values) for values in zip(*series, strict=False)]


def _middle(values: Sequence[float], factor: float = 1.0) -> tuple[float, str]:
    if not values:
        return math.nan, ""
    return factor * median(values), f"{factor * min(values):.2f} to {factor * max(values):.2f}"


# ---- tables


def _throughput(found: Measured, corpus: str) -> Iterable[str]:
    size = found["pieces"][corpus]
    mean, cut = size["all"] / size["texts"], size["cut"] / size["texts"]
    yield from ("", f"### {corpus.capitalize()} texts", "")
    yield (
        f"{size['texts']} {SOURCES[corpus][1]}, {mean:,.0f} pieces on average"
        + (f"; what reads {CUT} pieces of a text reads {cut:,.0f}." if cut < 0.99 * mean else ".")
    )
    yield from (
        "",
        "| system | texts a second | pieces a second | against `pipeline` | peak memory, MB | best setting |",
    )
    yield "|---|---|---|---|---|---|"
    base = _best_by_round([r for name in PIPELINES if (r := rates(found, name, corpus, pieces=True))], max)
    for name, row in _by_speed(found, corpus):
        if "error" in row:
            yield f"| {row['says']} | failed: {row['error']} | | | | |"
            continue
        texts, pieces = rates(found, name, corpus), rates(found, name, corpus, pieces=True)
        ratio = _middle([a / b for a, b in zip(pieces, base, strict=False)])
        setting = ", ".join(f"{knob} {value}" for knob, value in row["setting"][corpus].items())
        yield (
            f"| {row['says']} | {_number(median(texts))} ({_number(min(texts))} to {_number(max(texts))}) "
            f"| {median(pieces):,.0f} | {ratio[0]:.2f} ({ratio[1]}) | {row['peak_mb'][corpus]:,.0f} "
            f"| {'; '.join(filter(None, (setting, row['note']))) or 'defaults'} |"
        )
    yield from ("", "Against `pipeline`: pieces a second, over the faster of its two rows.")


def _by_speed(found: Measured, corpus: str) -> list[tuple[str, Any]]:
    def key(pair: tuple[str, Any]) -> float:
        values = rates(found, pair[0], corpus, pieces=True)
        return -median(values) if values else math.inf

    return sorted(found["systems"].items(), key=key)


def _latency_table(found: Measured) -> Iterable[str]:
    yield from ("", "### One text at a time", "", "Texts of 25 pieces, one call each.", "")
    yield from ("| system | p50, ms | p99, ms | weights on disk, MB |", "|---|---|---|---|")
    for row in sorted(found["systems"].values(), key=lambda row: _quantile(row["milliseconds"], 0.5)):
        if row["milliseconds"]:
            p50, p99 = (_quantile(row["milliseconds"], q) for q in (0.5, 0.99))
            yield f"| {row['says']} | {p50:.2f} | {p99:.2f} | {row['megabytes']:.1f} |"
    accuracy = dict(found.get("accuracy", {}))
    seed = accuracy.pop("seed")
    if accuracy:
        passed = f"Our model is of seed {seed}, " + (
            f"int8 of {', '.join(map(str, range(seed)))} was refused on dev." if seed else "the first one."
        )
        said = ", ".join(f"{name} {one['accuracy']:.1f} %" for name, one in accuracy.items())
        same = accuracy["onnx-int8"]["as torch"]
        yield from (
            "",
            f"Accuracy on CR's test split ({accuracy['torch']['texts']} texts): {said}.",
            f"int8 answers {same:.1f} % of them as torch does. {passed}",
        )


def _quantile(rounds: Sequence[Sequence[float]], share: float) -> float:
    values = sorted(value for one in rounds for value in one)
    return values[min(len(values) - 1, int(share * len(values)))] if values else math.inf


def _limit_text(found: Measured) -> Iterable[str]:
    ours, whole = (found["mflop"][name] for name in ("depth 3, whole model", "6 layers, linear head"))
    best = [max(one.values()) for one in found["gemm"]]
    shapes = {name: median([one[name] for one in found["gemm"]]) for name in found["gemm"][0]}
    yield from ("", "### The machine's limit", "")
    yield (
        f"Counted by `torch.utils.flop_counter`, a piece costs {ours[0]:.2f} MFLOP at depth 3 with its convolution, "
        f"plus {1000 * ours[1]:.2f} kFLOP for each piece read with it; the 6 layers with a linear head, "
        f"{whole[0]:.2f}. float32 products run at {median(best):.0f} GFLOP/s at the best shape ("
        + ", ".join(f"{name} {rate:.0f}" for name, rate in shapes.items())
        + "). What ours reaches of that rate: "
        + "; ".join(
            f"{corpus} texts {_percent(_shares(found, name, corpus))} ({name})"
            for corpus in SOURCES
            for name in (fastest(found, FP32, corpus),)
        )
        + ". The rest is tokenizing, normalization, softmax, GELU, max over time, and products that do not reach the "
        "best shape's rate."
    )
    yield ""
    for name in ("bertcnn-torch", "bertcnn-int8"):
        stretched = found["systems"].get(name, {}).get("stretched", {})
        said = ", ".join(f"{int(count):,}: {min(seconds):.2f}" for count, seconds in stretched.items())
        if said:
            yield f"Seconds for one text by its pieces, {name}: {said}; exponent {exponent(found, name):.2f}."
            yield ""


def _training_text(found: Measured) -> Iterable[str]:
    names = {
        "ours": "fine-tuning at depth 3",
        "trainer": "`Trainer`, whole encoder + linear",
        "trainer-grouped": "`Trainer`, the same, texts grouped by length",
    }
    yield from ("", "### Training", "", "CR, batches of 32.", "", "| way | examples a second |", "|---|---|")
    for name, values in found["rates"].items():
        yield f"| {names[name]} | {median(values):.0f} ({min(values):.0f} to {max(values):.0f}) |"
    yield from ("", "| whole training | seconds | accuracy on test |", "|---|---|---|")
    for name, says in (("ours", "frozen at depth 3, cache empty"), ("trainer", "`Trainer`, 3 epochs")):
        one = found["whole"].get(name)
        if one:
            grouped = ", grouped by length" if one.get("grouped") else ""
            yield f"| {says}{grouped} | {one['seconds']:.1f} | {one['accuracy']:.1f} |"
    yield from (f"\n{name} failed: {error}" for name, error in found["errors"].items())


def _memory_text(found: Measured) -> Iterable[str]:
    yield from ("", "### Memory and starts", "")
    for rows, one in found["rows"].items():
        yield f"* `bertcnn predict` on {int(rows):,} rows: {one['peak_mb']:,.0f} MB, {one['seconds']:.1f} s."
    yield f"* The rows are drawn from {found['distinct']} sentences of CR; equal ones nearby are computed once."
    for name, (middle, low, high) in found["starts"].items():
        yield f"* `{name}`: {middle:.2f} s ({low:.2f} to {high:.2f})."
    yield from (f"* {name} failed: {error}" for name, error in found["errors"].items())


def _percent(values: Sequence[float]) -> str:
    return (
        f"{100 * median(values):.0f} % ({100 * min(values):.0f} to {100 * max(values):.0f})"
        if values
        else "not measured"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


# ---- picture

INK, GREY, LINE = "#222222", "#c3c7cc", "#6d737a"
COLOURS = {
    "bertcnn-int8": "#00795a",
    "bertcnn-onnx": "#2f9e7d",
    "bertcnn-torch": "#7cc7ae",
    "bertcnn-bf16": "#56b394",
}
FLOOR = "fasttext"
DRAWN_AS = {
    "bertcnn-int8": "bertcnn, ONNX int8",
    "bertcnn-onnx": "bertcnn, ONNX fp32",
    "bertcnn-torch": "bertcnn, torch fp32",
    "bertcnn-bf16": "bertcnn, torch bf16",
    "pipeline": "pipeline",
    "pipeline-sorted": "pipeline, sorted by hand",
    "pipeline-bf16": "pipeline, bf16, sorted",
    "sentence-transformers": "sentence-transformers",
    "ort": "ONNX Runtime fp32",
    "ort-int8": "ONNX Runtime int8",
    "openvino": "OpenVINO fp32",
    "openvino-default": "OpenVINO, its default",
}


def write_picture(measured: Measured, file: Path) -> None:
    """Draw pieces a second at three lengths, and latency; nothing where inference was not measured."""
    if "inference" not in measured:
        return
    import matplotlib as mpl
    from matplotlib.figure import Figure

    found = measured["inference"]
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "text.color": INK}):
        figure = Figure(figsize=(11, 7.6))
        figure.subplots_adjust(left=0.15, right=0.98, top=0.85, bottom=0.075, wspace=0.42, hspace=0.42)
        places = figure.subplots(2, 2).flat
        for corpus in SOURCES:
            _bars(next(places), found, corpus)
        _latency_bars(next(places), found)
        figure.text(0.015, 0.957, "How fast BERT classifies on a CPU", weight="bold", size=14)
        figure.text(
            0.015,
            0.928,
            f"bertcnn at depth 3 (green) and the whole encoder with a linear layer (grey); "
            f"{found['machine']['threads']} threads of {found['machine']['processor']}; "
            f"medians of {len(found['gemm'])} rounds, whiskers: least and greatest",
            color=LINE,
        )
        figure.savefig(file, dpi=150)


def _bars(axes: Any, found: Measured, corpus: str) -> None:
    shown = [(n, r) for n, _ in _by_speed(found, corpus) if n != FLOOR and (r := rates(found, n, corpus, pieces=True))]
    middles = [median(values) / 1000 for _, values in shown]
    spread = [
        [m - min(values) / 1000 for m, (_, values) in zip(middles, shown, strict=True)],
        [max(values) / 1000 - m for m, (_, values) in zip(middles, shown, strict=True)],
    ]
    size = found["pieces"][corpus]
    limit = median(limits(found, corpus)) * size["all"] / size["texts"] / 1000
    _draw(axes, [name for name, _ in shown], middles, spread, most=limit)
    axes.axvline(limit, color=LINE, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
    axes.annotate(
        "fp32 products\nalone, depth 3", (limit, len(shown) - 0.5), (-4, 2), textcoords="offset points",
        size=7.5, color=LINE, va="bottom", ha="right",
    )  # fmt: skip
    axes.set_title(f"{corpus.capitalize()} texts, {size['all'] / size['texts']:,.0f} pieces", loc="left", weight="bold")
    floor = rates(found, FLOOR, corpus, pieces=True)
    beside = f" (fastText: {median(floor) / 1000:,.0f})" if floor else ""
    axes.set_xlabel(f"thousand pieces read a second{beside}", loc="left")


def _latency_bars(axes: Any, found: Measured) -> None:
    rows = [(name, row["milliseconds"]) for name, row in found["systems"].items() if row["milliseconds"]]
    rows = sorted((pair for pair in rows if pair[0] != FLOOR), key=lambda pair: _quantile(pair[1], 0.5))
    middles = [_quantile(values, 0.5) for _, values in rows]
    high = [_quantile(values, 0.99) - middle for (_, values), middle in zip(rows, middles, strict=True)]
    _draw(axes, [name for name, _ in rows], middles, [[0.0] * len(high), high])
    axes.set_title("One text of 25 pieces (less is better)", loc="left", weight="bold")
    axes.set_xlabel("milliseconds, median; whisker: 99th percentile", loc="left")


def _draw(axes: Any, names: Sequence[str], middles: Sequence[float], spread: Any, *, most: float = 0.0) -> None:
    """Draw horizontal bars, the first on top, each with its value behind its whisker."""
    places = range(len(names))
    axes.barh(places, middles, color=[COLOURS.get(name, GREY) for name in names], height=0.72, zorder=2)
    axes.errorbar(middles, places, xerr=spread, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2, zorder=3)
    reach = max([m + s for m, s in zip(middles, spread[1], strict=True)], default=1.0)
    background = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    for place, middle, more in zip(places, middles, spread[1], strict=True):
        end = middle + more + 0.015 * reach
        axes.text(end, place, f"{middle:.1f}", va="center", size=8, zorder=4, bbox=background)
    axes.set_yticks(places, [DRAWN_AS[name] for name in names])
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name in OURS else "normal")
    axes.set_ylim(len(names) - 0.35, -0.6)
    axes.set_xlim(0, 1.14 * max(reach, most))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#eceef0")
    axes.set_axisbelow(True)
