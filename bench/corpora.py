"""The texts that all systems read, with their word pieces counted: short, middling, long, and stretched ones."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Corpora = dict[str, dict[str, Any]]

CUT = 512
"""Pieces that a plain BERT reads of a text."""

SIZES = {"short": 800, "medium": 80, "long": 24}
"""Texts a measurement; so many that the slowest system takes some seconds."""

SOURCES = {
    "short": ("cr", "sentences of customer reviews (CR)"),
    "medium": ("amazon_multidomain", "Amazon reviews, as long as Yelp's"),
    "long": ("movie_reviews_v2", "film reviews"),
}
LATENCY_PIECES = 25
STRETCHED = (1_000, 2_000, 4_000, 8_000, 16_000)


def write_corpora(data: Path, file: Path, *, quick: bool) -> Corpora:
    """Draw the texts, the same ones each time, and write them where workers find them.

    Args:
        data: Folder of the data sets.
        file: To write, JSON: name -> texts and their pieces, special ones included.
        quick: A tenth of the texts.
    """
    found: Corpora = {}
    for name, (folder, _) in SOURCES.items():
        texts = _texts(data / folder / "all.csv")
        found[name] = _counted(random.Random(0).sample(texts, SIZES[name] // (10 if quick else 1)))
    everything = _counted(_texts(data / "cr" / "all.csv"))
    pairs = zip(everything["texts"], everything["pieces"], strict=True)
    found["latency"] = _counted(text for text, count in pairs if count == LATENCY_PIECES)
    found |= _stretched(_texts(data / "movie_reviews_v2" / "all.csv"))
    file.write_text(json.dumps(found), "utf-8")
    return found


def _texts(file: Path) -> list[str]:
    from bertcnn.text.read_table import read_rows

    return list(dict.fromkeys(str(row["text"]) for row in read_rows(file)))


def _counted(texts: Iterable[str]) -> dict[str, Any]:
    from bertcnn.network.encoder import load_tokenizer

    kept = list(texts)
    return {"texts": kept, "pieces": load_tokenizer("minilm")(kept).lengths.tolist()}


def _stretched(texts: list[str]) -> Corpora:
    """Return one text of each length in ``STRETCHED``: film reviews end to end, cut after so many pieces."""
    from bertcnn.network.encoder import load_tokenizer

    endless = " ".join(texts[: 10 + max(STRETCHED) // 200])
    pieces = load_tokenizer("minilm")([endless], with_spans=True)
    assert pieces.spans is not None
    ends = {count: int(pieces.spans[count - 2, 1]) for count in STRETCHED}  # of the last before [SEP]
    return {str(count): _counted([endless[:end]]) for count, end in ends.items()}
