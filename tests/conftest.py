"""A tiny random BERT with a small vocabulary of its own, and models on top of it. No network."""

import atexit
import functools
import gc
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from bertcnn import Predictor, Settings, save, train
from bertcnn.network.encoder import load_tokenizer
from bertcnn.network.model import BertCNN
from bertcnn.settings import change
from bertcnn.text.dataset import Examples, Splits
from bertcnn.text.tokens import PieceTokenizer

GOOD = ["good", "great", "lovely", "superb", "fine"]
BAD = ["bad", "awful", "poor", "dull", "weak"]
OTHER = ["the", "film", "was", "and", "a", "very", "phone", "room", "is", "it", "not", "really", "staff", "so"]
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]


def make_tiny_bert(folder: Path, *, layers: int = 4, positions: int = 40) -> Path:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *GOOD, *BAD, *OTHER, *LETTERS, *("##" + c for c in LETTERS), ".", "!", "?", ",", "'"]
    words = list(dict.fromkeys(words))
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **names).save_pretrained(folder)
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=positions,
        initializer_range=0.2,  # states that differ enough for a test to see it
    )
    bert = BertModel(config)
    bert.embeddings.position_embeddings.weight.data *= 0.1  # words shall weigh more than places
    bert.embeddings.token_type_embeddings.weight.data *= 0.1
    bert.save_pretrained(folder)
    return folder


def make_texts(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Short reviews whose label hangs on one word."""
    generator = random.Random(seed)
    texts, labels = [], []
    while len(texts) < count:
        label = ("negative", "positive")[len(texts) % 2]
        words = generator.choices(OTHER, k=generator.randint(2, 9))
        words.insert(generator.randrange(len(words)), generator.choice(GOOD if label == "positive" else BAD))
        text = " ".join(words)
        if text not in texts:
            texts.append(text)
            labels.append(label)
    return texts, labels


@pytest.fixture(autouse=True, scope="session")
def _alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the state cache of tests to themselves, and the libraries quiet."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    os.environ["BERTCNN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="module")
def _light_collections() -> None:
    """Keep what is loaded out of the garbage collection that Trainer ends with: most of a small fit's time."""
    gc.collect()
    gc.freeze()


SERVER = """
import gc, importlib, json, os, runpy, select, socket, sys

gc.disable()
for name in ("apps.cli", "training.train", "training.save", "inference.predictor", "network.states"):
    importlib.import_module("bertcnn." + name)
import datasets, transformers.models.auto.tokenization_auto, transformers.models.bert.modeling_bert
gc.freeze()
gc.enable()

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
while True:
    ready, _, _ = select.select([listener, sys.stdin], [], [])
    if sys.stdin in ready:  # the tests ended
        sys.exit()
    caller, _ = listener.accept()
    size = int.from_bytes(caller.recv(8), "big")
    message, streams, _, _ = socket.recv_fds(caller, 1, 3)
    while len(message) < size:
        message += caller.recv(size - len(message))
    child = os.fork()
    if child == 0:
        break
    for stream in streams:
        os.close(stream)
    caller.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    caller.close()
listener.close()
caller.close()
for number, stream in enumerate(streams):
    os.dup2(stream, number)
    os.close(stream)
arguments, folder, environment = json.loads(message)
os.chdir(folder)
os.environ.clear()
os.environ.update(environment)
coding = os.environ.get("PYTHONIOENCODING")
sys.stdin, sys.stdout, sys.stderr = (open(i, "rww"[i], encoding=coding, closefd=False) for i in range(3))
sys.argv[1:] = arguments
runpy.run_module("bertcnn", run_name="__main__", alter_sys=True)
"""

CALLER = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
message = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
server.sendall(len(message).to_bytes(8, "big"))
socket.send_fds(server, [message[:1]], [0, 1, 2])
server.sendall(message[1:])
code = int(server.recv(16) or 1)
sys.exit(code if code >= 0 else 128 - code)
"""


@functools.cache
def warm_command() -> Path:
    """Return an executable ``bertcnn`` that answers as the installed one, without its seconds of imports.

    A process that has imported everything and run nothing is forked for each call; the call has
    its caller's arguments, folder, environment and streams. Tests of the imports, or of what a
    process does to a signal, start ``python -m bertcnn`` themselves.
    """
    folder = Path(tempfile.mkdtemp(prefix="bertcnn-"))  # the name of a socket must be short
    address = str(folder / "socket")
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def stop() -> None:
        server.communicate()  # closes its input
        shutil.rmtree(folder)

    atexit.register(stop)
    command = folder / "bertcnn"
    command.write_text(CALLER.format(python=sys.executable, address=address))
    command.chmod(0o755)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    return command


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random 4-layer BERT that reads 40 pieces at once."""
    return str(make_tiny_bert(tmp_path_factory.mktemp("tiny-bert")))


@pytest.fixture(scope="session")
def tokenizer(tiny: str) -> PieceTokenizer:
    return load_tokenizer(tiny)


@pytest.fixture
def model(tiny: str) -> BertCNN:
    """Untrained: three widths, windows of 16 pieces that share 4."""
    torch.manual_seed(0)
    model = BertCNN.from_encoder(tiny, depth=2, num_filters=8, kernel_sizes=(1, 2, 3), max_length=16, overlap=4)
    torch.nn.init.normal_(model.head.cnn.weight, std=0.5)
    torch.nn.init.normal_(model.head.cnn.bias, std=0.5)
    torch.nn.init.normal_(model.head.classifier.weight, std=0.5)
    return model


@pytest.fixture
def predictor(model: BertCNN, tokenizer: PieceTokenizer) -> Predictor:
    return Predictor(model, tokenizer)


@pytest.fixture(scope="session")
def quick(tiny: str) -> Settings:
    """Settings of a training run of a second."""
    values = {
        "encoder": tiny, "depth": 1, "num_filters": 32, "kernel_sizes": (1, 2), "overlap": 4, "epochs": 2,
        "dropout": 0.1,
        "head_epochs": 12, "batch_size": 16, "head_learning_rate": 0.01, "encoder_learning_rate": 0.001, "patience": 20,
        "report_to": ("none",),
    }  # fmt: skip
    return change(Settings(), values)


@pytest.fixture(scope="session")
def splits() -> Splits:
    texts, labels = make_texts(240)
    everything = Examples(texts, list(labels), "made up")
    return Splits(
        everything.pick(range(160), "train"),
        everything.pick(range(160, 200), "dev"),
        everything.pick(range(200, 240), "test"),
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, splits: Splits, quick: Settings) -> Path:
    """A trained and saved model."""
    place = tmp_path_factory.mktemp("models") / "reviews"
    trained = train(splits, change(quick, {"method": "head-then-finetune"}))
    assert trained.test is not None
    assert trained.test.headlines["accuracy"].value > 0.9
    save(trained, place)
    return place


@pytest.fixture(scope="session")
def csv_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts, labels = make_texts(160, seed=3)
    file = tmp_path_factory.mktemp("data") / "reviews.csv"
    rows = "".join(f"{i},{text},{label}\n" for i, (text, label) in enumerate(zip(texts, labels, strict=True)))
    file.write_text("id,review,sentiment\n" + rows)
    return file


# ---- other families of encoders

POSITIONS = 24
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {},
    "roberta": {"pad_token_id": 1},
    "xlm-roberta": {"pad_token_id": 1},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "mpnet": {"pad_token_id": 1},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 8,
        "position_biased_input": False,
    },
    "modernbert": {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2, "local_attention": 8},
    "longformer": {"attention_window": [8, 8, 8]},
    "t5": {"d_kv": 8, "d_ff": 64, "initializer_factor": 1.0, "relative_attention_num_buckets": 8},
    "eurobert": {"num_key_value_heads": 2},
    "layoutlm": {},
}
OTHERS: dict[str, dict[str, Any]] = {
    "nomic_bert": {},
    "big_bird": {"block_size": 4, "num_random_blocks": 1},
}


@pytest.fixture(scope="session")
def pad_is_one(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer of conftest with the special pieces where RoBERTa has them: <s> 0, <pad> 1, </s> 2."""
    folder = tmp_path_factory.mktemp("pad-is-one")
    given = AutoTokenizer.from_pretrained(tiny).get_vocab()
    words = [word for word in sorted(given, key=given.get) if not word.startswith("[")]
    vocabulary = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


@pytest.fixture
def make_family(tiny: str, pad_is_one: Path, tmp_path: Path) -> Callable[[str], Path]:
    def make(family: str) -> Path:
        values = {
            "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
            "max_position_embeddings": POSITIONS, "initializer_range": 0.2, "pad_token_id": 0,
            **{**FAMILIES, **OTHERS}[family],
        }  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(pad_is_one if values["pad_token_id"] else tiny)
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **values)
        AutoModel.from_config(config).save_pretrained(tmp_path / family)
        tokenizer.save_pretrained(tmp_path / family)
        return tmp_path / family

    return make
