"""Lines of a stream, as they come."""

import codecs
import io
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import IO, Any, Self

from bertcnn.errors import DataError

BYTES_AT_ONCE = 1 << 20
LINES_AT_ONCE = 4096


class Incoming:
    """The lines of a stream of bytes, which knows whether another is there already, so that nobody need wait for it.

    Args:
        stream: What they are read from.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream: Any = stream
        self._lines: deque[bytes] = deque()
        self._begun: list[bytes] = []  # parts of a line whose end has not come

    @property
    def has_more(self) -> bool:
        """Whether a line can be had at once."""
        return bool(self._lines)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        while not self._lines:
            data = self._stream.read1(BYTES_AT_ONCE)  # waits where there is nothing, and takes what there is
            *whole, rest = data.split(b"\n")
            if whole:
                whole[0] = b"".join([*self._begun, whole[0]])
                self._begun = []
                self._lines.extend(whole)
            if rest:
                self._begun.append(rest)
            elif not data and self._begun:
                self._lines.append(b"".join(self._begun))
                self._begun = []
            elif not data:
                raise StopIteration
        return self._lines.popleft()


def read_lines(file: IO[bytes], name: str, *, encoding: str = "utf-8") -> Iterator[list[str]]:
    """Yield the lines of a stream without their ends, in lists of those that are there when the next list is asked for.

    Raises:
        DataError: A line is of another encoding, or there is no such encoding.
    """
    try:
        is_wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    except LookupError as error:
        raise DataError(f"No encoding {encoding!r}. Try utf-8, cp1252, latin-1 or utf-16.") from error
    if is_wide:  # whose lines do not end where a byte says so
        lines = _wide_lines(file, name, encoding)
        while some := list(islice(lines, LINES_AT_ONCE)):
            yield some
        return
    incoming = Incoming(file)
    lines = _narrow_lines(incoming, name, encoding)
    for line in lines:
        some = [line]
        while incoming.has_more and len(some) < LINES_AT_ONCE:
            some.append(next(lines))
        yield some


def _wide_lines(file: IO[bytes], name: str, encoding: str) -> Iterator[str]:
    try:
        for number, line in enumerate(io.TextIOWrapper(file, encoding=encoding, newline="\n")):
            yield (line if number else line.removeprefix("\ufeff")).rstrip("\r\n")
    except UnicodeError as error:
        raise DataError(f"{name} is not {encoding}: {error}.", "Give its --encoding.") from error


def _narrow_lines(lines: Iterable[bytes], name: str, encoding: str) -> Iterator[str]:
    for number, raw in enumerate(lines, start=1):
        try:
            line = raw.decode(encoding)
        except (LookupError, UnicodeError) as error:  # base64 is a codec, but of no text
            raise DataError(f"Line {number} of {name} is not {encoding}: {error}.", "Give its --encoding.") from error
        yield line.removeprefix("\ufeff").rstrip("\r\n") if number == 1 else line.rstrip("\r\n")
