"""Texts to word pieces, and word pieces to batches that an encoder can read.

A text of any length becomes one row of pieces. An encoder reads only so many at once, so a
longer row is cut into overlapping *windows*, each with its own special pieces, and the states
that come back are stitched into one row again. Where windows overlap, a piece takes its state
from the window in which it stands further from the cut.

A very long text is worked on in *segments*: runs of windows, each beginning with as many pieces
of the one before as the widest convolution reaches back. The greatest value of a filter over a
text is then the greatest over its segments, exactly, in memory that does not grow with the text.

Everything here is numpy and the ``tokenizers`` library, so that it also serves a runtime
without torch.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from tokenizers import Tokenizer

from bertcnn.arrays import Bools, Ints
from bertcnn.errors import ModelError
from bertcnn.text.cells import is_missing, without_surrogates

SEGMENT_WINDOWS = 16
"""Windows of one segment: at 512 pieces each, some 40 MB of states for a width of 384."""


@dataclass(frozen=True)
class Pieces:
    """Word pieces of N texts, end to end.

    Attributes:
        ids: Vocabulary ids, special pieces included, int64 ``(pieces,)``.
        starts: Text ``i`` is ``ids[starts[i]:starts[i + 1]]``, int64 ``(N + 1,)``.
        spans: Where each piece stands in its text, in characters, int64 ``(pieces, 2)``;
            empty for special pieces. None unless asked for.
    """

    ids: Ints
    starts: Ints
    spans: Ints | None = None

    @classmethod
    def of(cls, texts: Sequence[Ints]) -> Self:
        """Join the pieces of some texts, each int64 ``(pieces of it,)``."""
        none = np.zeros(0, dtype=np.int64)  # for where there are no texts
        return cls(np.concatenate([none, *texts]), np.cumsum([0, *map(len, texts)], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, text: int) -> Ints:
        return self.ids[self.starts[text] : self.starts[text + 1]]

    @property
    def lengths(self) -> Ints:
        """Pieces of each text, int64 ``(N,)``."""
        return np.diff(self.starts)

    def distinct(self) -> tuple[Ints, "Pieces"]:
        """Return for each text its row among those that differ in their pieces, int64 ``(N,)``, and those."""
        place: dict[bytes, int] = {}
        rows = [place.setdefault(self[text].tobytes(), len(place)) for text in range(len(self))]
        return np.array(rows, dtype=np.int64), Pieces.of([np.frombuffer(key, dtype=np.int64) for key in place])


NO_WINDOWS = 1 << 30
"""Window length that stands for none: such an encoder reads texts of any length at once."""


@dataclass(frozen=True)
class Windowing:
    """How rows that are too long for the encoder are cut.

    Attributes:
        length: Most pieces the encoder reads at once, special pieces included.
        overlap: Pieces that neighbouring windows share at the least.
        prefix: Special pieces at the start of each window (BERT: 1, the ``[CLS]``).
        suffix: Special pieces at the end of each window (BERT: 1, the ``[SEP]``).
    """

    length: int
    overlap: int
    prefix: int = 1
    suffix: int = 1

    @property
    def room(self) -> int:
        """Pieces of the text that fit into one window."""
        return self.length - self.prefix - self.suffix

    def starts(self, pieces: int) -> Ints:
        """Return where the windows of a row begin, counted in its non-special pieces.

        The last window is moved back to end with the text, so that all are full.
        """
        content = pieces - self.prefix - self.suffix
        if content <= self.room:
            return np.zeros(1, dtype=np.int64)
        last = content - self.room
        return np.append(np.arange(0, last, self.room - self.overlap, dtype=np.int64), last)


@dataclass(frozen=True)
class Segment:
    """A run of windows of one text, and the stretch of the stitched row they give.

    Attributes:
        text: Which text, as an index.
        start: First piece of the stretch within the text's row.
        rows: Pieces each window reads, as indices into the text's row, int64 ``(N, L)``.
        source: For each piece of the stretch, where its state stands in the
            flattened windows, int64 ``(T,)``.
    """

    text: int
    start: int
    rows: Ints
    source: Ints


@dataclass(frozen=True)
class Batch:
    """What one call of the network reads: N windows, that make B rows.

    Attributes:
        input_ids: Pieces of each window, int64 ``(N, L)``.
        attention_mask: 1 where there is a piece and 0 where there is padding, int64 ``(N, L)``.
        source: For each piece of a stitched row, where its state stands in the
            flattened windows, int64 ``(B, T)``.
        source_mask: True where the stitched row has a piece, bool ``(B, T)``.
        texts: Which text each row belongs to, int64 ``(B,)``.
        starts: First piece of each row within its text, int64 ``(B,)``.
    """

    input_ids: Ints
    attention_mask: Ints
    source: Ints
    source_mask: Bools
    texts: Ints
    starts: Ints

    @property
    def is_plain(self) -> bool:
        """True where windows and rows are the same, so that nothing needs stitching."""
        if self.source.shape != self.input_ids.shape:
            return False
        # Not only as many: the last window of a long text may begin its row at a later piece.
        return np.array_equal(self.source[self.source_mask], np.flatnonzero(self.source_mask))


def segments(
    text: int, pieces: int, windowing: Windowing, *, reach: int, windows: int | None = None
) -> Iterator[Segment]:
    """Cut the row of one text into segments (a single one, where ``windows`` is None).

    Args:
        text: Index of the text.
        pieces: Pieces in its row, special ones included.
        windowing: Where to cut.
        reach: Pieces that a segment repeats of the one before: widest kernel - 1.
        windows: Most windows whose pieces a segment adds.
    """
    if pieces <= windowing.length:
        whole = np.arange(pieces, dtype=np.int64)
        yield Segment(text, 0, whole[None], whole)
        return
    starts = windowing.starts(pieces)
    # A piece in an overlap belongs to the earlier window up to the middle of the overlap.
    # Bounds are in pieces of the row: the first window also owns the prefix, the last the suffix.
    middles = (starts[:-1] + windowing.room - 1 + starts[1:]) // 2 + 1
    bounds = np.concatenate([[0], middles + windowing.prefix, [pieces]])
    head = np.arange(windowing.prefix)
    tail = np.arange(pieces - windowing.suffix, pieces)
    body = np.arange(windowing.room) + windowing.prefix
    step = windows or len(starts)
    for first in range(0, len(starts), step):
        last = min(first + step, len(starts))
        begin = max(int(bounds[first]) - reach, 0)
        positions = np.arange(begin, bounds[last], dtype=np.int64)
        owner = np.searchsorted(bounds, positions, side="right") - 1
        read_from = int(owner[0])  # of the window before, or, where the last one was moved back, of one before that
        rows = np.stack([np.concatenate([head, start + body, tail]) for start in starts[read_from:last]])
        columns = positions - starts[owner]  # a window's column of row piece p is p - its start
        yield Segment(text, begin, rows, (owner - read_from) * windowing.length + columns)


def plan_batches(
    lengths: Ints,
    windowing: Windowing,
    *,
    max_tokens: int,
    overhead_tokens: int,
    reach: int | None,
    segment_windows: int = SEGMENT_WINDOWS,
) -> Iterator[list[Segment]]:
    """Group texts into batches of like length whose padded size, in windows and in stitched rows, keeps to a budget.

    A batch ends, too, where going on would have cost more padding than a batch costs to begin: so all of the
    padding costs at most as much as beginning the batches does, whatever lengths there are.

    Args:
        lengths: Pieces of each text, int64 ``(N,)``.
        windowing: Where long rows are cut.
        max_tokens: Most padded pieces of a batch; a segment that alone is larger
            makes a batch of its own.
        overhead_tokens: Pieces that could be computed in the time that a batch takes whatever its size.
        reach: Widest kernel - 1. None: texts are not cut into segments.
        segment_windows: Most windows whose pieces a segment adds.
    """
    batch: list[Segment] = []
    windows_of_batch = longest = padding = 0
    for text in np.argsort(-lengths, kind="stable"):
        windows = None if reach is None else segment_windows
        parts = segments(int(text), int(lengths[text]), windowing, reach=reach or 0, windows=windows)
        for segment in parts:
            # Rows come longest first, so the first window's length is the padded length of all.
            width = batch[0].rows.shape[1] if batch else segment.rows.shape[1]
            padding += len(segment.rows) * width - segment.rows.size
            windows_of_batch += len(segment.rows)
            longest = max(longest, len(segment.source))
            grown = max(windows_of_batch * width, (len(batch) + 1) * longest)
            if batch and (grown > max_tokens or padding > overhead_tokens):
                yield batch
                batch, windows_of_batch, longest, padding = [], len(segment.rows), len(segment.source), 0
            batch.append(segment)
    if batch:
        yield batch


def make_batch(pieces: Pieces, parts: Sequence[Segment], *, pad_id: int) -> Batch:
    """Gather the pieces of some segments into one padded batch."""
    windows = sum(len(part.rows) for part in parts)
    longest_window = max(1, max(part.rows.shape[1] for part in parts))
    longest_row = max(1, max(len(part.source) for part in parts))
    input_ids = np.full((windows, longest_window), pad_id, dtype=np.int64)
    attention_mask = np.zeros((windows, longest_window), dtype=np.int64)
    source = np.zeros((len(parts), longest_row), dtype=np.int64)
    source_mask = np.zeros((len(parts), longest_row), dtype=np.bool_)
    window = 0
    for row, part in enumerate(parts):
        count, length = part.rows.shape
        input_ids[window : window + count, :length] = pieces[part.text][part.rows]
        attention_mask[window : window + count, :length] = 1
        stretch = len(part.source)
        # ``part.source`` counts in windows of ``length``; the batch's are ``longest_window`` long.
        which, column = np.divmod(part.source, max(length, 1))
        source[row, :stretch] = (window + which) * longest_window + column
        source_mask[row, :stretch] = True
        window += count
    return Batch(
        input_ids,
        attention_mask,
        source,
        source_mask,
        np.array([part.text for part in parts], dtype=np.int64),
        np.array([part.start for part in parts], dtype=np.int64),
    )


def one_by_one(texts: Iterable[str]) -> Iterable[str]:
    """Return what yields texts; of a table with a single column, that column.

    Raises:
        TypeError: It yields no texts: the letters of a string, the keys of a dict, or the names of
            a table's columns.
    """
    if isinstance(texts, str):
        raise TypeError(f'Expected a list of texts, got one string. Write ["{texts[:20]}..."] instead.')
    if isinstance(texts, Mapping):
        keys = ", ".join(repr(key) for key in list(texts)[:5])
        raise TypeError(
            f"Expected a list of texts, got a {type(texts).__name__} with the keys {keys}. Give one of its values."
        )
    if not hasattr(texts, "columns"):  # no data frame, by whatever library
        return texts
    table: Any = texts
    names = list(table.columns)
    if len(names) != 1:
        shown = ", ".join(map(repr, names))
        raise TypeError(f"Expected a list of texts, got a table with the columns {shown}. Give the one with the texts.")
    column: Iterable[str] = table[names[0]]
    return column


def check_texts(texts: Iterable[str], *, first: int = 0) -> list[str]:
    """Return texts as a list; a table must have a single column.

    Args:
        texts: All, or some of many.
        first: Number of the first of them.

    Raises:
        TypeError: They are a string, a dict or a wider table, or one of them is no string.
    """
    found = list(one_by_one(texts))
    wrong = next((i for i, text in enumerate(found) if not isinstance(text, str)), None)
    if wrong is None:
        return found
    one: Any = found[wrong]
    kind = type(one).__name__
    hint = "; a missing text is ''" if is_missing(one) else ""
    raise TypeError(f"Text {first + wrong} is a {kind}, expected str{hint}.")


class PieceTokenizer:
    """A Hugging Face tokenizer without the length limit, as arrays.

    Args:
        tokenizer: The compiled tokenizer (``tokenizer.json``).
        config: The settings beside it (``tokenizer_config.json``).

    Attributes:
        prefix, suffix: Special pieces before and after those of a text.
        pad_id: The piece for padding.
        unknown_id: The piece for what is not in the vocabulary; None: there is none.
    """

    def __init__(self, tokenizer: Tokenizer, config: dict[str, Any]) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        # The network takes texts of any length, so nobody else shall warn or cut either.
        self.config = {k: v for k, v in config.items() if k not in {"model_max_length", "max_length"}}
        bare, full = _with_and_without_special_pieces(tokenizer)
        at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
        self.prefix: list[int] = full[:at]
        self.suffix: list[int] = full[at + len(bare) :]
        self.pad_id: int = self._special("pad_token") or 0
        self.unknown_id = self._special("unk_token")

    def _special(self, name: str) -> int | None:
        """Return the number of a piece that the settings name."""
        named = self.config.get(name)
        token = named["content"] if isinstance(named, dict) else named
        return self.tokenizer.token_to_id(token) if token else None

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read ``tokenizer.json`` and ``tokenizer_config.json`` of a model folder.

        Raises:
            ModelError: A file is missing or cannot be read.
        """
        folder = Path(folder)
        try:
            config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
            return cls(Tokenizer.from_str((folder / "tokenizer.json").read_text("utf-8")), config)
        except Exception as error:  # the Rust reader raises bare Exception
            raise ModelError(f"Cannot read the tokenizer of {folder}: {error}") from error

    @property
    def vocabulary(self) -> dict[str, int]:
        """All pieces with their numbers."""
        return self.tokenizer.get_vocab(with_added_tokens=True)

    def forget_padding(self) -> None:
        """Pad with piece 0; what is padded is masked."""
        self.config.pop("pad_token", None)
        self.pad_id = 0

    def save(self, folder: str | Path) -> None:
        """Write both files, readable by ``transformers.AutoTokenizer`` too."""
        folder = Path(folder)
        (folder / "tokenizer.json").write_text(self.tokenizer.to_str(), "utf-8")
        text = json.dumps(self.config, indent=2, ensure_ascii=False, default=str) + "\n"
        (folder / "tokenizer_config.json").write_text(text, "utf-8")

    def __call__(self, texts: Sequence[str], *, with_spans: bool = False) -> Pieces:
        """Cut texts into pieces, special pieces included.

        Lone surrogates, which no tokenizer takes, are read as U+FFFD; this moves no character.
        """
        clean = [without_surrogates(text) for text in texts]
        encode = self.tokenizer.encode_batch if with_spans else self.tokenizer.encode_batch_fast
        encodings = encode(clean, add_special_tokens=True)
        starts = np.zeros(len(texts) + 1, dtype=np.int64)
        np.cumsum([len(encoding) for encoding in encodings], out=starts[1:])
        ids = np.empty(starts[-1], dtype=np.int64)
        spans = np.empty((starts[-1], 2), dtype=np.int64) if with_spans else None
        for i, encoding in enumerate(encodings):
            ids[starts[i] : starts[i + 1]] = encoding.ids
            if spans is not None:
                spans[starts[i] : starts[i + 1]] = encoding.offsets or np.empty((0, 2))
        return Pieces(ids, starts, spans)


def _with_and_without_special_pieces(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the pieces of a text without and with the special ones; of "a", or what the tokenizer knows."""

    def texts() -> Iterator[str]:
        yield "a"  # which nearly all know: the rest takes a while to list
        added = {one.content for one in tokenizer.get_added_tokens_decoder().values()}
        known = tokenizer.get_vocab(with_added_tokens=False)
        yield from sorted(known.keys() - added, key=known.__getitem__)

    for text in texts():
        bare: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        if bare:
            return bare, tokenizer.encode(text, add_special_tokens=True).ids
    return [], []
