"""Static word vectors behind an encoder's face: the twin of BERT that sees no context.

The same :class:`~bertcnn.network.cnn.TextCNN` runs over it (Kim 2014), so that a comparison with
BERT changes one thing. Random vectors, or read from a file.
"""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from bertcnn.arrays import Floats32
from bertcnn.errors import EncoderError
from bertcnn.network.config import WordVectorsConfig
from bertcnn.network.encoder import check_pieces, load_encoder, load_tokenizer
from bertcnn.text.cells import without_surrogates
from bertcnn.text.tokens import PieceTokenizer

PAD, UNKNOWN = "[PAD]", "[UNK]"
RANDOM_RANGE = 0.25
"""Words without a vector are drawn from ±0.25, as in Kim (2014), sec. 3.1."""


class WordVectors(PreTrainedModel):
    """A table of word vectors that answers as a Hugging Face encoder does."""

    config_class = WordVectorsConfig
    base_model_prefix = "words"

    def __init__(self, config: WordVectorsConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.uniform_(module.weight, -RANDOM_RANGE, RANDOM_RANGE)

    def get_input_embeddings(self) -> nn.Module:
        """Return the table."""
        return self.embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Put another table in its place."""
        self.embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,  # noqa: ARG002  # what encoders take
        inputs_embeds: Tensor | None = None,
        **_: Any,
    ) -> BaseModelOutput:
        """Look up vectors: int64 ``(B, T)`` to float ``(B, T, D)``."""
        states = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        return BaseModelOutput(last_hidden_state=states, hidden_states=(states,))


def build_vectors(
    texts: list[str],
    *,
    file: str | Path | None = None,
    size: int = 300,
    seed: int = 0,
    max_words: int = 100_000,
    padding: int = 0,
) -> tuple[WordVectors, PieceTokenizer]:
    """Make a table for the words of the training texts and, where given, of a vector file.

    Args:
        texts: Training texts; each of their words gets a row.
        file: Vectors to start from (see :func:`read_vectors`). None: all random.
        size: Width of random vectors.
        seed: Of the words that the file does not have.
        max_words: Most words taken from the file beyond those of the texts, in its order.
        padding: Zero vectors to put before and after each text, as Kim (2014) does, the widest window
            less one: windows that hang over the ends see where a text begins, and fit one of two words.

    Raises:
        EncoderError: The file cannot be read.
    """
    normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    # Words with their inner apostrophes, else single signs.
    words = Regex("\\w+(?:['\u2019]\\w+)*|[^\\w\\s]")
    splitter = pre_tokenizers.Split(words, behavior="removed", invert=True)
    vocabulary: dict[str, int] = {PAD: 0, UNKNOWN: 1}
    for text in texts:
        clean = normalizer.normalize_str(without_surrogates(text))
        for word, _ in splitter.pre_tokenize_str(clean):
            vocabulary.setdefault(word, len(vocabulary))
    vectors: Floats32 = np.zeros((0, size), dtype=np.float32)
    known: dict[str, int] = {}
    if file is not None:
        known, vectors = read_vectors(Path(file), set(vocabulary), max_words)
        for word in known:
            vocabulary.setdefault(word, len(vocabulary))
    table = np.random.default_rng(seed).uniform(-RANDOM_RANGE, RANDOM_RANGE, (len(vocabulary), vectors.shape[1]))
    rows = [vocabulary[word] for word in known]
    table[rows] = vectors[list(known.values())]
    table[0] = 0.0
    encoder = WordVectors(WordVectorsConfig(vocab_size=len(vocabulary), hidden_size=vectors.shape[1]))
    encoder.embeddings.weight.data = torch.from_numpy(table.astype(np.float32))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    if padding:
        edge = " ".join([PAD] * padding)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{edge} $A {edge}", special_tokens=[(PAD, 0)])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    return encoder, PieceTokenizer(tokenizer, config)


def build_pieces(encoder: str) -> tuple[WordVectors, PieceTokenizer]:
    """Make a table of an encoder's own input vectors, and its tokenizer: BERT without its context.

    Args:
        encoder: ``minilm``, a folder, or a hub name.

    Raises:
        EncoderError: There is no such encoder.
    """
    whole, tokenizer = load_encoder(encoder, 1), load_tokenizer(encoder)
    check_pieces(encoder, tokenizer, whole)
    table = whole.get_input_embeddings().weight.detach().clone()
    config = WordVectorsConfig(vocab_size=len(table), hidden_size=table.shape[1], pad_token_id=tokenizer.pad_id)
    words = WordVectors(config)
    words.embeddings.weight.data = table
    return words, tokenizer


def read_vectors(file: Path, wanted: set[str], max_words: int) -> tuple[dict[str, int], Floats32]:
    """Read word vectors, words lower-cased, the first of equal words kept.

    Args:
        file: ``.npz`` with arrays ``words (V,)`` and ``vectors (V, D)``, and optionally ``forms``
            and ``form_row`` (inflected words and the row of their base form); ``.bin`` in
            word2vec's binary form; ``.txt`` or ``.vec``, with or without a header line.
        wanted: Words to take in any case.
        max_words: How many others, in the file's order.

    Returns:
        Word to row, and the rows, float32 ``(V, D)``.

    Raises:
        EncoderError: No such file, or not one of these.
    """
    try:
        if file.suffix == ".npz":
            with file.open("rb") as raw, np.load(raw, allow_pickle=False) as arrays:
                pairs = list(zip(arrays["words"].tolist(), range(len(arrays["words"])), strict=True))
                if "forms" in arrays:
                    pairs += zip(arrays["forms"].tolist(), arrays["form_row"].tolist(), strict=True)
                vectors = arrays["vectors"]
        elif file.suffix == ".bin":
            from gensim.models import KeyedVectors

            keyed = KeyedVectors.load_word2vec_format(str(file), binary=True)
            pairs, vectors = list(zip(keyed.index_to_key, range(len(keyed)), strict=True)), keyed.vectors
        else:
            words, vectors = _read_text(file)
            pairs = list(zip(words, range(len(words)), strict=True))
        if vectors.ndim != 2 or any(not 0 <= row < len(vectors) for _, row in pairs):
            raise ValueError(f"{len(pairs)} words do not fit vectors of shape {vectors.shape}")
    except ImportError as error:
        raise EncoderError(f"Reading {file.suffix} vectors needs gensim: pip install 'bertcnn[vectors]'") from error
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise EncoderError(
            f"Cannot read word vectors from {file}: {error}. Expected .npz (arrays 'words' and 'vectors'), "
            ".txt, .vec, or word2vec's .bin."
        ) from error
    rows: dict[str, int] = {}
    others = 0
    for word, row in pairs:
        lower = word.lower()
        if lower in rows or (lower not in wanted and others >= max_words):
            continue
        others += lower not in wanted
        rows[lower] = row
    return rows, np.asarray(vectors, dtype=np.float32)


def _read_text(file: Path) -> tuple[list[str], Floats32]:
    """Read a word and its numbers a line; a first line of only two parts counts words and numbers."""
    words: list[str] = []
    rows: list[Floats32] = []
    promised = None
    with file.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            parts = line.rstrip().split(" ")
            width = min(len(rows[0]) if rows else len(parts) - 1, len(parts) - 1)
            # Some files have words with spaces in them.
            word, values = " ".join(parts[: len(parts) - width]), parts[len(parts) - width :]
            if not word and not values:
                continue
            if len(values) == 1 and promised is None and not words:
                promised = int(word)
                continue
            words.append(word)
            rows.append(np.array(values, dtype=np.float32))
    if not words or promised not in {None, len(words)}:
        raise ValueError(f"it holds {len(words)} words" + (f" of {promised}" if promised else ""))
    return words, np.stack(rows)
