"""Texts a second, latency, memory and size of each system, in interleaved rounds.

Every system is a process that sleeps while others are measured. Knobs are tried first, one after
the other; then rounds go over all systems in turn, so that a drift of the machine hits all.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from corpora import CUT, SOURCES, STRETCHED, Corpora
from rivals import SYSTEMS
from worker import Worker, WorkerError

TRIED = 0.3
"""Share of the texts that knobs are tried on."""

STRETCHED_FOR = ("bertcnn-torch", "bertcnn-int8")
LATENCY_TEXTS = 40
"""Texts of 25 pieces a round, one by one."""

Row = dict[str, Any]


class Bench:
    """All systems, ready, and what was measured of them.

    Args:
        folder: Where models and texts stand.
        corpora: The texts.
        names: Systems to measure.
        threads: That each may compute with.
        quick: Try one value of each knob.
    """

    def __init__(self, folder: Path, corpora: Corpora, names: Sequence[str], *, threads: int, quick: bool) -> None:
        self.folder, self.corpora, self.quick = folder, corpora, quick
        self.rows: dict[str, Row] = {name: _empty_row(name) for name in names}
        logs = folder / "logs"
        logs.mkdir(exist_ok=True)
        self.workers = {
            name: Worker(["rivals.py", str(folder), name], log=logs / f"{name}.log", threads=threads) for name in names
        }
        self.machine = Worker(["machine.py", str(folder), "gemm"], log=logs / "machine.log", threads=threads)
        self.gemm: list[dict[str, float]] = []
        self.mflop: dict[str, list[float]] = {}

    def run(self, rounds: int) -> Row:
        """Measure everything."""
        try:
            self._each("load", self._load)
            for corpus in SOURCES:
                self._each(f"tune {corpus}", lambda name, corpus=corpus: self._tune(name, corpus))  # type: ignore[misc]
            self._each("settle", self._settle)
            for count in range(rounds):
                self._round(count)
            self.mflop = self.machine.ask(do="operations")["mflop"]
        finally:
            for worker in (*self.workers.values(), self.machine):
                worker.stop()
        return {"systems": self.rows, "gemm": self.gemm, "mflop": self.mflop, "pieces": self._pieces()}

    def _each(self, what: str, do: Callable[[str], None]) -> None:
        """Do something with every system that has not failed; one that fails now is left out from then on."""
        print(f"  {what}", flush=True)
        for name, row in self.rows.items():
            if "error" in row:
                continue
            try:
                do(name)
            except WorkerError as error:
                row["error"] = f"{what}: {error}"
                self.workers[name].stop()
                print(f"    {name} failed, {row['error']}", flush=True)

    def _load(self, name: str) -> None:
        self.rows[name]["megabytes"] = self.workers[name].ask(do="load")["megabytes"]

    def _tune(self, name: str, corpus: str) -> None:
        """Find the best value of each knob, the others at their best so far."""
        knobs = SYSTEMS[name].knobs
        setting = {knob: values[0] for knob, values in knobs.items()}
        limit = 3 if self.quick else max(8, int(TRIED * len(self.corpora[corpus]["texts"])))
        # Once before, so that nothing is measured that is done only once.
        self.workers[name].ask(do="run", texts=corpus, limit=limit, setting=setting)
        for knob, values in knobs.items():
            took = {}
            for value in values[:2] if self.quick else _different(knob, values, limit):
                request = {"do": "run", "texts": corpus, "limit": limit, "setting": {**setting, knob: value}}
                took[value] = self.workers[name].ask(**request)["seconds"]
            setting[knob] = min(took, key=took.__getitem__)
        self.rows[name]["setting"][corpus] = setting

    def _settle(self, name: str) -> None:
        setting = self.rows[name]["setting"]
        self.workers[name].ask(do="settle", settings=[*setting.values(), _one_by_one(setting)])

    def _round(self, count: int) -> None:
        print(f"  round {count + 1}", flush=True)
        self.gemm.append(self.machine.ask(do="gemm")["gemm"])
        for corpus in SOURCES:
            self._each(corpus, lambda name, corpus=corpus: self._measure(name, corpus))  # type: ignore[misc]
        self._each("latency", self._latency)
        for pieces in STRETCHED[:2] if self.quick else STRETCHED:
            self._each(f"{pieces} pieces", lambda name, pieces=pieces: self._stretch(name, pieces))  # type: ignore[misc]

    def _measure(self, name: str, corpus: str) -> None:
        row = self.rows[name]
        found = self.workers[name].ask(do="run", texts=corpus, setting=row["setting"][corpus])
        row["seconds"][corpus].append(found["seconds"])
        row["peak_mb"][corpus] = max(row["peak_mb"].get(corpus, 0.0), found["peak_mb"])
        row["note"] = found["note"]

    def _latency(self, name: str) -> None:
        setting = _one_by_one(self.rows[name]["setting"])
        worker = self.workers[name]
        worker.ask(do="latency", texts="latency", limit=3, setting=setting)
        found = worker.ask(do="latency", texts="latency", limit=5 if self.quick else LATENCY_TEXTS, setting=setting)
        self.rows[name]["milliseconds"].append(found["milliseconds"])

    def _stretch(self, name: str, pieces: int) -> None:
        if name in STRETCHED_FOR:
            found = self.workers[name].ask(do="run", texts=str(pieces), setting={})
            self.rows[name]["stretched"].setdefault(str(pieces), []).append(found["seconds"])

    def _pieces(self) -> dict[str, dict[str, float]]:
        """Return how many texts and pieces each corpus has, and how many of them a reader of 512 reads."""
        return {
            name: {
                "texts": len(self.corpora[name]["pieces"]),
                "all": sum(self.corpora[name]["pieces"]),
                "cut": sum(min(one, CUT) for one in self.corpora[name]["pieces"]),
                "squares": sum(_squares(one) for one in self.corpora[name]["pieces"]),
            }
            for name in SOURCES
        }


def _different(knob: str, values: Sequence[Any], texts: int) -> list[Any]:
    """Return the values worth trying: of the batches that hold all texts, only the first."""
    if knob != "batch":
        return list(values)
    return [value for i, value in enumerate(values) if i == 0 or values[i - 1] < texts]


def _one_by_one(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the setting for one text at a time: the graph that is best for short texts, all threads on it."""
    return {**settings["short"], "hint": "LATENCY"}


def _squares(pieces: int) -> int:
    """Return the sum of squares of what the encoder reads at once of a text, which attention costs."""
    return pieces**2 if pieces <= CUT else pieces * CUT


def _empty_row(name: str) -> Row:
    return {
        "says": SYSTEMS[name].says,
        "reads": SYSTEMS[name].reads,
        "setting": {},
        "seconds": {corpus: [] for corpus in SOURCES},
        "peak_mb": {},
        "milliseconds": [],
        "stretched": {},
        "note": "",
    }
