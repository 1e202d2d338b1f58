"""The command ``bertcnn demo``: the web page in the browser, with a model of its own where none is given."""

import os
import threading
import time
import webbrowser
from http.client import HTTPConnection
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.markup import escape

from bertcnn.apps.options import quiet
from bertcnn.apps.serve import serve_with
from bertcnn.apps.server.limits import ServerSettings
from bertcnn.apps.show import err
from bertcnn.errors import ModelError, SettingsError

QUICKSTART = Path("runs/quickstart/model-cnn")
"""What ``make run`` writes: the best network that can point at phrases."""

BERT_CNN, CNN_ALONE = "BERT and CNN", "CNN alone"
"""Names of the demo's own models: folders in the cache, and what the page shows."""

_OWN: dict[str, dict[str, Any]] = {BERT_CNN: {"depth": "half"}, CNN_ALONE: {"encoder": "pieces:minilm", "depth": "all"}}
"""What is set for each: they differ in BERT's layers, which the second one leaves out."""

START_SECONDS = 120


def demo(
    model: Annotated[
        Optional[Path],
        typer.Argument(
            help=f"Folder that `bertcnn train` wrote; default: {QUICKSTART} if it is there, or one made now."
        ),
    ] = None,
    beside: Annotated[
        Optional[Path], typer.Option(help="A second model; default without MODEL: a CNN without BERT.")
    ] = None,
    port: Annotated[int, typer.Option(help="To listen on, on this machine only.")] = 7860,
    opens: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = True,
) -> None:
    """Try a model in the browser: one text, two models on one text, a whole file.

    Example: `bertcnn demo`, or `bertcnn demo models/reviews --beside models/other`

    Without MODEL, the first call trains two small ones on the built-in reviews (under a minute) and keeps them in
    the cache. The page asks nothing of the network. For other machines: `bertcnn serve --web`.
    """
    if not 1 <= port < 1 << 16:
        raise SettingsError(f"port is {port}, expected 1 to 65535.")
    quiet()
    if model is None:
        beside = beside or _own(CNN_ALONE)
        model = QUICKSTART if QUICKSTART.is_dir() else _own(BERT_CNN)
    name = "quickstart" if model == QUICKSTART else ""
    settings = ServerSettings(model=model, name=name, beside=beside, port=port, web=True)
    where = f"[bold]{address(settings)}[/]"
    err.print(f"Loading {escape(str(model))}. The page will be at {where} (Ctrl+C ends it).", soft_wrap=True)
    if opens:
        threading.Thread(target=_open, args=(settings,), daemon=True).start()
    serve_with(settings, log_level="WARNING")


def _own(name: str) -> Path:
    """Return the folder of a model of the demo's own, trained on the built-in reviews if it is not there yet."""
    folder = demo_folder() / name
    if folder.is_dir():
        return folder
    err.print(f"Training {name!r} on the built-in reviews, once ...", highlight=False)
    try:
        from bertcnn.settings import Settings, change
        from bertcnn.text.dataset import load_splits
        from bertcnn.training.save import save
        from bertcnn.training.train import train
    except ImportError as error:
        raise ModelError(f"Without MODEL, {error.name} is needed: pip install 'bertcnn[train]'") from error
    settings = change(Settings(), {**_OWN[name], "method": "frozen", "report_to": ("none",)})
    trained = train(load_splits("builtin:reviews", settings.data), settings)
    save(trained, folder, overwrite=True, sources={"source": "builtin:reviews"})
    return folder


def demo_folder() -> Path:
    """Return where the demo keeps its models: ``BERTCNN_DEMO``, else the user's cache."""
    return Path(os.environ.get("BERTCNN_DEMO") or Path.home() / ".cache" / "bertcnn" / "demo").expanduser()


def _open(settings: ServerSettings) -> None:
    """Open the browser when the server answers."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        connection = HTTPConnection(settings.host, settings.port, timeout=START_SECONDS)
        try:
            connection.request("GET", "/readyz")
            connection.getresponse()
        except OSError:
            time.sleep(0.3)
        else:
            webbrowser.open(address(settings))
            return
        finally:
            connection.close()


def address(settings: ServerSettings) -> str:
    """Return where the page is."""
    return f"http://{settings.host}:{settings.port}/web/"
