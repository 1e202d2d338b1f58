"""The web page: in a browser where there is one; the key, the limits and forged requests without."""

import asyncio
import base64
import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest
import uvicorn
from starlette.testclient import TestClient

from bertcnn import Predictor, Settings, SettingsError, save, train
from bertcnn.apps import demo as demo_command
from bertcnn.apps.server.app import create_app
from bertcnn.apps.server.hosting import Host, Hosted
from bertcnn.apps.server.limits import ServerSettings
from bertcnn.apps.server.metrics import Metrics
from bertcnn.apps.server.service import Service
from bertcnn.apps.server.workers import _Server, connections
from bertcnn.apps.web import file as web_file
from bertcnn.apps.web.file import classify_file, read_upload, without_formulas
from bertcnn.apps.web.guard import PageGuard
from bertcnn.errors import DataError, ModelError
from bertcnn.inference.templating import sure
from bertcnn.settings import change
from bertcnn.text.dataset import Splits

pytest.importorskip("gradio", reason="the extra 'web' is not installed")
from bertcnn.apps.web import page as web

SHOTS = Path(os.environ.get("BERTCNN_SCREENSHOTS") or Path(__file__).parent / "screenshots")
TEXT = "the film was not really so good and the staff was awful"
ATTACK = '<script>window.pwned=1</script><img src=x onerror="window.pwned=2"> ${window.pwned=3} {{value}} </textarea>'
KEY = "a-secret-key"
HTTP = httpx2.Client(timeout=20, trust_env=False)
T = TypeVar("T")


@contextmanager
def serving(settings: ServerSettings) -> Iterator[str]:
    """Run the application with its page in a thread, and give its address."""
    app = create_app(settings, pages=[web.mount_page])
    config = uvicorn.Config(
        app,
        port=0,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=20,
        http=connections(settings),
        ws="none",
    )
    server = _Server(config, [app])
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < end
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(25)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, splits: Splits, quick: Settings, tiny: str) -> Path:
    """The CNN without BERT's layers."""
    place = tmp_path_factory.mktemp("models") / "cnn-alone"
    save(train(splits, change(quick, {"encoder": f"pieces:{tiny}", "depth": "all", "method": "frozen"})), place)
    return place


@pytest.fixture(scope="module")
def page_settings(folder: Path, alone: Path) -> ServerSettings:
    name = "<b>reviews</b>".replace("/", "")
    return ServerSettings(model=folder, name=name, beside=alone, web=True, max_wait_ms=0, max_upload_bytes=200_000)


@pytest.fixture(scope="module")
def address(page_settings: ServerSettings) -> Iterator[str]:
    with serving(page_settings) as address:
        yield address


@pytest.fixture(scope="module")
def reference(folder: Path) -> Predictor:
    return Predictor.load(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium here")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, address: str, *, width: int = 1200, scheme: str = "light", **more: Any) -> Iterator[Any]:
    """Open the page. It must ask nobody but its server, run nothing of a user's, and show no trace of an error."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
    context.set_default_timeout(20_000)
    page = context.new_page()
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    try:
        page.goto(address + "/")
        page.get_by_role("tab", name="One text").wait_for()
        yield page
        assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
        assert page.evaluate("window.pwned") is None
        assert "Traceback" not in page.content()
    finally:
        context.close()


def seen(page: Any, selector: str) -> Any:
    return page.locator(selector).locator("visible=true")


def ask(page: Any, text: str) -> None:
    box = page.get_by_label("Your text").locator("visible=true")
    box.fill(text)
    box.press("Enter")


def shoot(page: Any, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def overflows(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))


# ---- in a browser


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_a_text_is_answered_and_its_phrases_are_coloured(
    browser: Any, address: str, reference: Predictor, width: int, scheme: str
) -> None:
    with opened(browser, address, width=width, scheme=scheme) as page:
        ask(page, TEXT)
        seen(page, ".bx mark").first.wait_for()
        answer = reference.predict([TEXT])[0]
        rows = seen(page, ".bw-answer tr")
        assert rows.count() == 2
        assert rows.first.inner_text().split() == [answer.label, *sure(answer.confidence).split()]
        assert "bw-holds" in rows.first.get_attribute("class")
        assert seen(page, ".bx-text").inner_text() == TEXT
        strongest = max(seen(page, ".bx-text mark").all(), key=lambda mark: abs(strength(mark)))
        assert strongest.inner_text() in TEXT.split()
        assert seen(page, ".bx tbody tr").count() > 3
        zero, dot = page.evaluate(MIDDLES)
        assert abs(zero - dot) < 2
        assert seen(page, ".bw-examples button").first.bounding_box()["height"] >= 32
        assert not overflows(page)
        shoot(page, f"one-{scheme}-{width}")


MIDDLES = """() => {
  const box = one => document.querySelector(one).getBoundingClientRect(), line = box('.bx .bx-bar div');
  const [left, right] = [box('.bx-axis span:first-child').right, box('.bx-axis span:last-child').left];
  return [line.left + line.width / 2, (left + right) / 2];
}"""


def strength(mark: Any) -> float:
    return float(mark.get_attribute("style").partition("--s:")[2])


def test_the_page_can_be_used_by_the_keyboard_alone(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.tagName") == "TEXTAREA":
                break
        page.keyboard.type("so good")
        page.keyboard.press("Enter")
        seen(page, ".bx mark").first.wait_for()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.innerText") == "Classify"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.innerText") == web.EXAMPLES[0]
        page.keyboard.press("Enter")
        page.wait_for_function("text => document.querySelector('.bx-text')?.innerText === text", arg=web.EXAMPLES[0])
        assert page.get_by_label("Your text").locator("visible=true").input_value() == web.EXAMPLES[0]


def test_controls_have_names(browser: Any, address: str) -> None:
    unnamed = """() => [...document.querySelectorAll('button, textarea, input, select')].filter(one =>
      one.checkVisibility() && !one.innerText && !one.getAttribute('aria-label') && !one.title && !one.labels?.length
    ).map(one => one.outerHTML.slice(0, 200))"""
    with opened(browser, address) as page:
        for tab in ("One text", "Two models", "A file"):
            page.get_by_role("tab", name=tab).click()
            assert page.evaluate(unnamed) == []


@pytest.mark.parametrize(("width", "scheme"), [(1200, "dark"), (390, "light")])
def test_two_models_stand_side_by_side(
    browser: Any, address: str, reference: Predictor, alone: Path, width: int, scheme: str
) -> None:
    with opened(browser, address, width=width, scheme=scheme) as page:
        page.get_by_role("tab", name="Two models").click()
        ask(page, TEXT)
        seen(page, ".bw-verdict").wait_for()
        answers = [one.predict([TEXT])[0] for one in (reference, Predictor.load(alone))]
        said = seen(page, ".bw-verdict").inner_text()
        assert ("agree" in said) == (answers[0].label == answers[1].label)
        names = ("<b>reviews<b>", "cnn-alone")
        for name, answer in zip(names, answers, strict=True):
            assert f"{name}: {answer.label}, {sure(answer.confidence)} sure" in said
        assert seen(page, ".bx").count() == 2
        places = [one.bounding_box() for one in seen(page, ".bx").all()]
        assert (places[0]["y"] == places[1]["y"]) == (width > 600)
        assert not overflows(page)
        shoot(page, f"two-{scheme}-{width}")


def drop(page: Any, name: str, content: bytes) -> None:
    page.get_by_role("tab", name="A file").click()
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "text/csv", "buffer": content})


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_a_file_comes_back_classified(
    browser: Any, address: str, reference: Predictor, csv_file: Path, width: int, scheme: str
) -> None:
    with opened(browser, address, width=width, scheme=scheme) as page:
        drop(page, "reviews.csv", csv_file.read_bytes())
        page.get_by_label("Column with the texts").wait_for()
        assert page.get_by_label("Column with the texts").input_value() == "review"
        page.get_by_role("button", name="Classify the file").click()
        why = page.get_by_text("Download reviews.insights.html")
        why.wait_for()
        assert page.get_by_role("button", name="Stop").locator("visible=true").count() == 0
        link = page.get_by_text("Download reviews.classified.csv")
        assert "160 rows" in seen(page, ".bw-answer").inner_text()
        assert not overflows(page)
        shoot(page, f"file-{scheme}-{width}")
        with page.expect_download() as download:
            link.click()
        with page.expect_download() as insights:
            why.click()
        assert "What drives" in Path(insights.value.path()).read_text("utf-8")
        assert download.value.suggested_filename == "reviews.classified.csv"
        rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
        given = list(csv.DictReader(io.StringIO(csv_file.read_text())))
        assert [{key: row[key] for key in given[0]} for row in rows] == given
        for row, wanted in zip(rows, reference.predict([row["review"] for row in given]), strict=True):
            assert row["prediction"] == wanted.label
            assert float(row["confidence"]) == pytest.approx(wanted.confidence, abs=1e-5)
            assert float(row["probability_positive"]) == pytest.approx(wanted.probabilities["positive"], abs=1e-5)


WRONG = {
    "empty.csv": (b"", "empty"),
    "no-rows.csv": (b"text,label\n", "holds no rows"),
    "picture.csv": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0", "picture.csv is not a text file"),
    "noise.csv": (b"text\n\x81\x8d\n", "noise.csv is not a text file"),
    "paper.pdf": (b"%PDF-1.7\n", "paper.pdf ends in '.pdf', expected .csv, .tsv, .jsonl. Save your table as csv."),
    "ragged.csv": (
        b"text,label\na,b\na,b,c\n",
        "has 2 columns, but row 2 (line 3) has 3. Put texts in quotes that hold the delimiter (,).",
    ),
    "taken.csv": (b"text,prediction\ngood,1\n", "'prediction' already"),
    "cut.jsonl": (b'{"text": "good"}\n{"text": ', "line 2 is not JSON"),
    "<img src=x onerror=window.pwned=4>.csv": (
        b'text,"<img src=x onerror=window.pwned=5>"\na\n',
        "has 2 columns, but row 1",
    ),
}


def test_a_wrong_file_gives_a_message(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        for name, (content, said) in WRONG.items():
            drop(page, name, content)
            if name == "taken.csv":
                page.get_by_role("button", name="Classify the file").click()
            seen(page, ".bw-message").filter(has_text=said).wait_for()
            assert web._files().name not in seen(page, ".bw-message").inner_text()
            assert "--" not in seen(page, ".bw-message").inner_text()  # nobody on a page can give an option
            shoot(page, "wrong-file")
            page.get_by_label("Clear").or_(page.get_by_role("button", name="Remove")).first.click()


def test_a_file_that_is_too_large_gives_a_message(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        for _ in range(2):  # the same one again, too
            drop(page, "large.csv", b"text\n" + b"good\n" * 60_000)
            said = seen(page, ".bw-message").filter(has_text="large.csv has 300,005 bytes, expected at most 200,000.")
            said.wait_for()
            shoot(page, "large-file")
        drop(page, "small.csv", b"text\ngood\n")
        page.get_by_label("Column with the texts").wait_for()
        assert seen(page, ".bw-message").count() == 0


def test_a_large_file_that_is_dropped_is_not_sent_either(browser: Any, address: str) -> None:
    fall = """size => { const given = new DataTransfer(); given.items.add(new File(['x'.repeat(size)], 'x.csv'));
      const input = document.querySelector('input[type=file]'), place = input.closest('button') ?? input;
      place.dispatchEvent(new DragEvent('drop', {dataTransfer: given, bubbles: true, cancelable: true})); }"""
    with opened(browser, address) as page:
        page.get_by_role("tab", name="A file").click()
        page.locator("input[type=file]").wait_for(state="attached")
        page.evaluate(fall, 200_001)
        seen(page, ".bw-message").filter(has_text="x.csv has 200,001 bytes").wait_for()
        assert "x.csv" not in page.locator(".block:has(> input[type=file]), .file-preview").all_inner_texts()


def test_what_users_write_is_escaped(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        text = f"{ATTACK} was so good \ud800"
        ask(page, text)
        seen(page, ".bx mark").first.wait_for()
        assert seen(page, ".bx-text").inner_text().replace("\ufffd", "") == text.replace("\ud800", "")
        assert page.locator(".bx script, .bx img").count() == 0
        assert "<b>reviews<b>" in page.locator(".bw-title").inner_text()
        shoot(page, "escaped")
        drop(
            page,
            "odd.csv",
            f'"{ATTACK.replace(chr(34), chr(34) * 2)}",label\ngood,"<script>window.pwned=6</script>"\n'.encode(),
        )
        page.get_by_label("Column with the texts").wait_for()
        page.get_by_role("button", name="Classify the file").click()
        with page.expect_download() as download:
            page.get_by_text("Download odd.insights.html").click()
        assert "<script>window" not in Path(download.value.path()).read_text("utf-8")


def test_a_hundred_thousand_characters_are_answered_and_more_are_refused(browser: Any, address: str) -> None:
    long = "the good film <script>window.pwned=7</script> was so awful, "
    long = (long * (100_000 // len(long) + 1))[:100_000]
    with opened(browser, address) as page:
        ask(page, long)
        seen(page, ".bx mark").first.wait_for()
        ask(page, long + "!")
        seen(page, ".bw-message").filter(has_text="100,001 characters, expected at most 100,000").wait_for()
        ask(page, "good" * 25_000)  # one word
        page.wait_for_function("() => document.querySelector('.bx-text')?.innerText.startsWith('goodgood')")
        assert page.evaluate("document.documentElement.scrollHeight") < 3000
        ask(page, "x" * 1_100_000)
        page.get_by_text("expected at most 1,048,576").wait_for()
        shoot(page, "too-long")


# ---- without one


def test_the_key_is_asked_for_on_every_path(folder: Path) -> None:
    app = create_app(ServerSettings(model=folder, web=True, api_key=KEY), pages=[web.mount_page])
    paths = ("/web/", "/web/config", "/web/gradio_api/queue/data", "/web/assets/x.js", "/web/theme.css", "/web/no")
    with TestClient(app) as client:
        for path in paths:
            for given in ({}, basic("wrong-key"), {"authorization": "Basic ?"}, {"x-api-key": "wrong-key"}):
                answer = client.get(path, headers=given)
                assert answer.status_code == 401, path
                assert answer.headers["www-authenticate"].startswith("Basic")
        assert client.post("/web/gradio_api/upload", content=b"x").status_code == 401
        assert "bertcnn" in client.get("/web/", headers=basic(KEY)).text
        assert client.get("/", headers=basic(KEY)).status_code == 200
        assert client.get("/web/theme.css", headers={"authorization": f"Bearer {KEY}"}).status_code == 200


def basic(key: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"anybody:{key}".encode()).decode()}


def test_only_what_the_page_needs_is_reached(address: str) -> None:
    for path in ("proxy=http://127.0.0.1/", "file=/etc/passwd", f"file={os.getcwd()}/pyproject.toml",
                 f"file={web._files()}/../../etc/passwd", f"file={web._files()}/%2e%2e/x",
                 "file=http://127.0.0.1/", "info", "openapi.json", "vibe-code",
                 "runs", "user", "token", "deep_link"):  # fmt: skip
        assert HTTP.get(f"{address}/web/gradio_api/{path}").status_code in {403, 404}, path
    for path in ("run/predict", "call/predict", "vibe-edit", "stream/x"):
        assert HTTP.post(f"{address}/web/gradio_api/{path}", json={}).status_code == 404, path
    assert HTTP.get(f"{address}/web/monitoring").status_code == 404
    assert HTTP.get(f"{address}/docs").status_code == 404
    policy = HTTP.get(f"{address}/web/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy


def test_bodies_have_limits(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    join, upload = (f"{address}/web/gradio_api/{name}" for name in ("queue/join", "upload"))
    large = HTTP.post(join, content=b"x" * ((1 << 20) + 1))
    assert large.status_code == 413
    assert "expected at most 1,048,576" in large.json()["detail"]
    assert HTTP.post(upload, files={"files": b"x" * 300_000}).status_code == 413
    assert HTTP.post(join, content=iter([b"x"])).status_code == 411
    assert HTTP.post(join, json={}, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    monkeypatch.setattr("bertcnn.apps.web.guard.MOST_KEPT_BYTES", 100)
    assert HTTP.post(upload, files={"files": b"x" * 101}).status_code == 503


def sent(address: str, data: list[Any], event: int) -> dict[str, Any]:
    """Send what the page would send, and return what it would be told."""
    session = f"s{time.monotonic_ns()}"
    body = {"data": data, "fn_index": event, "session_hash": session, "event_data": None, "trigger_id": None}
    assert HTTP.post(f"{address}/web/gradio_api/queue/join", json=body).status_code == 200
    with HTTP.stream("GET", f"{address}/web/gradio_api/queue/data?session_hash={session}") as stream:
        for line in stream.iter_lines():
            if line.startswith("data:") and (found := json.loads(line[5:]))["msg"] == "process_completed":
                return found
    raise AssertionError("no answer")


def test_a_forged_file_is_not_read(address: str, csv_file: Path) -> None:
    config = HTTP.get(f"{address}/web/config").json()
    kinds = {one["id"]: one["type"] for one in config["components"]}
    events = [one["id"] for one in config["dependencies"] if [kinds[i] for i in one["inputs"]] == ["file"]]
    assert len(events) == 1
    for path in (str(csv_file), "/etc/passwd", "http://127.0.0.1:9/x.csv", "https://example.org/x.csv"):
        told = sent(address, [{"path": path, "meta": {"_type": "gradio.FileData"}}], events[0])
        assert not told["success"], path
        assert "review" not in json.dumps(told["output"])
        assert "Traceback" not in json.dumps(told)


def said_by(service: Any, text: str = "x") -> str:
    return outside(web.answer_one(service, text))


def outside(work: Coroutine[Any, Any, T]) -> T:
    """Run it in another thread: playwright keeps an event loop in the main one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@pytest.mark.parametrize("text", ["", " \n\u3000\t"])
def test_a_blank_text_is_asked_for(folder: Path, text: str) -> None:
    service = Service(ServerSettings(model=folder, web=True))
    assert "Write a text first." in said_by(service, text)
    assert "Write a text first." in outside(web.answer_two(service, service, text))[0]


def test_cells_of_a_download_are_no_formulas() -> None:
    cells = ["=1+1", "+cmd", "-2+3", "@x", "\t=1", "\r=1", "-5", "+0.5", "-1,000.5", "good", "", "a=b", 3, None]
    (row,), changed = without_formulas([{f"c{i}": cell for i, cell in enumerate(cells)} | {"=name": "x"}])
    assert list(row.values()) == [*(f"'{cell}" for cell in cells[:6]), *cells[6:], "x"]
    assert list(row)[-1] == "'=name"
    assert changed == 7
    # What becomes one cell, as a list of jsonl does, is looked at as that.
    (row,), changed = without_formulas([{"a": ["=1+A1", "x"], "b": ["x", "=1"], "c": []}])
    assert row == {"a": "'=1+A1|x", "b": "x|=1", "c": ""}
    assert changed == 1


def test_insights_wait_while_texts_of_others_wait(folder: Path) -> None:
    async def play() -> None:
        service = Service(ServerSettings(model=folder, web=True))
        await service.open()
        is_over = threading.Event()
        try:
            give_way = web_file._polite(service, is_over).backend.pause
            assert service.host.model.predictor.backend.pause == service.batcher.breathe  # whose lanes go on as before
            service.batcher.waiting_texts = 1
            waits = asyncio.create_task(asyncio.to_thread(give_way))
            assert not (await asyncio.wait({waits}, timeout=0.1))[0]
            service.batcher.waiting_texts = 0
            await asyncio.wait_for(waits, 0.5)
            is_over.set()
            with pytest.raises(InterruptedError):
                give_way()
        finally:
            await service.close()

    outside(play())


@pytest.mark.parametrize("work", ["classify", "stop"])
def test_insights_tell_how_far_they_are_one_file_at_a_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    at_once, most, ended = 0, 0, threading.Event()
    plain = web_file.insights

    def slow(predictor: Any, texts: list[str], progress: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            for count in range(1, 6 if work == "classify" else 1000):
                time.sleep(0.02)
                progress(count)
                predictor.backend.pause()
            return plain(predictor, texts)
        finally:
            at_once -= 1
            ended.set()

    monkeypatch.setattr(web_file, "insights", slow)
    monkeypatch.setattr(web_file, "LOOK_SECONDS", 0.01)
    (tmp_path / "a.csv").write_text("text\n" + "good film\n" * 9)

    async def states(service: Service) -> list[web_file.State]:
        found = []
        async with contextlib.aclosing(
            web_file.classify_file(service, tmp_path / "a.csv", "text", folder=tmp_path)
        ) as all_:
            async for state in all_:
                found.append(state)
                if work == "stop" and "3 of 9 rows" in state.html:
                    break
        return found

    async def play() -> list[list[web_file.State]]:
        service = Service(ServerSettings(model=folder, web=True))
        await service.open()
        try:
            return await asyncio.gather(*(states(service) for _ in range(2 if work == "classify" else 1)))
        finally:
            await service.close()

    begun = time.monotonic()
    found = outside(play())
    if work == "stop":
        assert ended.wait(5)
        assert time.monotonic() - begun < 10  # and not the 20 s that it would take
        return
    assert most == 1
    for one in found:
        assert any("4 of 9 rows" in state.html for state in one)
        assert one[-1].insights is not None
        assert "9 rows in " in one[-1].html


def test_our_own_faults_are_not_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        settings = ServerSettings(model=folder, web=True)

        async def explain(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("a secret of the text")

    shown = said_by(Broken())
    assert "not by your fault" in shown
    assert "secret" not in shown


def test_a_late_answer_is_said_to_be_late(folder: Path) -> None:
    class Slow:
        settings = replace(ServerSettings(model=folder, web=True), timeout_seconds=0.01)

        async def explain(self, *_: Any, **__: Any) -> None:
            await asyncio.sleep(5)

    assert "No answer within 0.01 s" in said_by(Slow())


def test_a_page_lives_in_one_process(folder: Path) -> None:
    with pytest.raises(SettingsError, match="workers is 2, expected 1 with --web"):
        ServerSettings(model=folder, web=True, workers=2)
    with pytest.raises(SettingsError, match=r"beside is .* none without --web"):
        ServerSettings(model=folder, beside=folder)


def test_a_reload_loads_the_model_beside_too(page_settings: ServerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    served: list[str] = []
    read, serve = Host.read, Host.serve

    async def noted(self: Host) -> Hosted:
        loaded.append(self.settings.model.name)
        if len(loaded) == 6:
            raise ModelError("beside is broken.")
        return await read(self)

    def noted_too(self: Host, model: Hosted) -> None:
        served.append(self.settings.model.name)
        serve(self, model)

    monkeypatch.setattr(Host, "read", noted)
    monkeypatch.setattr(Host, "serve", noted_too)
    with serving(page_settings) as address:
        both = [*loaded]
        assert httpx2.post(f"{address}/v1/reload", timeout=20, trust_env=False).status_code == 200
        assert served == both * 2
        # Either both are replaced, or none.
        failed = httpx2.post(f"{address}/v1/reload", timeout=20, trust_env=False)
        assert failed.status_code == 422
        assert "goes on serving" in failed.json()["error"]
    assert page_settings.beside is not None
    assert both == [page_settings.model.name, page_settings.beside.name]
    assert (loaded, served) == (both * 3, both * 2)


def test_a_body_that_does_not_come_is_not_waited_for(page_settings: ServerSettings, tmp_path: Path) -> None:
    async def never() -> dict[str, object]:
        await asyncio.sleep(60)
        raise AssertionError

    async def reads(scope: object, receive: Any, send: object) -> None:
        await receive()

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    settings = replace(page_settings, timeout_seconds=0.1)
    guard = PageGuard(reads, settings=settings, metrics=Metrics(), files=tmp_path, streams=set())
    headers = [(b"content-length", b"10")]
    scope = {"type": "http", "method": "POST", "path": "/web/gradio_api/upload", "headers": headers}
    outside(asyncio.wait_for(guard(scope, never, send), 5))
    assert sent[0]["status"] == 408
    assert guard.open == 0


def test_rows_of_a_file_may_have_columns_of_their_own(page_settings: ServerSettings, tmp_path: Path) -> None:
    file = tmp_path / "ragged.jsonl"
    file.write_text('{"text": "good"}\n{"text": "bad", "stars": 5}\n')
    assert read_upload(file).columns == ["text", "stars"]

    async def play() -> Path:
        service = Service(page_settings)
        await service.open()
        try:
            states = [state async for state in classify_file(service, file, "text", folder=tmp_path)]
        finally:
            await service.close()
        assert states[-1].file is not None
        return states[-1].file

    rows = list(csv.DictReader(io.StringIO(outside(play()).read_text("utf-8"))))
    assert list(rows[0])[:3] == ["text", "stars", "prediction"]
    assert [row["stars"] for row in rows] == ["", "5"]


def test_an_open_page_does_not_hold_up_the_end(page_settings: ServerSettings) -> None:
    with ExitStack() as stack:
        address = stack.enter_context(serving(page_settings))
        client = stack.enter_context(httpx2.Client(timeout=20, trust_env=False))
        with client.stream("GET", f"{address}/web/gradio_api/heartbeat/abc") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "data: ALIVE"
            ended = time.monotonic()
            stack.close()
        assert time.monotonic() - ended < 10  # and not the 20 s that requests are waited for


TABLES = {
    "a.csv": ('id;review\n1;"good; or not"\n2;bad\n', "review", "utf-8"),
    "b.csv": ("id,said\n1,good film\n2,bad\n", "said", "utf-8"),
    "c.tsv": ("said\tlabel\ngood film, really\tp\n", "said", "utf-8"),
    "d.jsonl": ('{"n": 1, "Text": "x"}\n', "Text", "utf-8"),
    "e.csv": ("said,label\nd\u00e9j\u00e0 vu,p\n", "said", "cp1252"),
    "f.csv": ("\ufeffsaid,label\nd\u00e9j\u00e0 vu,p\n", "said", "utf-16"),
}


@pytest.mark.parametrize("name", TABLES)
def test_columns_delimiters_and_encodings_are_guessed(tmp_path: Path, name: str) -> None:
    content, column, encoding = TABLES[name]
    (tmp_path / name).write_bytes(content.encode(encoding if encoding != "utf-16" else "utf-16-le"))
    table = read_upload(tmp_path / name)
    assert (table.text, table.encoding) == (column, encoding)
    assert len(table.columns) == 2


def test_a_file_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_file, "MOST_ROWS", 3)
    (tmp_path / "a.csv").write_text("text\n" + "good\n" * 4)
    with pytest.raises(DataError, match=r"a\.csv has more than 3 rows"):
        read_upload(tmp_path / "a.csv")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"ends in '\.parquet', expected \.csv, \.tsv, \.jsonl"):
        read_upload(tmp_path / "a.parquet")


def test_the_command_line_does_not_load_gradio() -> None:
    code = "import sys, bertcnn.apps.cli, bertcnn.apps.demo; print('gradio' in sys.modules, 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_demo_serves_what_it_is_given_and_makes_what_it_is_not(
    folder: Path, splits: Splits, quick: Settings, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[ServerSettings] = []
    monkeypatch.setattr(demo_command, "serve_with", lambda settings, **_: served.append(settings))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BERTCNN_DEMO", str(tmp_path / "demo"))
    demo_command.demo(folder, port=7999, opens=False)
    assert (served[0].model, served[0].beside, served[0].web, served[0].port) == (folder, None, True, 7999)
    assert served[0].is_local
    own = {name: {**values, "encoder": values.get("encoder", "minilm").replace("minilm", tiny)}
           for name, values in demo_command._OWN.items()}  # fmt: skip
    monkeypatch.setattr(demo_command, "_OWN", own)
    monkeypatch.setattr("bertcnn.text.dataset.load_splits", lambda *_: splits)
    for _ in range(2):  # made once
        demo_command.demo(None, port=7999, opens=False)
    names = [(one.model.name, one.beside.name if one.beside else "") for one in served[1:]]
    assert names == [(demo_command.BERT_CNN, demo_command.CNN_ALONE)] * 2
    assert Predictor.load(served[1].model).predict(["so good"])[0].label in {"negative", "positive"}
    shutil.copytree(folder, tmp_path / demo_command.QUICKSTART)
    demo_command.demo(None, port=7999, opens=False)
    assert served[-1].model == demo_command.QUICKSTART
