"""The server: answers, limits, bad input, batches under concurrency, reload, signals, both protocols."""

import asyncio
import base64
import copy
import gzip
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from starlette.testclient import TestClient
from uvicorn.supervisors import Multiprocess

from bertcnn import BertCNN, ModelError, Predictor, SettingsError
from bertcnn.apps.serve import _key, serve
from bertcnn.apps.server import batching, connections, middleware, workers
from bertcnn.apps.server.app import create_app
from bertcnn.apps.server.batching import Batcher, Busy, ComputedBatch
from bertcnn.apps.server.hosting import BreathingBackend, Classify, estimated_pieces
from bertcnn.apps.server.limits import ServerSettings, is_loopback
from bertcnn.apps.server.metrics import SHARED
from bertcnn.apps.server.open_inference import readiness
from bertcnn.apps.server.schemas import ExplainResponse, InferResponse, ModelsResponse, PredictResponse
from bertcnn.apps.server.service import Service
from bertcnn.apps.server.workers import JsonLines, share_cores
from bertcnn.network.encoder import load_tokenizer
from tests.conftest import make_texts

LONG = "the film was good and so is the phone, but it is a very dull room "
TEXTS = ["good", "", "a", "so very awful, really", LONG * 3, "🙂 ünïcode", "a\x00b"]
JSON = {"content-type": "application/json"}
HTTP = httpx2.Client(timeout=20, trust_env=False, limits=httpx2.Limits(max_keepalive_connections=0))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Predictor:
    return Predictor.load(folder)


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    settings = ServerSettings(model=folder, max_wait_ms=0, max_body_bytes=20_000, max_texts=8, max_characters=5000)
    with TestClient(create_app(settings), client=("127.0.0.1", 50000)) as client:
        yield client


def error_of(answer: httpx2.Response) -> str:
    found = answer.json()
    assert set(found) == {"error"}
    return str(found["error"])


class Held:
    """Computing that waits until it is let go, so that tests need no luck with the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go, self.calls = threading.Event(), threading.Event(), []
        plain = Classify.__call__

        def slow(work: Classify, texts: list[str]) -> list[dict]:
            self.calls.append(list(texts))
            self.begun.set()
            assert self.go.wait(20)
            return plain(work, texts)

        monkeypatch.setattr(Classify, "__call__", slow)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held = Held(monkeypatch)
    yield held
    held.go.set()


@contextmanager
def listening(settings: ServerSettings) -> Iterator[tuple[uvicorn.Server, str, int]]:
    """Run uvicorn in a thread, on a free port."""
    config = uvicorn.Config(
        create_app(settings), port=0, access_log=False, log_config=None, proxy_headers=False,
        timeout_graceful_shutdown=20, http=connections.connections(settings), ws="none",
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield server, *server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        thread.join(25)
        assert not thread.is_alive()


def until(done: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.01)


def post(port: int, texts: list[str], timeout: float = 20) -> httpx2.Response:
    return HTTP.post(f"http://127.0.0.1:{port}/v1/predict", json={"texts": texts}, timeout=timeout)


# ---- answers


def test_answers_equal_the_predictors(client: TestClient, reference: Predictor) -> None:
    answer = client.post("/v1/predict", json={"texts": TEXTS})
    assert answer.status_code == 200
    found = PredictResponse.model_validate(answer.json())
    assert found.model == "reviews"
    assert len(found.version) == 12
    wanted = [one.to_dict() for one in reference.predict(TEXTS)]
    for mine, theirs in zip(answer.json()["predictions"], wanted, strict=True):
        assert mine["label"] == theirs["label"]
        assert mine["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-6)
        assert list(mine["probabilities"]) == list(theirs["probabilities"])
    assert client.post("/v1/predict", json={"texts": []}).json()["predictions"] == []


def test_explanations_equal_those_of_the_package(client: TestClient, reference: Predictor) -> None:
    from bertcnn.inference.explaining.explain import explain

    texts = ["the film was good", "", "not really so bad"]
    body = {
        "texts": texts,
        "label": "negative",
        "audit": True,
        "counterfactual": True,
        "leave_one_out": True,
        "threshold": 0.9,
    }
    answer = client.post("/v1/explain", json=body)
    assert answer.status_code == 200, answer.text
    found = ExplainResponse.model_validate(answer.json()).explanations
    wanted = explain(reference, texts, audit=True, counterfactual=True, leave_one_out=True, threshold=0.9)
    for mine, theirs in zip(found, (one.to_dict(label="negative") for one in wanted), strict=True):
        assert mine["why"]["margin"] == pytest.approx(theirs["why"]["margin"], abs=1e-4)
        assert [p["text"] for p in mine["phrases"]] == [p["text"] for p in theirs["phrases"]]
        assert mine["why"]["word_effects"] == pytest.approx(theirs["why"]["word_effects"], abs=1e-4)
        assert mine.keys() == theirs.keys()
    plain = client.post("/v1/explain", json={"texts": ["good"]}).json()["explanations"][0]
    assert plain["audit"] is plain["counterfactual"] is None
    wrong = client.post("/v1/explain", json={"texts": ["good"], "label": "positve"})
    assert wrong.status_code == 422
    assert "Did you mean 'positive'?" in error_of(wrong)
    assert client.post("/v1/explain", json={"texts": ["x"], "threshold": 2}).status_code == 422


def test_what_is_served_is_told(client: TestClient, reference: Predictor) -> None:
    (model,) = ModelsResponse.model_validate(client.get("/v1/models").json()).models
    assert (model.name, model.labels, model.backend) == ("reviews", reference.label_names, "torch")
    assert client.get("/healthz").json() == {"status": "live"}
    assert client.get("/readyz").status_code == 200
    assert error_of(client.get("/nowhere")) == "No such path. GET /openapi.json lists them."
    assert client.get("/v1/predict").status_code == 405


def test_many_labels(tiny: str, tokenizer: object, tmp_path: Path) -> None:
    model = BertCNN.from_encoder(tiny, labels=["a", "b"], multi_label=True, depth=1, num_filters=4)
    model.config.thresholds = [0.0, 0.0]
    model.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    with TestClient(create_app(ServerSettings(model=tmp_path, name="topics"))) as client:
        (found,) = client.post("/v1/predict", json={"texts": ["x"]}).json()["predictions"]
        assert (found["label"], found["labels"]) == ("a|b", ["a", "b"])
        assert client.get("/v2/models/topics").status_code == 200


# ---- bad input


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "not JSON"),
        (b"texts=good", 400, "not JSON"),
        (b'{"texts": ["good"', 400, "not JSON"),
        (b"\xff\xfe\x00", 400, "not JSON"),
        (b'{"texts": ["\xed\xa0\x80"]}', 400, "not JSON"),
        (b'{"texts": ["\\ud800"]}', 400, "not JSON"),
        (b'{"texts": ["a\x00b"]}', 400, "not JSON"),
        (b"[" * 9000, 400, "recursion limit"),
        (b'{"texts": ' + b"[" * 150 + b"]" * 150 + b"}", 422, "texts.0: input should be a valid string"),
        (b'{"texts": ' + b'{"a":' * 3000 + b"1" + b"}" * 3001, 400, "recursion limit"),
        (b"[]", 422, "should be an object"),
        (b"null", 422, "the body: "),
        (b"{}", 422, "texts is missing"),
        (b'{"texts": "good"}', 422, "texts: input should be a valid array"),
        (b'{"texts": [1, null, true, {}, [], "a", 2.5, 7]}', 422, "And 2 more."),
        (b'{"texts": [NaN]}', 422, "texts.0"),
        (b'{"txts": ["a"]}', 422, "Unknown key 'txts'. Did you mean 'texts'? Known: texts. texts is missing."),
        (b'{"texts": ["a"], "' + b"k" * 9000 + b'": 1}', 422, "Unknown key 'kkk"),
        (json.dumps({"texts": ["a"] * 9}).encode(), 422, "Got 9 texts, expected at most 8 a request."),
        (json.dumps({"texts": ["a", "b" * 5001]}).encode(), 422, "Text 1 has 5,001 characters, expected at most 5,000"),
        (json.dumps({"texts": ["b" * 30_000]}).encode(), 413, "expected at most 20,000"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/predict", "/v1/explain"])
def test_bad_bodies_are_refused_in_words(client: TestClient, path: str, body: bytes, status: int, words: str) -> None:
    answer = client.post(path, content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    said = error_of(answer)
    if "Known: texts." not in words or path.endswith("predict"):
        assert words in said
    assert len(said) < 900
    assert said.endswith(".")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/octet-stream"])
def test_other_content_types_are_refused(client: TestClient, kind: str) -> None:
    answer = client.post("/v1/predict", content=b'{"texts": ["a"]}', headers={"content-type": kind})
    assert answer.status_code == 415
    assert "Content-Type: application/json" in error_of(answer)


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
def test_compressed_bodies_are_refused(client: TestClient, encoding: str) -> None:
    for content in (b'{"texts": ["a"]}', gzip.compress(b'{"texts": ["a"]}')):
        answer = client.post("/v1/predict", content=content, headers={**JSON, "content-encoding": encoding})
        assert answer.status_code == 415
        assert f"Content-Encoding: {encoding}" in error_of(answer)
    headers = {**JSON, "content-encoding": "identity"}
    assert client.post("/v1/predict", content=b'{"texts": ["a"]}', headers=headers).status_code == 200


def test_a_byte_order_mark_is_no_part_of_a_body(client: TestClient) -> None:
    body = b'\xef\xbb\xbf{"texts": ["a"]}'
    assert client.post("/v1/predict", content=body, headers=JSON).status_code == 200


def test_load_balancers_may_ask_for_heads(serving: int) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/v1/models", "/v2/health/live", "/v2/health/ready"):
        answer = HTTP.head(f"http://127.0.0.1:{serving}{path}")
        assert (answer.status_code, answer.content) == (200, b"")


def test_no_answer_leads_to_another_host(client: TestClient) -> None:
    answer = client.post("/v1/predict/", json={"texts": ["a"]}, headers={"host": "evil.org"}, follow_redirects=False)
    assert answer.status_code == 404
    assert "location" not in answer.headers


def test_charset_and_case_of_the_content_type_do_not_matter(client: TestClient) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert client.post("/v1/predict", content=b'{"texts": ["a"]}', headers=headers).status_code == 200


def test_a_model_without_filters_says_so(tiny: str, tokenizer: object, tmp_path: Path) -> None:
    BertCNN.from_encoder(tiny, labels=["a", "b"], depth=1, features="mean").save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    with TestClient(create_app(ServerSettings(model=tmp_path))) as client:
        answer = client.post("/v1/explain", json={"texts": ["x"]})
        assert answer.status_code == 422
        assert "plain linear head" in error_of(answer)
        assert client.post("/v1/predict", json={"texts": ["x"]}).status_code == 200


def test_our_own_faults_tell_nothing_of_a_text(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Classify, texts: list[str]) -> list[dict]:
        raise RuntimeError(texts)

    monkeypatch.setattr(Classify, "__call__", broken)
    app = create_app(ServerSettings(model=folder))
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post("/v1/predict", json={"texts": ["sesame"]})
        assert answer.status_code == 500
        assert "sesame" not in answer.text
        assert 'bertcnn_requests_total{route="/v1/predict",status="500"} 1.0' in client.get("/metrics").text
    try:
        raise RuntimeError("sesame")
    except RuntimeError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "it broke\nsesame", (), sys.exc_info())
    line = JsonLines().format(record)
    assert "sesame" not in line
    assert json.loads(line)["exception"] == "RuntimeError"
    assert "test_server.py" in json.loads(line)["where"][0]


def test_logs_hold_no_text(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="bertcnn.server"):
        client.post("/v1/predict?q=sesame", json={"texts": ["sesame"]})
        client.post("/v1/predict/sesame", json={"texts": 3})
        client.request("SESAME", "/v1/predict")
        client.post("/v1/predict", json={"sesame": 3})
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "bertcnn.server"]
    assert [(line["route"], line["status"]) for line in lines[:2]] == [("/v1/predict", 200), ("other", 404)]
    assert len(lines) == 4
    assert "sesame" not in json.dumps(lines).lower()


# ---- the key, other origins


def test_the_key(folder: Path) -> None:
    with TestClient(create_app(ServerSettings(model=folder, api_key="open sesame"))) as client:
        body = {"texts": ["a"]}
        for path in ("/v1/models", "/metrics", "/v2/models/reviews", "/v2"):
            assert client.get(path).status_code == 401
        for headers in (
            {},
            {"x-api-key": "open"},
            {"authorization": "Bearer é"},
            {"authorization": "Basic open sesame"},
        ):
            answer = client.post("/v1/predict", json=body, headers={k: v.encode() for k, v in headers.items()})
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "X-API-Key" in error_of(answer)
        for headers in ({"x-api-key": "open sesame"}, {"authorization": "bearer open sesame"}):
            assert client.post("/v1/predict", json=body, headers=headers).status_code == 200
            assert client.post("/v1/reload", headers=headers).status_code == 200
        for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
            assert client.get(path).status_code == 200
        assert client.get("/openapi.json").json()["security"] == [{"key": []}]
        counts = client.get("/metrics", headers={"x-api-key": "open sesame"}).text
        for route in ("/v1/predict", "/v1/models", "/v2/models/{name}"):  # refused at the door, and still known by name
            assert re.search(rf'bertcnn_requests_total{{route="{re.escape(route)}",status="401"}} [1-9]', counts)
    assert "sesame" not in repr(ServerSettings(model=folder, api_key="open sesame"))


def test_only_origins_of_the_list_may_call(folder: Path) -> None:
    settings = ServerSettings(model=folder, cors=("https://example.org",), api_key="open sesame")
    with TestClient(create_app(settings)) as client:
        asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        allowed = client.options("/v1/predict", headers={"origin": "https://example.org", **asks})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"
        assert client.options("/v1/predict", headers={"origin": "https://evil.org", **asks}).status_code == 400
        refused = client.post("/v1/predict", json={}, headers={"origin": "https://example.org"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://example.org"


def test_reload_is_for_programs_of_this_machine(folder: Path, client: TestClient) -> None:
    assert client.post("/v1/reload").json()["name"] == "reviews"
    for headers in ({"origin": "http://127.0.0.1:8000"}, {"x-forwarded-for": "10.0.0.1"}):
        answer = client.post("/v1/reload", headers=headers)
        assert answer.status_code == 403
        assert "--api-key-file" in error_of(answer)
    with TestClient(create_app(ServerSettings(model=folder)), client=("10.0.0.1", 5)) as other:
        assert other.post("/v1/reload").status_code == 403


@pytest.mark.parametrize(("host", "local"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("x.org", False)])
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_settings_out_of_range_are_told_at_once() -> None:
    with pytest.raises(SettingsError, match=r"workers is 0.*port is 70000.*cors.*at least 8 characters"):
        ServerSettings(model=Path(), workers=0, port=70_000, cors=("example.org",), api_key="short")


# ---- batches


def answered(texts: list[str]) -> list[str]:
    return [f"<{text}>" for text in texts]


def batched(play: Callable[[Batcher], object], **options: float) -> object:
    """Run a play with a batcher that is started and closed."""

    async def run() -> object:
        batcher = Batcher(**{"max_tokens": 10, "max_wait_seconds": 0.0, "queue_texts": 100, **options})
        batcher.start()
        try:
            return await play(batcher)
        finally:
            await batcher.close()

    return asyncio.run(run())


class Recorder:
    """Work that notes what it was given, and waits for leave to begin."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Event()

    def __call__(self, texts: list[str]) -> list[str]:
        self.batches.append(texts)
        assert self.go.wait(10)
        return answered(texts)


def test_each_caller_gets_his_own_answers() -> None:
    async def play(batcher: Batcher) -> list[list[str]]:
        asked = [[f"{i}-{k}" for k in range(i % 7)] for i in range(200)]
        costs = [[1 + (i + k) % 14 for k in range(len(texts))] for i, texts in enumerate(asked)]
        found = await asyncio.gather(*(batcher.submit(answered, t, c) for t, c in zip(asked, costs, strict=True)))
        assert found == [answered(texts) for texts in asked]
        assert (batcher.waiting_texts, batcher.waiting_tokens) == (0, 0)

    batched(play, queue_texts=10_000)


def test_waiting_requests_are_joined_within_the_budget() -> None:
    work = Recorder()

    async def play(batcher: Batcher) -> None:
        first = asyncio.create_task(batcher.submit(work, ["first"], [1]))
        await asyncio.sleep(0.02)
        later = [asyncio.create_task(batcher.submit(work, [f"t{i}"], [4])) for i in range(5)]
        await asyncio.sleep(0.02)
        work.go.set()
        await asyncio.gather(first, *later)

    batched(play)
    assert work.batches == [["first"], ["t0", "t1"], ["t2", "t3"], ["t4"]]


def test_lanes_compute_side_by_side_each_an_equal_part_of_what_waits() -> None:
    together = threading.Barrier(2, timeout=10)  # broken unless two batches are in work at once
    batches: list[list[str]] = []

    def work(texts: list[str]) -> list[str]:
        batches.append(texts)
        together.wait()
        return answered(texts)

    async def play(batcher: Batcher) -> None:
        texts = [f"t{i}" for i in range(8)]
        assert await batcher.submit(work, texts, [1] * 8) == answered(texts)

    batched(play, lanes=2, max_tokens=100)
    assert sorted(map(len, batches)) == [4, 4]


def test_while_one_lane_reads_a_giant_the_other_answers() -> None:
    go = threading.Event()

    def work(texts: list[str]) -> list[str]:
        assert texts != ["giant"] or go.wait(10)
        return answered(texts)

    async def play(batcher: Batcher) -> None:
        giant = asyncio.create_task(batcher.submit(work, ["giant"], [1000]))
        await asyncio.sleep(0.02)
        assert await batcher.submit(work, ["short"], [1]) == ["<short>"]
        assert not giant.done()
        go.set()
        assert await giant == ["<giant>"]

    batched(play, lanes=2)


def test_cores_are_divided_among_processes_and_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(cores: int | None, **options: Any) -> tuple[int, str]:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if cores is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", str(cores))
        settings = ServerSettings(model=Path(), **{"device": "cpu", **options})
        return share_cores(settings), os.environ["OMP_NUM_THREADS"]

    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    assert shared(4) == (4, "1")
    assert shared(4, lanes=1) == (1, "4")
    assert shared(4, lanes=3) == (3, "1")
    monkeypatch.setattr("bertcnn.apps.server.workers.has_gpu", lambda: True)
    assert shared(4, device=None) == (1, "4")
    assert shared(4, device=None, backend="onnx") == (4, "1")  # a graph runs on the CPU
    monkeypatch.setattr("bertcnn.apps.server.workers.threads", lambda: 8)
    assert shared(None, workers=2, lanes=2) == (2, "2")
    assert shared(None, workers=16) == (1, "1")
    with pytest.raises(SettingsError, match="lanes is 0"):
        ServerSettings(model=Path(), lanes=0)


@pytest.mark.parametrize(
    "text", ["The movie was not bad at all.", "\u672c\u5f53\u306b\u826f\u3044\u6620\u753b", "", "\ud800"]
)
def test_a_size_is_about_the_word_pieces(text: str) -> None:
    pieces = int(load_tokenizer("minilm")([text]).lengths[0])
    assert estimated_pieces(text) >= 1
    assert pieces / 3 <= estimated_pieces(text) <= 3 * pieces


def test_a_short_request_does_not_wait_for_a_long_one_to_end() -> None:
    work = Recorder()

    async def play(batcher: Batcher) -> None:
        long = asyncio.create_task(batcher.submit(work, [f"l{i}" for i in range(40)], [5] * 40))
        await asyncio.sleep(0.02)
        short = asyncio.create_task(batcher.submit(work, ["short"], [5]))
        await asyncio.sleep(0.02)
        work.go.set()
        assert await short == ["<short>"]
        assert await long == answered([f"l{i}" for i in range(40)])

    batched(play)
    assert "short" in work.batches[1]


def test_a_short_text_is_computed_in_the_midst_of_a_very_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()
    clock, seen = [0.0], list[tuple[int, float]]()
    monkeypatch.setattr(batching, "monotonic", lambda: clock[0])

    def observe(batch: ComputedBatch) -> None:
        seen.append((batch.tokens, batch.seconds))
        raise OSError("no room for counts")  # which must end no lane

    async def play(batcher: Batcher) -> None:
        def work(texts: list[str]) -> list[str]:
            if "giant" in texts:
                begun.set()
                assert go.wait(10)
                batcher.breathe()
                assert done == ["<short>"]
                batcher.breathe()
            else:
                clock[0] += 5
                done.extend(answered(texts))
                batcher.breathe()  # one level is enough: the other giant waits for his turn
            return answered(texts)

        done: list[str] = []
        giant = asyncio.create_task(batcher.submit(work, ["giant"], [500]))
        await asyncio.to_thread(begun.wait, 10)
        short = asyncio.create_task(batcher.submit(work, ["short"], [5]))
        other = asyncio.create_task(batcher.submit(work, ["giant too"], [500]))
        await asyncio.sleep(0.02)
        go.set()
        assert await short == ["<short>"]
        assert await giant == ["<giant>"]
        assert await other == ["<giant too>"]
        batcher.breathe()  # from elsewhere: nothing

    batched(play, observe=observe)
    assert seen == [(5, 5), (500, 0), (500, 5)], "the short text's time is its own"


@pytest.mark.parametrize("option", ["audit", "counterfactual"])
def test_what_explanations_read_again_lets_others_in(reference: Predictor, option: str) -> None:
    pauses: list[int] = []
    text = "the food was good but the staff was awful and slow"
    plain, again = copy.copy(reference), copy.copy(reference)
    for one in (plain, again):
        one.backend = BreathingBackend(reference.backend, lambda: pauses.append(1), max_tokens=1024)
    plain.explain([text])
    few = len(pauses)
    again.explain([text], audit=option == "audit", counterfactual=option == "counterfactual")
    assert len(pauses) - few > few


def test_what_nobody_waits_for_any_more_is_not_computed_to_its_end() -> None:
    begun, go = threading.Event(), threading.Event()
    parts: list[str] = []

    async def play(batcher: Batcher) -> None:
        def work(texts: list[str]) -> list[str]:
            if "giant" in texts:
                begun.set()
                assert go.wait(10)
                for _ in range(1000):
                    batcher.breathe()
                    parts.append("giant")
            return answered(texts)

        giants = [asyncio.create_task(batcher.submit(work, ["giant"], [500])) for _ in range(2)]
        await asyncio.to_thread(begun.wait, 10)
        for giant in giants:
            giant.cancel()
        await asyncio.sleep(0.02)
        go.set()
        assert await batcher.submit(work, ["next"], [20]) == ["<next>"]
        assert batcher._lane_rate > 0

    batched(play)
    assert parts == []


def test_the_server_turns_to_short_texts_between_the_parts_of_a_giant(
    folder: Path, reference: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    plain = Classify.__call__

    def noted(work: Classify, texts: list[str]) -> list[dict]:
        calls.append(texts[0][:10])
        answers = plain(work, texts)
        calls.append(texts[0][:10])
        return answers

    monkeypatch.setattr(Classify, "__call__", noted)
    giant = LONG * 1200
    settings = ServerSettings(model=folder, max_batch_tokens=64)
    app = create_app(settings)
    with TestClient(app) as client, ThreadPoolExecutor(2) as pool:
        long = pool.submit(client.post, "/v1/predict", json={"texts": [giant]})
        until(lambda: calls)
        short = client.post("/v1/predict", json={"texts": ["good"]})
        assert short.json()["predictions"][0]["label"] == "positive"
        found = long.result().json()["predictions"][0]
    assert calls == [giant[:10], "good", "good", giant[:10]]
    assert found["probabilities"] == pytest.approx(reference.predict([giant])[0].probabilities, abs=1e-6)


def test_other_work_makes_another_batch() -> None:
    one, two = Recorder(), Recorder()

    async def play(batcher: Batcher) -> None:
        one.go.set()
        two.go.set()
        both = [asyncio.create_task(batcher.submit(w, [name], [1])) for w, name in ((one, "a"), (two, "b"), (one, "c"))]
        assert await asyncio.gather(*both) == [["<a>"], ["<b>"], ["<c>"]]

    batched(play, max_wait_seconds=0.05)
    assert (one.batches, two.batches) == ([["a", "c"]], [["b"]])


def test_a_fault_of_one_request_is_no_others() -> None:
    def picky(texts: list[str]) -> list[str]:
        if "bad" in texts:
            raise ValueError("bad")
        return answered(texts)

    async def play(batcher: Batcher) -> None:
        asked = [["a"], ["b", "bad"], ["c", "d"]]
        tasks = [batcher.submit(picky, texts, [1] * len(texts)) for texts in asked]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert found[0] == ["<a>"]
        assert isinstance(found[1], ValueError)
        assert found[2] == ["<c>", "<d>"]

    batched(play, max_wait_seconds=0.05)


def test_the_queue_is_bounded_and_the_cancelled_leave_it() -> None:
    work = Recorder()

    async def play(batcher: Batcher) -> None:
        running = asyncio.create_task(batcher.submit(work, ["running"], [1]))
        await asyncio.sleep(0.02)
        waiting = asyncio.create_task(batcher.submit(work, ["a", "b"], [1, 1]))  # the empty queue takes anything
        await asyncio.sleep(0)
        more = asyncio.create_task(batcher.submit(work, ["c"], [1]))
        await asyncio.sleep(0)
        assert batcher.waiting_texts == 3
        with pytest.raises(Busy) as refused:
            await batcher.submit(work, ["d"], [1])
        assert 1 <= refused.value.retry_after <= 60
        waiting.cancel()
        await asyncio.sleep(0)
        assert (batcher.waiting_texts, batcher.waiting_tokens) == (1, 1)
        last = asyncio.create_task(batcher.submit(work, ["e"], [1]))
        await asyncio.sleep(0)
        work.go.set()
        assert await asyncio.gather(running, more, last) == [["<running>"], ["<c>"], ["<e>"]]

    batched(play, queue_texts=3)
    assert work.batches == [["running"], ["c", "e"]]


def test_nobody_is_let_in_who_would_wait_too_long() -> None:
    work = Recorder()

    def slow(texts: list[str]) -> list[str]:
        time.sleep(0.05)
        return answered(texts)

    async def play(batcher: Batcher) -> None:
        await batcher.submit(slow, ["a"], [10])  # some 200 tokens a second, and half a second may be waited
        many = asyncio.create_task(batcher.submit(work, ["b"] * 50, [10] * 50))
        await asyncio.sleep(0.02)
        one = asyncio.create_task(batcher.submit(work, ["c"], [10]))  # let in: they take turns
        await asyncio.sleep(0)
        with pytest.raises(Busy) as refused:
            await batcher.submit(work, ["d"] * 20, [10] * 20)
        assert refused.value.retry_after >= 2
        work.go.set()
        assert await one == ["<c>"]
        await many

    batched(play, queue_seconds=0.5)


def test_concurrent_callers_over_http(folder: Path, reference: Predictor) -> None:
    texts, _ = make_texts(96, seed=5)
    wanted = {text: one.to_dict() for text, one in zip(texts, reference.predict(texts), strict=True)}
    with listening(ServerSettings(model=folder, max_wait_ms=5)) as (_, _, port), ThreadPoolExecutor(16) as pool:
        asked = [texts[i : i + 1 + i % 4] for i in range(len(texts))]
        for mine, answer in zip(asked, pool.map(lambda some: post(port, some), asked), strict=True):
            assert answer.status_code == 200
            for text, found in zip(mine, answer.json()["predictions"], strict=True):
                assert found["probabilities"] == pytest.approx(wanted[text]["probabilities"], abs=1e-5)
        page = HTTP.get(f"http://127.0.0.1:{port}/metrics").text
    numbers = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert float(numbers['bertcnn_requests_total{route="/v1/predict",status="200"}']) == len(asked)
    assert float(numbers['bertcnn_texts_total{route="/v1/predict"}']) == sum(map(len, asked))
    assert float(numbers["bertcnn_batch_texts_count"]) < len(asked)  # some were joined
    assert float(numbers["bertcnn_batch_texts_sum"]) == sum(map(len, asked))
    assert float(numbers["bertcnn_queue_texts"]) == 0


# ---- time and load


def test_a_full_queue_is_503_with_retry_after(folder: Path, held: Held) -> None:
    settings = ServerSettings(model=folder, queue_texts=2, max_wait_ms=0)
    with TestClient(create_app(settings)) as client, ThreadPoolExecutor(4) as pool:
        service = client.app.state.service
        running = pool.submit(client.post, "/v1/predict", json={"texts": ["a"]})
        assert held.begun.wait(10)
        waiting = [pool.submit(client.post, "/v1/predict", json={"texts": ["b"]}) for _ in range(2)]
        until(lambda: service.batcher.waiting_texts == 2)
        for path, body in (
            ("/v1/predict", {"texts": ["c"]}),
            ("/v1/explain", {"texts": ["c"]}),
            ("/v2/models/reviews/infer", tensor(["c"])),
        ):
            answer = client.post(path, json=body)
            assert answer.status_code == 503
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert "waiting" in error_of(answer)
        page = client.get("/metrics").text
        assert "bertcnn_queue_texts 2.0" in page
        assert 'bertcnn_rejected_total{reason="queue"} 3.0' in page
        held.go.set()
        assert {one.result().status_code for one in (running, *waiting)} == {200}


def test_too_many_requests_at_once_are_refused(folder: Path, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "MOST_OPEN", 1)
    with TestClient(create_app(ServerSettings(model=folder))) as client, ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.post, "/v1/predict", json={"texts": ["a"]})
        assert held.begun.wait(10)
        answer = client.post("/v1/predict", json={"texts": ["b"]})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert client.get("/healthz").status_code == 200
        held.go.set()
        assert running.result().status_code == 200
        monkeypatch.setattr(middleware, "MOST_HELD_BYTES", 10)
        assert "read at once" in error_of(client.post("/v1/predict", json={"texts": ["b"]}))


def test_no_answer_in_time_is_504(folder: Path, held: Held) -> None:
    with TestClient(create_app(ServerSettings(model=folder, timeout_seconds=0.2))) as client:
        answer = client.post("/v1/predict", json={"texts": ["a"]})
        assert answer.status_code == 504
        assert "within 0.2 s" in error_of(answer)
        held.go.set()
        until(lambda: client.post("/v1/predict", json={"texts": ["b"]}).status_code == 200)


def raw(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def said(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_slow_and_vanishing_clients_do_no_harm(folder: Path, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "DISCARD_SECONDS", 0.1)
    settings = ServerSettings(model=folder, timeout_seconds=0.8, max_wait_ms=0, max_body_bytes=50_000)
    with listening(settings) as (server, _, port):
        service = server.config.app.state.service
        slow = raw(port)
        slow.sendall(HEAD + b'Content-Length: 100\r\n\r\n{"te')
        vanishing = raw(port)
        vanishing.sendall(HEAD + b'Content-Length: 100\r\n\r\n{"te')
        vanishing.close()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(post, port, ["a"])
            assert held.begun.wait(10)
            gone = raw(port)
            gone.sendall(HEAD + b'Content-Length: 18\r\n\r\n{"texts":["gone"]}')
            until(lambda: service.batcher.waiting_texts == 1)
            gone.close()
            until(lambda: service.batcher.waiting_texts == 0)  # its work is dropped
            held.go.set()
            assert running.result().status_code == 200
        assert held.calls == [["a"]]
        assert said(slow).startswith(b"HTTP/1.1 408")
        slow.close()
        assert post(port, ["b"]).status_code == 200
        assert service.batcher.waiting_texts == 0
        page = HTTP.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'bertcnn_requests_total{route="/v1/predict",status="499"} 2.0' in page
        with raw(port) as connection:
            part = b"2710\r\n" + b" " * 10_000 + b"\r\n"
            connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + 9 * part)
            answer = said(connection)
            assert answer.startswith(b"HTTP/1.1 413")
            assert b"Got more than 50,000 bytes, expected at most 50,000." in answer
        with raw(port) as connection:
            connection.sendall(HEAD + b"Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
            assert said(connection).startswith(b"HTTP/1.1 413")  # and not 100


GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        [GET + b"X: ", *[b"x" * 1_000_000] * 200],  # without an end
        [GET + b"X: " + b"x" * 70_000 + b"\r\n\r\n"],
        [GET, *[b"X: " + b"x" * 1000 + b"\r\n"] * 70, b"\r\n"],
        [b"GET /" + b"x" * 70_000],
        [GET + b"\r\n" + GET + b"X: ", *[b"x" * 50_000] * 10],  # of the second on a connection
    ],
)
def test_headers_have_a_limit(serving: int, parts: list[bytes]) -> None:
    begun = time.monotonic()
    with raw(serving) as connection:
        with suppress(OSError):  # it is not read for ever
            for part in parts:
                connection.sendall(part)
        assert len(parts) == 201 or b"HTTP/1.1 431" in said(connection)
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("ending", [b"0\r\nX: " + b"x" * 200_000, b"5;" + b"x" * 200_000])
def test_what_is_no_part_of_a_body_has_a_limit_too(serving: int, ending: bytes) -> None:
    with raw(serving) as connection, suppress(OSError):
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + ending)
        assert b"HTTP/1.1 431" in said(connection)


def test_headers_and_bodies_within_the_limit_pass(serving: int) -> None:
    url = f"http://127.0.0.1:{serving}/v1/predict"
    headers = {"x-long": "x" * 60_000}
    answer = HTTP.post(url, json={"texts": ["good" * 20_000] * 3}, headers=headers)
    assert answer.status_code == 200
    with raw(serving) as connection:
        connection.sendall((GET + b"X: " + b"x" * 60_000 + b"\r\n\r\n") * 4 + GET + b"Connection: close\r\n\r\n")
        assert said(connection).count(b"HTTP/1.1 200") == 5


def test_whoever_sends_no_request_is_sent_away(folder: Path) -> None:
    with listening(ServerSettings(model=folder, timeout_seconds=0.5)) as (_, _, port):
        begun = time.monotonic()
        with raw(port) as idle, raw(port) as half, raw(port) as again:
            half.sendall(GET)
            again.sendall(GET + b"\r\n" + GET)
            for _ in range(8):  # each byte is no new beginning
                time.sleep(0.1)
                with suppress(OSError):
                    half.sendall(b"X")
            assert said(idle) == b""
            assert said(half).startswith(b"HTTP/1.1 408")
            answers = said(again)
            assert answers.startswith(b"HTTP/1.1 200")
            assert b"HTTP/1.1 408" in answers
        assert time.monotonic() - begun < 5


def test_a_connection_lies_idle_for_as_long_as_a_proxy_keeps_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connections.IDLE_SECONDS > 60
    monkeypatch.setattr(connections, "IDLE_SECONDS", 2.0)
    with listening(ServerSettings(model=folder, timeout_seconds=0.5)) as (_, _, port), raw(port) as connection:
        for _ in range(3):
            connection.sendall(GET + b"\r\n")
            time.sleep(1.0)  # longer than a request may take
            assert connection.recv(10_000).count(b"HTTP/1.1 200") == 1
        begun = time.monotonic()
        connection.sendall(b"\r\n")  # no request, and no new beginning
        assert said(connection) == b""
        assert time.monotonic() - begun < 3


def test_connections_have_a_number(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert 1 <= connections.most_connections() <= connections.MOST_CONNECTIONS
    monkeypatch.setattr(connections, "most_connections", lambda: 2)
    monkeypatch.setattr(connections.Connection, "_warned", -connections.WARN_SECONDS)
    with listening(ServerSettings(model=folder)) as (server, _, port), caplog.at_level(logging.WARNING):
        with raw(port), raw(port):
            until(lambda: len(server.server_state.connections) == 2)
            for _ in range(3):
                with raw(port) as more:
                    assert said(more).startswith(b"HTTP/1.1 503")
        until(lambda: not server.server_state.connections)
        assert HTTP.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    assert [record.message for record in caplog.records].count("too many connections") == 1


def test_stopping_waits_for_no_body_that_is_on_its_way(folder: Path) -> None:
    with listening(ServerSettings(model=folder)) as (server, _, port), raw(port) as slow, raw(port) as head:
        head.sendall(HEAD)
        slow.sendall(HEAD + b'Content-Length: 100\r\n\r\n{"te')
        until(lambda: server.server_state.tasks)
        begun = time.monotonic()
        server.should_exit = True
        assert said(slow).startswith(b"HTTP/1.1 503")
        assert said(head) == b""
        assert time.monotonic() - begun < 5


def test_upgrades_are_answered_as_plain_requests(serving: int) -> None:
    with raw(serving) as connection:
        upgrade = (
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"
        )
        connection.sendall(GET + upgrade + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "request_",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: x\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(serving: int, request_: bytes) -> None:
    with raw(serving) as connection:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        assert said(connection).startswith(b"HTTP/1.1 400")


@pytest.fixture(scope="module")
def serving(folder: Path) -> Iterator[int]:
    with listening(ServerSettings(model=folder)) as (_, _, port):
        yield port


# ---- reload, stop


def test_a_reload_under_load_loses_no_request(folder: Path, model: BertCNN, tokenizer: object, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "reviews"))
    other = tmp_path / "other"
    model.config.id2label = {0: "worse", 1: "better"}
    model.save_pretrained(other)
    tokenizer.save(other)
    with listening(ServerSettings(model=place, max_wait_ms=1)) as (_, _, port), ThreadPoolExecutor(8) as pool:
        stop = threading.Event()

        def ask(_: int) -> list[tuple[int, tuple[str, ...], str]]:
            found = []
            while not stop.is_set():
                answer = post(port, ["good", LONG, "bad"] * 3)
                told = {tuple(one["probabilities"]) for one in answer.json()["predictions"]}
                assert len(told) == 1  # one request, one model
                found.append((answer.status_code, told.pop(), answer.json()["version"]))
            return found

        asking = [pool.submit(ask, i) for i in range(6)]
        time.sleep(0.3)
        place.rename(tmp_path / "before")
        other.rename(place)
        answer = HTTP.post(f"http://127.0.0.1:{port}/v1/reload", timeout=20)
        assert answer.status_code == 200
        assert answer.json()["labels"] == ["worse", "better"]
        time.sleep(0.3)
        stop.set()
        found = [one for task in asking for one in task.result()]
        assert {status for status, _, _ in found} == {200}
        assert {labels for _, labels, _ in found} == {("negative", "positive"), ("worse", "better")}
        assert len({version for _, _, version in found}) == 2
        weights = place / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        broken = HTTP.post(f"http://127.0.0.1:{port}/v1/reload", timeout=20)
        assert broken.status_code == 422
        assert "truncated" in broken.json()["error"]
        assert "The model loaded before goes on serving." in broken.json()["error"]
        assert post(port, ["good"]).json()["predictions"][0]["probabilities"].keys() == {"worse", "better"}
        page = HTTP.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'bertcnn_reloads_total{outcome="failed"} 1.0' in page


def test_stopping_answers_what_is_in_flight_and_refuses_the_rest(folder: Path, held: Held) -> None:
    with listening(ServerSettings(model=folder)) as (server, _, port), ThreadPoolExecutor(2) as pool:
        running = pool.submit(post, port, ["a"])
        assert held.begun.wait(10)
        waiting = pool.submit(post, port, ["b"])
        until(lambda: server.config.app.state.service.batcher.waiting_texts == 1)
        server.should_exit = True  # what SIGTERM does
        until(lambda: not server.servers[0].is_serving())
        with pytest.raises(OSError):
            raw(port)
        held.go.set()
        assert (running.result().status_code, waiting.result().status_code) == (200, 200)


def test_a_folder_that_cannot_be_served_is_told(folder: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "reviews"))
    (place / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="tokenizer"), TestClient(create_app(ServerSettings(model=place))):
        pass
    with pytest.raises(ModelError, match="tokenizer"):
        run_in_place(ServerSettings(model=place, port=0))


@pytest.mark.parametrize("broken", [True, False])
def test_a_broken_folder_is_told_before_anything_listens(
    folder: Path, tmp_path: Path, broken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "reviews"
    if broken:
        shutil.copytree(folder, place)
        (place / "model.safetensors").write_bytes(b"")
    else:
        place.mkdir()
    with caplog.at_level(logging.INFO), pytest.raises(ModelError):
        run_in_place(ServerSettings(model=place, port=0))
    assert not caplog.records


def test_the_log_has_no_line_that_is_only_the_head_of_a_trace() -> None:
    def record(message: str) -> logging.LogRecord:
        return logging.LogRecord("uvicorn.error", logging.ERROR, "f", 1, message, (), None)

    kept = workers.NoTraceOfStart().filter
    assert not kept(record("Traceback (most recent call last):\n  File ..."))
    assert kept(record("Application startup failed. Exiting."))
    assert workers.log_settings("INFO")["handlers"]["stderr"]["filters"] == ["no trace"]


@pytest.mark.parametrize("key", ["", "  "])
def test_a_key_that_was_left_empty_opens_no_door(folder: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("BERTCNN_API_KEY", key)
    with pytest.raises(SettingsError, match="BERTCNN_API_KEY is set, but empty"):
        serve(folder)


def test_a_key_is_read_without_the_end_of_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTCNN_API_KEY", "secret-key-1\n")
    assert _key(None) == "secret-key-1"


def run_in_place(settings: ServerSettings) -> None:
    """Run as the command does, and put the signals and the environment back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    environment = dict(os.environ)
    try:
        workers.run(settings)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(environment)


def test_a_port_that_is_taken_is_told(folder: Path, serving: int) -> None:
    with pytest.raises(SettingsError, match=f"Cannot listen on 127.0.0.1:{serving}.*--port"):
        run_in_place(ServerSettings(model=folder, port=serving))


COMMAND = """
import sys
from typer import run
from bertcnn.apps.serve import serve
run(serve)
"""


@contextmanager
def process(folder: Path, *flags: str) -> Iterator[tuple[subprocess.Popen, int, list[dict]]]:
    """Run the command in a process of its own; its port, and what it logs."""
    command = [sys.executable, "-c", COMMAND, str(folder), "--port", "0", *flags]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines: list[dict] = []

    def read() -> None:
        assert running.stderr is not None
        lines.extend(map(json.loads, running.stderr))  # as they come

    reader = threading.Thread(target=read)
    reader.start()
    try:
        until(lambda: events(lines, "serving"), 60)
        port = int(events(lines, "listening")[0]["address"].rsplit(":", 1)[1])
        yield running, port, lines
    finally:
        if running.poll() is None:
            running.terminate()
        running.wait(40)
        reader.join()
        running.stderr.close()


def events(lines: list[dict], name: str) -> list[dict]:
    return [line for line in lines if line["event"] == name]


@pytest.mark.slow
def test_signals(folder: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "reviews"))
    with process(place, "--max-wait-ms", "1000") as (running, port, lines), ThreadPoolExecutor(2) as pool:
        assert events(lines, "listening")[0]["address"].startswith("http://127.0.0.1:")
        running.send_signal(signal.SIGHUP)
        assert post(port, ["good"]).status_code == 200
        until(lambda: events(lines, "reloaded"))
        (place / "config.json").write_text("{")
        running.send_signal(signal.SIGHUP)
        until(lambda: events(lines, "reload failed"))
        assert "goes on serving" in events(lines, "reload failed")[0]["error"]
        asked = pool.submit(post, port, ["good"])  # waits a second for company
        time.sleep(0.3)
        running.send_signal(signal.SIGTERM)
        time.sleep(0.4)
        with pytest.raises(OSError):
            raw(port)
        assert asked.result().status_code == 200
        assert running.wait(20) == 0
    assert events(lines, "stopped")
    assert {line["route"] for line in events(lines, "request")} == {"/v1/predict"}


@pytest.mark.slow
def test_several_processes(folder: Path) -> None:
    with process(folder, "--workers", "2") as (running, port, lines), ThreadPoolExecutor(8) as pool:
        until(lambda: len(events(lines, "serving")) == 2, 60)
        assert len({line["process"] for line in events(lines, "serving")}) == 2
        asked = list(pool.map(lambda _: post(port, ["good"]).status_code, range(40)))
        assert set(asked) == {200}
        page = HTTP.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'bertcnn_requests_total{route="/v1/predict",status="200"} 40.0' in page
        assert HTTP.post(f"http://127.0.0.1:{port}/v1/reload", timeout=30).status_code == 200
        until(lambda: len({line["process"] for line in events(lines, "reloaded")}) == 2)
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
    assert len(events(lines, "stopped")) == 2


def test_what_waited_in_a_process_that_died_is_counted_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SHARED, str(tmp_path))
    supervisor = workers._Supervisor.__new__(workers._Supervisor)
    supervisor.processes = [SimpleNamespace(pid=1), SimpleNamespace(pid=2)]

    def restart(one: Multiprocess) -> None:
        one.processes = [SimpleNamespace(pid=1), SimpleNamespace(pid=3)]

    monkeypatch.setattr(Multiprocess, "keep_subprocess_alive", restart)
    for pid in (1, 2, 3):
        (tmp_path / f"gauge_livesum_{pid}.db").write_text("")
    supervisor.keep_subprocess_alive()
    assert {file.name for file in tmp_path.iterdir()} == {"gauge_livesum_1.db", "gauge_livesum_3.db"}


# ---- Open Inference Protocol


def tensor(texts: list, **more: object) -> dict:
    return {"inputs": [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts, **more}]}


def test_a_kserve_client_is_answered(client: TestClient, reference: Predictor) -> None:
    assert client.get("/v2").json()["name"] == "bertcnn"
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").status_code == 200
    assert client.get("/v2/health/live").json() == {"status": "live", "live": True}
    assert client.get("/v2/health/ready").json() == {"status": "ready", "ready": True}
    assert client.get("/v2/models/reviews/ready").json() == {"name": "reviews", "status": "ready", "ready": True}
    told = client.get("/v2/models/reviews").json()
    assert told["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert [one["name"] for one in told["outputs"]] == ["label", "confidence", "probabilities", "label_names"]
    texts = ["good", "so awful", ""]
    body = {"id": "42", "parameters": {"priority": 1}, **tensor(texts, parameters={"content_type": "str"})}
    answer = client.post("/v2/models/reviews/infer", json=body)
    assert answer.status_code == 200
    found = InferResponse.model_validate(answer.json())
    assert (found.id, found.model_name, found.model_version) == ("42", "reviews", told["versions"][0])
    outputs = {one.name: one for one in found.outputs}
    wanted = reference.predict(texts)
    assert outputs["label"].data == [one.label for one in wanted]
    assert outputs["label_names"].data == reference.label_names
    assert outputs["probabilities"].shape == [3, 2]
    table = [p for one in wanted for p in one.probabilities.values()]
    assert outputs["probabilities"].data == pytest.approx(table, abs=1e-6)
    nested = {"inputs": [{"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": [["good"], ["bad"]]}]}
    nested["outputs"] = [{"name": "label"}]
    answer = client.post("/v2/models/reviews/infer", json=nested).json()
    assert "id" not in answer
    assert answer["outputs"] == [{"name": "label", "shape": [2], "datatype": "BYTES", "data": ["positive", "negative"]}]
    assert client.post("/v2/models/reviews/infer", json=tensor([])).json()["outputs"][0]["data"] == []


def test_a_server_that_loads_is_not_ready_as_the_protocol_says_it(folder: Path) -> None:
    answer = readiness(Service(ServerSettings(model=folder)))
    assert (answer.status_code, json.loads(answer.body)["ready"]) == (503, False)


def test_a_version_is_the_one_that_is_loaded(client: TestClient) -> None:
    told = client.get("/v2/models/reviews").json()
    here = f"/v2/models/reviews/versions/{told['versions'][0]}"
    assert client.get(here).json() == told
    assert client.get(f"{here}/ready").json()["ready"] is True
    assert client.post(f"{here}/infer", json=tensor(["good"])).json()["outputs"][0]["data"] == ["positive"]
    for answer in (
        client.get("/v2/models/reviews/versions/1"),
        client.get("/v2/models/reviews/versions/1/ready"),
        client.post("/v2/models/reviews/versions/1/infer", json=tensor(["good"])),
    ):
        assert answer.status_code == 404
        assert told["versions"][0] in error_of(answer)


def test_clients_that_do_not_say_json_are_answered(client: TestClient) -> None:
    content = json.dumps(tensor(["good"])).encode()
    assert client.post("/v2/models/reviews/infer", content=content).status_code == 200
    for kind in ("text/plain", ""):
        answer = client.post("/v2/models/reviews/infer", content=content, headers={"content-type": kind})
        assert answer.status_code == 415


def test_texts_may_come_in_base64(client: TestClient) -> None:
    texts = ["good", "so awful", "\u00fcn\u00efcode", ""]
    coded = [base64.b64encode(text.encode()).decode() for text in texts]
    url = "/v2/models/reviews/infer"
    plain = client.post(url, json=tensor(texts)).json()
    assert client.post(url, json=tensor(coded, parameters={"content_type": "base64"})).json() == plain


@pytest.mark.parametrize("parameters", [None, {}, {"a": None, "b": {"c": [1]}, "content_type": None}])
def test_parameters_may_hold_anything(client: TestClient, parameters: object) -> None:
    body = {"parameters": parameters, **tensor(["good"], parameters=parameters)}
    body["outputs"] = [{"name": "label", "parameters": parameters}]
    assert client.post("/v2/models/reviews/infer", json=body).status_code == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "inputs is missing"),
        (tensor(["/w=="], parameters={"content_type": "base64"}), "Datum 0 of input 'text' is not base64"),
        (tensor(["?"], parameters={"content_type": "base64"}), "Datum 0 of input 'text' is not base64"),
        (tensor(["a"], parameters={"content_type": "np"}), "content_type 'np', expected 'str', 'base64'"),
        (tensor(["a"], parameters={"content_type": ["str"]}), "expected 'str', 'base64'"),
        ({"inputs": []}, "Got the inputs none; expected one, named 'text'"),
        ({"inputs": [{"name": "x", "shape": [0], "datatype": "BYTES", "data": []}]}, "Got the inputs x"),
        (tensor(["a"], datatype="FP32"), "datatype 'FP32'"),
        (tensor(["a"], shape=[2]), "shape [2] and 1 data, expected [1]"),
        (tensor(["a", "b"], shape=[1, 2]), "shape [1, 2]"),
        (tensor(["a"], shape=[]), "shape []"),
        (tensor(["a"], shape=[-1, -1]), "shape [-1, -1]"),
        (tensor(["a", 3]), "Datum 1 of input 'text' is no string"),
        (tensor([[["a"]]]), "Datum 0 of input 'text' is no string"),
        (tensor(["a"], data=None, parameters={"binary_data_size": 5}), "binary extension"),
        ({**tensor(["a"]), "outputs": [{"name": "labels"}]}, "Did you mean 'label'?"),
        (tensor(["a"] * 9), "Got 9 texts"),
    ],
)
def test_bad_tensors_are_refused_in_words(client: TestClient, body: dict, words: str) -> None:
    answer = client.post("/v2/models/reviews/infer", json=body)
    assert answer.status_code == 422
    assert words in error_of(answer)


def test_an_unknown_model_is_404(client: TestClient) -> None:
    for answer in (
        client.get("/v2/models/review"),
        client.get("/v2/models/review/ready"),
        client.post("/v2/models/review/infer", json=tensor(["a"])),
    ):
        assert answer.status_code == 404
        assert "Known: 'reviews'" in error_of(answer)


# ---- the description, and what is loaded


def test_openapi_describes_and_gives_examples_that_work(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    for path, form in (
        ("/v1/predict", "PredictRequest"),
        ("/v1/explain", "ExplainRequest"),
        ("/v2/models/{name}/infer", "InferRequest"),
    ):
        operation = schema["paths"][path]["post"]
        content = operation["requestBody"]["content"]["application/json"]
        assert content["schema"] == {"$ref": f"#/components/schemas/{form}"}
        (example,) = schema["components"]["schemas"][form]["examples"]
        assert client.post(path.format(name="reviews"), json=example).status_code == 200
        assert {"400", "413", "415", "422", "503", "504"} <= set(operation["responses"])
    forms = schema["components"]["schemas"]
    assert forms["InferWanted"]["properties"]["name"]["enum"] == ["label", "confidence", "probabilities", "label_names"]
    assert forms["ExplainRequest"]["properties"]["label"]["anyOf"][0] == {"type": "string", "minLength": 1}
    assert not any("head" in operations for operations in schema["paths"].values())


def test_a_server_loads_neither_torch_nor_transformers() -> None:
    code = """
import sys
import bertcnn.apps.serve
assert not {"fastapi", "uvicorn", "torch"} & set(sys.modules)
import bertcnn.apps.server.app, bertcnn.apps.server.workers
heavy = {"torch", "transformers", "sklearn", "datasets", "gradio", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.slow
def test_schemathesis_finds_no_5xx(serving: int) -> None:
    schemathesis = pytest.importorskip("schemathesis")

    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{serving}/openapi.json")
    seen: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        name = f"{operation.method.upper()} {operation.path}"
        for mode in schemathesis.GenerationMode:

            @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: schemathesis.Case) -> None:
                answer = case.call()
                assert answer.status_code < 500, (name, answer.text)  # noqa: B023  # it is called here
                seen.setdefault(name, set()).add(answer.status_code)  # noqa: B023

            with suppress(Unsatisfiable):  # some have nothing in them that could be wrong
                ask()
    assert {200, 422} <= seen["POST /v1/predict"]
    assert len(seen) == 16
