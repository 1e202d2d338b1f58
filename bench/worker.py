"""Processes that are measured: each holds one system, answers requests, and sleeps meanwhile.

A process of its own gives a system its own memory peak, and leaves the others running when it fails.
Requests and answers are one JSON object a line.
"""

import json
import os
import select
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Answer = dict[str, Any]

STATUS = Path("/proc/self/status")
RESET_PEAK = Path("/proc/self/clear_refs")


class WorkerError(Exception):
    """A worker failed, died, or took too long; the message says which."""


class Worker:
    """The parent's end of one process.

    Args:
        command: A script of this folder and its arguments.
        log: File for what the process prints besides.
        threads: That it may compute with.
        timeout_seconds: For one answer.
    """

    def __init__(self, command: list[str], *, log: Path, threads: int, timeout_seconds: float = 240.0) -> None:
        self.name, self.timeout_seconds, self.log = command[-1], timeout_seconds, log
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name(command[0])), *command[1:]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env=environment(threads),
            )

    def ask(self, **request: Any) -> Answer:
        """Return the answer to one request.

        Raises:
            WorkerError: The process failed, died, or gave no answer in time (it is stopped then).
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise WorkerError(f"{self.name} died; see {self.log}") from error
        ready, _, _ = select.select([self.process.stdout], [], [], self.timeout_seconds)
        if not ready:
            self.stop()
            raise WorkerError(f"{self.name} gave no answer within {self.timeout_seconds:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(f"{self.name} died; see {self.log}")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(str(answer["error"]))
        return answer

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a process that computes with so many threads, and asks no network."""
    bound = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
    return {**os.environ, **bound, "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


def serve(handle: Callable[[Answer], Answer]) -> None:
    """Answer requests from stdin until it ends. What libraries print goes to stderr."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = handle(json.loads(line))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this system's row in the table
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


def reset_peak() -> None:
    """Let the memory peak count from now on, where the kernel allows."""
    try:
        RESET_PEAK.write_text("5")
    except OSError:
        return


def peak_megabytes() -> float:
    """Return the most memory this process held since :func:`reset_peak`."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
