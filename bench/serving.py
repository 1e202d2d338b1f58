"""A server under load, over loopback: what the door costs, and what happens beyond its capacity.

    python bench/serving.py --model runs/bench/model --backend onnx --seconds 20
    python bench/serving.py --model runs/bench/model --soak 500000      memory, while so many requests are answered

Three measurements, each in processes of its own: offline ``predict`` on short texts; 64 clients that each
send one text, wait for the answer, and send the next (these two in turn, a few rounds); and texts sent at twice
the rate that the 64 got last, whether answered or not. The client shares the machine's cores with the server, so
the share of offline throughput is a lower bound. Run it alone. Bounded: 1,000 connections, ``--seconds`` a
measurement.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

SHORT = 120
"""Characters of a short text, at most."""

MOST_CONNECTIONS = 1000
SOAK_SECONDS = 3600
COMMAND = "from typer import run; from bertcnn.apps.serve import serve; run(serve)"


@dataclass
class Seen:
    """What the clients saw."""

    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    def add(self, status: str, seconds: float) -> None:
        """Note an answer, or what went wrong in its place."""
        self.statuses[status] += 1
        if status == "200":
            self.latencies.append(seconds)

    @property
    def rate(self) -> float:
        """Accepted requests a second."""
        return self.statuses["200"] / self.seconds

    def percentile(self, which: int) -> float:
        """Milliseconds, of the accepted."""
        if len(self.latencies) < 2:
            return float("nan")
        return 1000 * statistics.quantiles(self.latencies, n=100)[which - 1]

    def share(self, status: str) -> float:
        """Of all requests, 0 to 1."""
        return self.statuses[status] / max(1, self.statuses.total())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3, help="offline and clients in turn, for machines wander")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--flags", default="", help="more flags of `bertcnn serve`, in one string")
    parser.add_argument("--soak", type=int, default=0, help="so many requests by the clients, an hour at most")
    parser.add_argument("--offline", action="store_true", help="one measurement, in this process")
    options = parser.parse_args()
    if options.offline:
        print(json.dumps(offline(options.model, options.backend, options.seconds)))
        return
    flags = ["--backend", options.backend, *options.flags.split()]
    if options.soak:
        serving(options.model, flags, lambda port, server: uvloop.run(soak(port, server, options)))
        return
    command = [sys.executable, __file__, "--model", str(options.model), "--backend", options.backend, "--offline"]
    shares = []
    for _ in range(options.rounds):
        done = subprocess.run([*command, "--seconds", str(options.seconds)], capture_output=True, text=True, check=True)
        alone: float = json.loads(done.stdout.splitlines()[-1])
        print(f"offline predict: {alone:.0f} texts a second", flush=True)
        with_load = serving(
            options.model, flags, lambda port, _: uvloop.run(closed(port, options.clients, options.seconds))
        )
        report(f"{options.clients} clients", with_load, alone)
        shares.append(with_load.rate / alone)
    said = ", ".join(f"{100 * share:.0f}" for share in shares)
    print(f"share of offline: {100 * statistics.median(shares):.0f} %, the median of {said}", flush=True)
    beyond = serving(
        options.model, flags, lambda port, _: uvloop.run(opened(port, 2 * with_load.rate, options.seconds))
    )
    report("twice that rate", beyond, alone)


def report(name: str, seen: Seen, alone: float) -> None:
    others = {status: count for status, count in seen.statuses.items() if status not in {"200", "503"}}
    print(
        f"{name}: {seen.rate:.0f} answers a second, {100 * seen.rate / alone:.0f} % of offline; "
        f"p50 {seen.percentile(50):.1f} ms, p99 {seen.percentile(99):.1f} ms of the accepted; "
        f"503: {100 * seen.share('503'):.1f} %; others: {others or 'none'}; requests: {seen.statuses.total():,}",
        flush=True,
    )


def short_texts() -> list[str]:
    """Return texts that are all different, for equal ones are computed once."""
    from bertcnn.settings import Settings
    from bertcnn.text.dataset import load_examples

    parts = load_examples("builtin:reviews", Settings().data).values()
    return list(dict.fromkeys(text for part in parts for text in part.texts if len(text) <= SHORT))


def offline(model: Path, backend: Any, seconds: float) -> float:
    """Return texts a second of ``Predictor.predict``."""
    from bertcnn import Predictor

    predictor, texts = Predictor.load(model, backend=backend), short_texts()
    predictor.predict(texts)
    begun, number = time.perf_counter(), 0
    while (passed := time.perf_counter() - begun) < seconds:
        predictor.predict(texts)
        number += len(texts)
    return number / passed


def serving(model: Path, flags: list[str], load: Callable[[int, int], Seen]) -> Seen:
    """Put a load on a server that is started for it."""
    # A line a request would be written by the same cores that compute.
    command = [sys.executable, "-c", COMMAND, str(model), "--port", "0", "--log-level", "info", *flags]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert server.stderr is not None
        port = 0
        for line in server.stderr:
            event = json.loads(line)
            if event["event"] == "listening":
                port = int(event["address"].rsplit(":", 1)[1])
            if event["event"] == "serving":
                break
        else:
            sys.exit("The server did not start.")
        drain = subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)
        began = time.process_time(), of_loop(server.pid)
        seen = load(port, server.pid)
        each = 1000 / max(1, seen.statuses.total())
        client, loop = each * (time.process_time() - began[0]), each * (of_loop(server.pid) - began[1])
        print(f"  memory {resident(server.pid):.0f} MB; {counted(port)}", flush=True)
        print(
            f"  a request takes {loop:.2f} ms of a core in the event loop, and {client:.2f} in the client", flush=True
        )
        return seen
    finally:
        server.terminate()
        server.wait(60)
        drain.wait(10)


def resident(process: int) -> float:
    """Return megabytes of memory in use."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def of_loop(process: int) -> float:
    """Return the CPU seconds of a process's first thread, which runs the event loop."""
    fields = Path(f"/proc/{process}/task/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def counted(port: int) -> str:
    """Return what the server says of its batches."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = [line.decode().rsplit(" ", 1) for line in answer if line.startswith(b"bertcnn_batch")]
    found = {name: float(value) for name, value in lines}
    batches = max(1.0, found["bertcnn_batch_texts_count"])
    size, busy = found["bertcnn_batch_texts_sum"] / batches, found["bertcnn_batch_seconds_sum"]
    return f"{size:.1f} texts a batch, computing for {busy:.1f} s"


def requests_of(texts: list[str]) -> list[bytes]:
    made = []
    for text in texts:
        body = json.dumps({"texts": [text]}).encode()
        head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        made.append(head.encode() + b"\r\n\r\n" + body)
    return made


class Connection(asyncio.Protocol):
    """One connection that is kept, as far as the server keeps it; no streams, for they take twice the time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.transport: asyncio.Transport | None = None
        self.status: asyncio.Future[str] | None = None
        self.got = b""

    async def ask(self, request: bytes) -> str:
        """Send a request; return the status, or the name of what went wrong."""
        loop = asyncio.get_running_loop()
        try:
            if self.transport is None:
                self.transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self.port)
            self.status = loop.create_future()
            self.transport.write(request)
            return await self.status
        except OSError as error:
            self.close()
            return type(error).__name__

    def data_received(self, data: bytes) -> None:
        """Gather an answer."""
        self.got += data
        head, end, body = self.got.partition(b"\r\n\r\n")
        head = head.lower()
        if (
            self.status is None
            or not end
            or len(body) < int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        ):
            return
        self.got, status, self.status = b"", self.status, None
        if b"connection: close" in head:
            self.close()
        if not status.done():
            status.set_result(head[9:12].decode())

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self.transport, self.got = None, b""
        if self.status is not None and not self.status.done():
            self.status.set_exception(exc or ConnectionResetError())

    def close(self) -> None:
        """Give it up; the next request makes a new one."""
        if self.transport is not None:
            self.transport.close()
        self.transport = None


async def closed(port: int, clients: int, seconds: float) -> Seen:
    """Let clients ask one after the other; the first second warms up and does not count."""
    made, seen = requests_of(short_texts()), Seen()
    begun = time.perf_counter() + 1.0
    end = begun + seconds

    async def client(i: int) -> None:
        connection = Connection(port)
        while (started := time.perf_counter()) < end:
            status = await connection.ask(made[i % len(made)])
            if begun <= started:
                seen.add(status, time.perf_counter() - started)
            i += clients
        connection.close()

    await asyncio.gather(*(client(i) for i in range(clients)))
    seen.seconds = time.perf_counter() - begun
    return seen


async def soak(port: int, server: int, options: argparse.Namespace) -> Seen:
    """Let clients ask until there were so many requests, and print the server's memory at each tenth of them."""
    made, seen = requests_of(short_texts()), Seen()
    begun = time.perf_counter()

    async def client(i: int) -> None:
        connection = Connection(port)
        while seen.statuses.total() < options.soak and time.perf_counter() - begun < SOAK_SECONDS:
            seen.statuses[await connection.ask(made[i % len(made)])] += 1
            i += options.clients
            if (done := seen.statuses.total()) % max(1, options.soak // 10) == 0:
                passed, memory = time.perf_counter() - begun, resident(server)
                print(f"{done:,} requests, {passed:.0f} s: {memory:.0f} MB, {dict(seen.statuses)}", flush=True)
        connection.close()

    await asyncio.gather(*(client(i) for i in range(options.clients)))
    return seen


async def opened(port: int, rate: float, seconds: float) -> Seen:
    """Send at a rate, answered or not. Where all connections are busy, a request counts as not sent."""
    made, seen = requests_of(short_texts()), Seen()
    idle = [Connection(port) for _ in range(MOST_CONNECTIONS)]
    tasks: set[asyncio.Task[None]] = set()

    async def one(request: bytes, connection: Connection) -> None:
        started = time.perf_counter()
        seen.add(await connection.ask(request), time.perf_counter() - started)
        idle.append(connection)

    begun, sent = time.perf_counter(), 0
    while (passed := time.perf_counter() - begun) < seconds:
        for _ in range(int(passed * rate) - sent):
            sent += 1
            if not idle:
                seen.statuses["not sent"] += 1
                continue
            task = asyncio.create_task(one(made[sent % len(made)], idle.pop()))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    seen.seconds = time.perf_counter() - begun
    for connection in idle:
        connection.close()
    return seen


if __name__ == "__main__":
    main()
