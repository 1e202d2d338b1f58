"""How the runs of a study were made: versions and machines, settings that were chosen or differ, warnings."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertcnn.errors import StudyError
from bertcnn.settings import batch_for
from bertcnn.study.details import over
from bertcnn.study.evidence import Result, Study
from bertcnn.study.systems import system
from bertcnn.study.verdict import Answer

_FREE = {"seed", "cache", "report_to"}
"""Settings that may differ between runs of one system."""


@dataclass(frozen=True)
class Chosen:
    """The settings that dev chose for a system, with the number of runs that chose them."""

    data: str
    system: str
    trials: int | None
    settings: str
    runs: int


def warnings_of(study: Study) -> dict[str, int]:
    """Return what runs warned of, on which data and of which systems if not of all, and how often."""
    warned: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for run in study.runs:
        said = run.line.get("warnings")
        for text in said if isinstance(said, list) else ():
            warned[run.data, str(text)][run.system] += 1
    found = {}
    for (data, text), systems in warned.items():
        whose = "" if len(systems) == len({run.system for run in study.of(data)}) else f", {', '.join(systems)}"
        found[f"{data}{whose}: {text}"] = systems.total()
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def mixed_settings(study: Study) -> Iterable[str]:
    """Say which systems were run with different settings, as by versions of the program with other defaults."""
    values: dict[tuple[str, str], dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for run in study.runs:
        for name, value in _settings_of(run):
            values[run.data, run.system][name][value] = None
    for (data, one), settings in values.items():
        mixed = [f"{name} {' and '.join(seen)}" for name, seen in settings.items() if len(seen) > 1]
        if mixed:
            yield f"{data}, {one}: runs with different settings are taken together ({'; '.join(mixed)})."


def settings_used(study: Study) -> dict[str, str]:
    """Return the settings of networks: under "all networks" those that are the same in all, else by system.

    What dev chose is not among them, nor what hangs on the run.
    """
    values: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for run in study.runs:
        for name, value in _settings_of(run) if _is_network(run.system) else ():
            values[name][run.system][value] = None
    words: dict[str, list[str]] = defaultdict(list)
    for name, found in values.items():
        every = {" and ".join(seen) for seen in found.values()}
        if len(every) == 1:
            words["all networks"].append(f"{name} {every.pop()}")
        else:
            for one, seen in found.items():
                words[one].append(f"{name} {' and '.join(seen)}")
    return {one: "; ".join(said) for one, said in sorted(words.items(), key=lambda kept: kept[0] != "all networks")}


def unlike_pairs(study: Study, verdict: Iterable[Answer]) -> Iterable[str]:
    """Say which networks are compared although they were run with different settings that the ladder gives neither."""
    for one in verdict:
        pair = one.left, one.right
        if not all(map(_is_network, pair)):
            continue
        own = {name for side in pair for name in system(side).settings or {}}
        left, right = (dict(found for run in study.of(one.data, side) for found in _settings_of(run)) for side in pair)
        apart = [f"{n} {left[n]} and {right[n]}" for n in left.keys() & right.keys() - own if left[n] != right[n]]
        if apart:
            said = "; ".join(sorted(apart))
            yield f"{one.data}: {one.left} and {one.right} were run with different settings ({said})."


def _settings_of(run: Result) -> Iterable[tuple[str, str]]:
    """Yield settings and their values in words, without those that dev chose or that may differ."""
    for name, value in run.table("settings").items() if run.done else ():
        if name not in _FREE and name not in run.table("chosen"):
            if name == "encoder":  # the same file may lie elsewhere
                value = Path(str(value)).name
            elif name == "batch_size" and value == batch_for(int(run.number("texts", "train") or 0)):
                value = "auto"  # what it stands for hangs on the number of texts
            yield name, _plain(value)


def _is_network(name: str) -> bool:
    """Return whether a system is a network of ours; of another version's, nothing is known."""
    try:
        return system(name).settings is not None
    except StudyError:
        return False


def chosen_settings(study: Study, names: Iterable[str], ladder: Iterable[str]) -> Iterable[Chosen]:
    """Yield the hyperparameters that dev chose, each with the number of runs."""
    for data in names:
        for one in ladder:
            runs = [run for run in study.of(data, one) if run.done and run.line.get("chosen")]
            counts = Counter(_plain(run.line["chosen"]) for run in runs)
            trials = over(runs, max, "trials")
            for settings, count in counts.most_common():
                yield Chosen(data, one, None if trials is None else int(trials), settings, count)


def made_with(study: Study) -> dict[str, tuple[str, ...]]:
    """Return each value that occurs of what the runs were made with."""
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for run in study.runs:
        for key, value in run.table("made").items():
            if value is not None:
                values[key][_plain(value)] = None
        values["seeds"][str(run.seed)] = None
        values["fractions"][f"{run.fraction:g}"] = None
    found = {key: tuple(sorted(seen)) for key, seen in values.items()}
    if len(times := found.get("when", ())) > 1:
        found["when"] = (f"{times[0]} to {times[-1]}",)
    return found


def _plain(value: Any) -> str:
    """Write a value of JSON in a line: ``torch 2.13.0, numpy 2.4.6``."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
