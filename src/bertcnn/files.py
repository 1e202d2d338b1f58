"""Files that are whole or not there, and folders that one process holds."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bertcnn.errors import BertCNNError

LOCK = "lock"
"""The file in a folder by which a process holds it."""


def write_whole(file: Path, text: str) -> None:
    """Write a text, in UTF-8 (lone surrogates as "?"), to a file that appears when it is whole.

    Raises:
        OSError: It cannot be written; what was there before is there still.
    """
    draft = beside(file)
    try:
        draft.write_text(text, "utf-8", errors="replace")
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def beside(file: Path) -> Path:
    """Return a name for what shall be at ``file`` when it is whole."""
    return file.with_name(f".{file.name}-{secrets.token_hex(4)}")


@contextmanager
def alone_in(folder: Path, error: type[BertCNNError]) -> Iterator[None]:
    """Hold a folder, made if need be, against other processes; a kill lets go of it, too.

    Raises:
        BertCNNError: Of the kind ``error``: another process holds it.
    """
    from filelock import FileLock, Timeout  # not on machines that only answer

    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / LOCK).acquire(timeout=0)
    except Timeout as timeout:
        raise error(f"Another process is at work in {folder}. Wait for it, or give another --output.") from timeout
    with lock:
        yield
