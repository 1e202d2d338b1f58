"""Every input of the bad kind: refused with a clear message, or answered."""

import gzip
import json
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import bertcnn
from bertcnn import (
    BertCNN,
    BertCNNClassifier,
    BertCNNError,
    DataError,
    EncoderError,
    ModelError,
    Predictor,
    Settings,
    SettingsError,
    StudyError,
    TrainingError,
    save,
    train,
)
from bertcnn.apps import show
from bertcnn.network.encoder import load_encoder, load_tokenizer
from bertcnn.network.folder import WEIGHTS
from bertcnn.settings import change, read_settings
from bertcnn.study.plan import find_source
from bertcnn.text.dataset import Examples, Splits, load_examples, load_splits
from bertcnn.text.labels import Labels
from bertcnn.text.read_table import read_rows
from bertcnn.text.write_table import write_rows
from tests.test_cli import call, real, small

DATA = Settings().data
NOISE = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes; to a program this looks like a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def whole(ending: str, rows: int = 3000) -> Callable[[Path], bytes]:
    """Return what makes the bytes of a sound file."""

    def make(tmp_path: Path) -> bytes:
        file = tmp_path / f"whole.{ending}"
        write_rows(file, [{"text": f"text {i} " * 5, "label": "ab"[i % 2]} for i in range(rows)])
        content = file.read_bytes()
        file.unlink()
        return content

    return make


def cut_off(ending: str) -> Callable[[Path], bytes]:
    return lambda tmp_path: whole(ending)(tmp_path)[:-30]


# what is wrong, file, content, words of the message
BAD_FILES: list[tuple[str, str, bytes | Callable[[Path], bytes], str]] = [
    ("empty csv", "t.csv", b"", r"t\.csv is empty"),
    ("empty jsonl", "t.jsonl", b"", r"t\.jsonl is empty"),
    ("empty parquet", "t.parquet", b"", r"t\.parquet is empty"),
    ("header only", "t.csv", b"text,label\n", "holds no rows"),
    ("header only, byte-order mark", "t.csv", b"\xef\xbb\xbftext,label\n", "holds no rows"),
    ("missing column", "t.csv", b"texts,sentiment\na,b\n",
     r"no column 'text'\. Its columns: 'texts', 'sentiment'\. Did you mean 'texts'\? Choose with --text"),
    ("missing label column", "t.csv", b"text,lable\na,b\n", r"no column 'label'.*'lable'\? Choose with --label"),
    ("semicolons", "t.csv", b"text;label\na;b\n", r"looks separated by ';': give --delimiter ';'"),
    ("tabs in a csv", "t.csv", b"text\tlabel\na\tb\n", r"looks separated by '\\t': give --delimiter '\\t'"),
    ("commas in a tsv", "t.tsv", b"text,label\na,b\n", r"looks separated by ','"),
    ("semicolons, and commas in texts", "t.csv", b"text;label\na, so a;b\n",
     r"has 1 column, but.*looks separated by ';': give --delimiter ';'"),
    ("semicolons, and quotes", "t.csv", b'text;label\n"a";b\n', r"begins at line 2\. The header.*--delimiter ';'"),
    ("latin-1", "t.csv", b"text,label\ncaf\xe9,a\n", r"not utf-8: byte 0xe9 at offset 14 \(line 2\).*--encoding"),
    ("latin-1, far down", "t.csv", b"text,label\n" + b"a,b\n" * 50_000 + b"\xff,b\n",
     r"byte 0xff at offset 200011 \(line 50002\)"),
    ("latin-1 jsonl", "t.jsonl", b'{"text": "caf\xe9"}\n', r"byte 0xe9 at offset 13 \(line 1\).*--encoding"),
    ("utf-16", "t.csv", "text,label\na,b\n".encode("utf-16"), "--encoding utf-16"),
    ("NUL", "t.csv", b"text,label\na,b\na\0,b\n", "NUL byte in line 3"),
    ("NUL in jsonl", "t.jsonl", b'{"text": "a\0"}\n', "NUL byte in line 1"),
    ("unclosed quote", "t.csv", b'text,label\na,b\n"a,b\nc,d\n',
     "a quote that is never closed, in the row that begins at line 3"),
    ("text after a quote", "t.csv", b'text,label\n"a" b,c\n', r"begins at line 2\. A text with quotes"),
    ("too many cells", "t.csv", b"text,label\na,b\na, so,b\n", r"has 2 columns, but row 2 \(line 3\) has 3"),
    ("too few cells", "t.csv", b"text,label\na\na,b\nb\n", r"row 1 \(line 2\) has 1; row 3 \(line 4\) has 1"),
    ("a column twice", "t.csv", b"text,label,text\na,b,c\n", "more than one column named 'text'"),
    ("noise csv", "t.csv", NOISE, "not utf-8|NUL"),
    ("noise tsv", "t.tsv", NOISE, "not utf-8|NUL"),
    ("noise jsonl", "t.jsonl", NOISE, "not utf-8|NUL"),
    ("noise parquet", "t.parquet", NOISE, "not a whole parquet file"),
    ("cut-off jsonl", "t.jsonl", cut_off("jsonl"), r"line 3000 is not JSON.*cut off\?"),
    ("cut-off parquet", "t.parquet", cut_off("parquet"), "not a whole parquet file"),
    ("a csv by the name of parquet", "t.parquet", b"text,label\na,b\n", "not a whole parquet file"),
    ("a list of JSON", "t.jsonl", b'["a", "b"]\n', "line 1 is a list, expected an object"),
    ("a list for a text", "t.jsonl", b'{"text": ["a"], "label": "b"}\n', r"A text is a list, \['a'\]\. Expected"),
    ("a number of JSON", "t.jsonl", b'{"text": "a"}\n3\n', "line 2 is a int, expected an object"),
    ("deep JSON", "t.jsonl", b"[" * 100_000 + b"\n", "line 1 is not JSON"),
    ("a csv by the name of jsonl", "t.jsonl", b"text,label\n", "line 1 is not JSON"),
    ("a spreadsheet", "t.xlsx", b"PK", r"'\.xlsx', expected one of \.csv, \.tsv, .*\. Save it as csv \(UTF-8\)"),
    ("a packed file", "t.csv.zip", b"PK", r"ends in '\.zip', expected one of .*\. Unpack it first\."),
    ("a packed parquet", "t.parquet.gz", b"\x1f\x8b", r"ends in '\.parquet\.gz', expected one of .*Unpack it first\."),
    ("a cut-off packed file", "t.csv.gz", gzip.compress(b"text,label\na,b\n" * 900)[:-12], r"Cannot read .*t\.csv\.gz"),
    ("no packed file", "t.csv.gz", b"text,label\na,b\n", r"Cannot read .*t\.csv\.gz: Not a gzipped file"),
    ("latin-1, packed", "t.csv.gz", gzip.compress(b"text,label\ncaf\xe9,a\n"), r"byte 0xe9 at offset 14 \(line 2\)"),
    ("a question for a header", "t.csv", b"What did you like most about us,l\na,b\n", "no column 'text'.*seems to be"),
    ("no header", "t.tsv", b"I liked it a lot\tgood\nNot I\tbad\n", r"if the file has no header, put a line with"),
    ("a value beyond the header", "t.csv", b"text,label,\na,b,\nc,d,e\n", r"has 2 columns, but row 2 \(line 3\) has 3"),
    ("an object for a label", "t.jsonl", b'{"text": "a", "label": {"is": "b"}}\n', r"row 1: The label is an object"),
    ("lines by the name of json", "t.json", b'{"text": "a"}\n{"text": "b"}\n', r"let it end in \.jsonl"),
    ("a cut-off json", "t.json", b'[{"text": "a"}', r"is not JSON .*cut off\?"),
    ("an object of json", "t.json", b'{"text": "a"}', "is a dict, expected an array of objects"),
    ("an array of no objects", "t.json", b'[{"text": "a", "label": "b"}, 3]', "item 2 is a int, expected an object"),
    ("lines without labels", "t.txt", b"I liked it\n", "has no column 'label'"),
    ("a line without a label", "t.txt", b"__label__a I liked it\nNot I\n", "line 2 has no label, and its first line"),
    ("a line with a label", "t.txt", b"Not I\n__label__a I did\n", r"line 2 has a label \('a'\), and its first line"),
    ("no ending", "t", b"text\n", "ends in 'nothing', expected"),
    ("no label", "t.csv", b"text,label\na,b\nc,\nd, \n", r"no label in row 2, 3 \(column 'label'\)"),
    ("one label", "t.csv", b"text,label\n" + b"".join(b"text %d,good\n" % i for i in range(50)),
     "only the label 'good'. Expected at least two"),
    ("a number of the row for a label", "t.csv",
     b"text,label\n" + b"".join(b"text %d,%d\n" % (i, i) for i in range(500)),
     r"column 'label' of .* has 500 different values in 500 rows: is it the label\? Choose with --label"),
]  # fmt: skip


def write(tmp_path: Path, name: str, content: bytes | Callable[[Path], bytes]) -> Path:
    file = tmp_path / name
    file.write_bytes(content(tmp_path) if callable(content) else content)
    return file


def learn_from(file: Path) -> None:
    splits = load_splits(str(file), DATA)
    Labels.of(splits.train.labels)


@pytest.mark.parametrize(
    ("name", "content", "words"), [row[1:] for row in BAD_FILES], ids=[row[0] for row in BAD_FILES]
)  # fmt: skip
def test_a_bad_file_is_refused(tmp_path: Path, name: str, content: bytes | Callable[[Path], bytes], words: str) -> None:
    file = write(tmp_path, name, content)
    with pytest.raises(DataError, match=words) as caught:
        learn_from(file)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value) or "label" in str(caught.value)


def test_a_parquet_file_without_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": pa.array([], "string")}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="no rows"):
        list(read_rows(tmp_path / "t.parquet"))


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("text\na\n")
    with pytest.raises(DataError, match=r"No file '.*review\.csv'\. Did you mean 'reviews\.csv'\?"):
        list(read_rows(tmp_path / "review.csv"))
    with pytest.raises(DataError, match="No file"):
        list(read_rows(tmp_path / "no" / "folder.csv"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv is a folder\. Expected a file"):
        list(read_rows(tmp_path / "folder.csv"))


def test_an_unknown_encoding(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\na\n")
    with pytest.raises(DataError, match=r"No encoding 'utf-9'\. Try utf-8"):
        list(read_rows(tmp_path / "t.csv", encoding="utf-9"))


def test_the_advice_of_a_message_helps(tmp_path: Path) -> None:
    file = write(tmp_path, "t.csv", "text;label\ncaf\u00e9;a\n".encode("cp1252"))
    assert list(read_rows(file, encoding="cp1252", delimiter=";")) == [{"text": "caf\u00e9", "label": "a"}]
    file = write(tmp_path, "t.csv", b"text\tlabel\na\tb\n")
    data = change(Settings(), {"delimiter": "\\t"}).data  # as --delimiter '\t' comes from a shell
    assert load_examples(str(file), data)["train"].labels == ["b"]


def test_unknown_labels_are_all_named() -> None:
    labels = Labels(("negative", "positive"))
    with pytest.raises(DataError) as caught:
        labels.encode(["positive", "postive", "neutral", "postive"], where="train.csv")
    said = str(caught.value)
    assert "nknown label 'postive' in text 2 of train.csv. Did you mean 'positive'?" in said
    assert "nknown label 'neutral' in text 3" in said
    assert "Known labels: 'negative', 'positive'." in said
    assert not re.search(r"[.?];", said)


def test_whole_numbers_with_a_point_are_the_labels_without() -> None:
    labels = Labels(("-1", "1", "1.5", "v2"))
    assert labels.encode(["1.0", "-1.0", "1"]).tolist() == [1, 0, 1]
    for name in ("1.50", "v2.0", "2.0"):
        with pytest.raises(DataError, match="Unknown label"):
            labels.encode([name])


def test_a_table_or_a_dict_is_no_list_of_texts(predictor: Predictor) -> None:
    """A data frame yields the names of its columns, and these were classified."""
    frame = pd.DataFrame({"review": ["good", "bad film"]})
    for door in (predictor.predict, predictor.probabilities, lambda texts: list(predictor.stream(texts))):
        assert len(door(frame)) == 2
        with pytest.raises(TypeError, match=r"a table with the columns 'review', 'stars'\. Give the one"):
            door(frame.assign(stars=1))
        with pytest.raises(TypeError, match=r"got a dict with the keys 'review'"):
            door({"review": ["good"]})
        with pytest.raises(TypeError, match="got one string"):
            door("good")
    assert predictor.predict(frame) == predictor.predict(["good", "bad film"])
    with pytest.raises(TypeError, match=r"Text 1 is a float, expected str; a missing text is ''"):
        predictor.predict(["a", float("nan")])


def test_splits_are_shown_short(splits: Splits) -> None:
    assert repr(splits).startswith("Splits(train=Examples(160 texts, source='made up (train)'), dev=")
    assert len(repr(splits)) < 300


def test_many_labels_for_a_model_of_one(predictor: Predictor) -> None:
    names = predictor.label_names
    with pytest.raises(DataError, match="one label a text"):
        predictor.evaluate(Examples(["a", "b"], [(names[0],), (names[1],)], "t.jsonl"))


def test_a_label_of_dev_that_train_has_not(quick: Settings, splits: Splits) -> None:
    dev = Examples([*splits.dev.texts, "so so"], [*splits.dev.labels, "neutral"], "dev.csv")
    with pytest.raises(DataError, match=r"[Uu]nknown label 'neutral' in text 41 of dev\.csv"):
        train(Splits(splits.train, dev), quick)


# Settings


def test_unknown_settings_are_all_named_with_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('epochs = 3\n[model]\ndept = 4\nencodr = "minilm"\n[trainig]\nseed = 1\n[data]\nzzz = 1\n')
    with pytest.raises(SettingsError) as caught:
        read_settings(file)
    said = str(caught.value)
    assert "unknown setting 'dept' in [model]. Did you mean 'depth'?" in said
    assert "unknown setting 'encodr' in [model]. Did you mean 'encoder'?" in said
    assert "'trainig'. Did you mean 'training'?" in said
    assert "'epochs'. It belongs under [training]." in said
    assert "unknown setting 'zzz' in [data]" in said
    assert str(file) in said
    with pytest.raises(SettingsError, match=r"Unknown setting 'batchsize'\. Did you mean 'batch_size'\?"):
        change(Settings(), {"batchsize": 3})


def test_a_settings_file_may_begin_with_a_mark(tmp_path: Path) -> None:
    """As Windows' editor writes it."""
    (tmp_path / "mine.toml").write_text("\ufeff[training]\nepochs = 7\n", "utf-8")
    assert read_settings(tmp_path / "mine.toml").training.epochs == 7


def test_wrong_values_are_all_named() -> None:
    values = {"dropout": 1.5, "kernel_sizes": "0,3", "epochs": 0, "dev_fraction": 0.9, "max_length": 2}
    with pytest.raises(SettingsError) as caught:
        change(Settings(), values)
    assert all(f"Setting {name!r}" in str(caught.value) for name in values)
    with pytest.raises(SettingsError) as caught:
        change(Settings(), {"method": "fine-tune", "num_filters": "many", "precision": "fp8"})
    assert all(f"Setting {name!r}" in str(caught.value) for name in ("method", "num_filters", "precision"))
    assert "'frozen'" in str(caught.value)
    with pytest.raises(SettingsError, match="more than 0"):
        change(Settings(), {"head_learning_rate": float("nan")})
    with pytest.raises(SettingsError, match="a finite number"):
        change(Settings(), {"encoder_learning_rate": float("inf")})


def test_wrong_types_and_values_out_of_range_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        change(Settings(), {"epochs": "x", "dropout": 2, "max_train_pieces": 4, "depth": "some", "budget_ms": 5})
    said = str(caught.value).splitlines()
    assert [line.split("'")[1] for line in said] == ["depth", "epochs", "dropout", "max_train_pieces"]


def test_a_name_too_long_for_a_path_is_a_name() -> None:
    name = "no-such-thing-" * 30
    with pytest.raises(EncoderError, match="Cannot load the encoder"):
        bertcnn.embed(["good"], encoder=name)
    with pytest.raises(ModelError, match="No model folder"):
        BertCNN.from_pretrained(name)
    with pytest.raises(ModelError, match="No model folder"):
        Predictor.load(name)
    assert find_source(name) == name


def test_a_device_that_is_none(tiny: str) -> None:
    with pytest.raises(ModelError, match="cannot run on the device 'gpu'"):
        bertcnn.embed(["good"], encoder=tiny, device="gpu")


@pytest.mark.parametrize("content", [b"[data\n", b"text = ", b"\xff\xfe"])
def test_a_settings_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(SettingsError, match="is not TOML"):
        read_settings(tmp_path / "mine.toml")
    with pytest.raises(SettingsError, match="Cannot read the settings file"):
        read_settings(tmp_path / "none.toml")


@pytest.mark.parametrize(("depth", "states"), [("9", "last"), ("0", "last"), ("2", "first"), ("2", "concat-7")])
def test_settings_that_do_not_fit_the_encoder(tiny: str, depth: str, states: str) -> None:
    model = change(Settings(), {"depth": depth, "states": states}).model
    with pytest.raises(SettingsError, match=r"depth is|states is"):
        BertCNN.from_encoder(tiny, depth=model.depth, states=model.states)


# Model folders and encoders


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit_config(copy: Path, **values: Any) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **values}))


def test_a_model_folder_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"No model folder '.*none'. Expected what 'bertcnn train --output' wrote"):
        Predictor.load(tmp_path / "none")
    with pytest.raises(ModelError, match=r"config\.json"):
        Predictor.load(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(ModelError, match=r"No model folder 'models/none'"):  # looks like a name of the hub
        Predictor.load("models/none")


def test_truncated_weights(copy: Path) -> None:
    content = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="truncated or was changed"):
        Predictor.load(copy)
    with (
        pytest.warns(UserWarning, match="truncated or was changed"),
        pytest.raises(ModelError, match="cannot be read"),
    ):
        BertCNN.from_pretrained(copy)


def test_weights_of_another_hash(copy: Path) -> None:
    content = bytearray((copy / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (copy / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors has sha256 \w+\.\.\., expected"):
        Predictor.load(copy)
    with pytest.warns(UserWarning, match="expected"):  # Hugging Face's way, where weights may be exchanged
        BertCNN.from_pretrained(copy)


def test_missing_weights(copy: Path) -> None:
    (copy / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        Predictor.load(copy)


def test_a_folder_of_another_type(tiny: str) -> None:
    with pytest.raises(ModelError, match=r"a model of type 'bert', expected 'bertcnn'.*from_encoder"):
        Predictor.load(tiny)


@pytest.mark.parametrize("version", [2, 99])
def test_a_newer_format(copy: Path, version: int) -> None:
    edit_config(copy, format_version=version)
    with pytest.raises(ModelError, match=rf"of format {version}, this bertcnn reads up to 1\. Upgrade"):
        Predictor.load(copy)


@pytest.mark.parametrize("content", [b"", b'{"model_type": "ber', b"[]", NOISE])
def test_a_broken_config(copy: Path, content: bytes) -> None:
    (copy / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match="no readable config"):
        Predictor.load(copy)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", NOISE])
def test_a_broken_tokenizer(copy: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content)
    if name == "tokenizer_config.json" and content == b"{}":  # all of it is optional
        assert Predictor.load(copy).predict(["good"])
        return
    with pytest.raises(ModelError, match="Cannot read the tokenizer"):
        Predictor.load(copy)


@pytest.mark.parametrize("name", ["no-such-bert", "nobody/no-such-bert", "/no/such/folder", ""])
def test_an_encoder_that_does_not_exist(name: str) -> None:
    for load in (load_encoder, load_tokenizer):
        with pytest.raises(EncoderError, match=f"Cannot load the encoder '{re.escape(name)}'"):
            load(name)


def test_an_encoder_without_its_tokenizer_or_weights(tiny: str, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(tiny, tmp_path / "bare"))
    for file in bare.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(EncoderError, match="bare"):
        load_tokenizer(str(bare))
    whole = (bare / WEIGHTS).read_bytes()
    (bare / WEIGHTS).write_bytes(whole[: len(whole) // 2])  # a download that was cut off
    with pytest.raises(EncoderError, match="bare"):
        load_encoder(str(bare))
    (bare / WEIGHTS).unlink()
    with pytest.raises(EncoderError, match="bare"):
        load_encoder(str(bare))


# A disk that fills up


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_full_disk_leaves_the_old_table(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"t.{ending}"
    write_rows(file, [{"text": "old"}])
    rows = [{"text": f"{i} {i * 7919 % 10007}"} for i in range(20_000)]
    with full_disk(2000), pytest.raises(DataError, match=r"Cannot write .* Nothing was left half-written"):
        write_rows(file, rows)
    assert list(tmp_path.iterdir()) == [file]
    assert list(read_rows(file)) == [{"text": "old"}]


@pytest.mark.parametrize("after", [10, 20_000])
def test_a_full_disk_while_a_model_is_saved(folder: Path, tmp_path: Path, after: int, trained: Any) -> None:
    place = tmp_path / "m"
    with full_disk(after), pytest.raises(TrainingError, match=r"Cannot write .* Nothing was left half-written"):
        save(trained, place)
    assert list(tmp_path.iterdir()) == []
    save(trained, place)
    before = Predictor.load(place).logits(["good"])
    with full_disk(after), pytest.raises(TrainingError, match="Cannot write"):
        save(trained, place, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert (Predictor.load(place).logits(["good"]) == before).all()


def test_save_replaces_models_only_and_blames_the_disk_only_where_it_is_full(tmp_path: Path, trained: Any) -> None:
    place = tmp_path / "m"
    place.mkdir()
    (place / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(TrainingError, match=r"no bertcnn model \(it holds 'config\.json'\)"):
        save(trained, place, overwrite=True)
    assert [p.name for p in tmp_path.rglob("*")] == ["m", "config.json"]
    (tmp_path / "file").write_text("dear")
    with pytest.raises(TrainingError, match="is a file"):
        save(trained, tmp_path / "file", overwrite=True)
    with pytest.raises(TrainingError, match=r"half-written\. Give another") as caught:
        save(trained, tmp_path / "file" / "m")
    assert "space" not in str(caught.value)
    with full_disk(10), pytest.raises(TrainingError, match="Free some space"):
        save(trained, tmp_path / "new")


def test_save_says_what_it_takes(tmp_path: Path, trained: Any) -> None:
    with pytest.raises(TypeError, match=r"got BertCNNClassifier, which is not fitted yet"):
        save(BertCNNClassifier(), tmp_path / "m")
    with pytest.raises(TypeError, match=r"got Predictor\."):
        save(trained.predictor, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def trained(quick: Settings, splits: Splits) -> Any:
    return train(splits, change(quick, {"method": "frozen", "head_epochs": 1}))


@pytest.mark.parametrize("method", ["frozen", "finetune"])
def test_a_full_disk_while_training(quick: Settings, splits: Splits, tmp_path: Path, method: str) -> None:
    settings = change(quick, {"method": method, "epochs": 1, "head_epochs": 1, "cache": str(tmp_path / "cache")})
    with full_disk(20_000), pytest.raises(TrainingError, match="Free some space"):
        train(splits, settings, checkpoints=tmp_path / "checkpoints")
    assert not list((tmp_path / "cache").glob("*")) if (tmp_path / "cache").exists() else method == "finetune"


def test_a_full_disk_on_the_command_line(tiny: str, csv_file: Path, tmp_path: Path) -> None:
    columns = ["--text", "review", "--label", "sentiment"]
    with full_disk(20_000):
        done = call(
            "train", csv_file, *columns, "--output", tmp_path / "m", *small(tiny), "--cache", tmp_path / "cache"
        )
    assert done.code == 2
    assert "MB of encoder states" in done.err.splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]
    assert list((tmp_path / "cache").iterdir()) == []


# The command line: one line, code 2, nothing left


def refused(outcome: Any, words: str) -> None:
    assert outcome.code == 2
    assert outcome.out == ""
    (line,) = [line for line in outcome.err.splitlines() if line]
    assert line.startswith("Error: ")
    assert re.search(words, line), line


def test_a_bad_row_at_the_end_is_told_before_anything_is_computed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = write(tmp_path, "bad.csv", b"text,id\n" + b"good,1\n" * 50 + b"so, so,2\n")
    monkeypatch.setattr("bertcnn.apps.cli.load_predictor", lambda *_: pytest.fail("loaded"))
    refused(call("predict", folder, bad, "--output", tmp_path / "out.csv"), r"row 51 \(line 52\) has 3")


def test_subprocesses_refuse_in_one_line(folder: Path, tmp_path: Path) -> None:
    bad = write(tmp_path, "bad.csv", b"text,label\ncaf\xe9,a\n")
    refused(real("train", bad, "--output", tmp_path / "m"), "not utf-8")
    refused(real("predict", tmp_path / "none", bad, "--output", tmp_path / "out.csv"), "No model folder")
    assert list(tmp_path.iterdir()) == [bad]


def test_an_encoder_that_does_not_exist_on_the_command_line(csv_file: Path, tmp_path: Path) -> None:
    arguments = ["--text", "review", "--label", "sentiment", "--output", tmp_path / "m"]
    done = call("train", csv_file, *arguments, "--encoder", "nobody/no-such-bert")
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("Error: Cannot load the encoder 'nobody/no-such-bert'")
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []
    refused(call("embed", csv_file, "--text", "review", "--output", tmp_path / "e", "--encoder", "no-such"), "no-such")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"text\n", "no rows"), (b"review\na\n", "no column 'text'"), (b"text\n\xff\n", "0xff"),
     (b"text,n\n" + b"a,1\n" * 5000 + b"b\n", r"row 5001 \(line 5002\)"), (b'text\n"a\n', "never closed")],
)  # fmt: skip
def test_predict_and_embed_refuse_bad_files(
    folder: Path, tiny: str, tmp_path: Path, content: bytes, words: str
) -> None:
    bad = write(tmp_path, "bad.csv", content)
    refused(call("predict", folder, bad, "--output", tmp_path / "out.csv"), words)
    refused(call("embed", bad, "--encoder", tiny, "--output", tmp_path / "states"), words)
    assert list(tmp_path.iterdir()) == [bad]


@pytest.mark.parametrize("device", ["cuda", "gpuuu"])
def test_a_device_that_is_not_there(folder: Path, tmp_path: Path, device: str) -> None:
    file = write(tmp_path, "new.csv", b"text\ngood\n")
    refused(call("predict", folder, file, "--device", device), f"cannot run on the device '{device}'.*sees no GPU")


def test_evaluate_refuses(folder: Path, tmp_path: Path) -> None:
    bad = write(tmp_path, "bad.csv", b"text,label\ngood,postive\n")
    refused(call("evaluate", folder, bad, "--json"), r"nknown label 'postive' in text 1 .*Did you mean 'positive'\?")
    refused(call("evaluate", folder, bad, "--delimiter", "ab"), "one character")
    refused(call("predict", folder, bad, "--delimiter", "ab"), "one character")
    refused(call("predict", folder, bad, "--output", tmp_path / "out.xls"), "ends in '.xls'")


def test_bytes_of_stdin_that_are_not_utf_8(folder: Path) -> None:
    done = call("predict", folder, stdin=b"good\ncaf\xe9\n")
    assert done.code == 2
    assert "Line 2 of stdin is not utf-8" in done.err
    assert call("predict", folder, "--encoding", "latin-1", stdin=b"good\ncaf\xe9\n").code == 0
    for codec in ("base64", "undefined"):
        assert "is not " + codec in call("predict", folder, "--encoding", codec, stdin=b"good\n").err
    done = call("predict", folder, "--encoding", "utf-16", "--json", stdin="good\r\ncaf\xe9\n".encode("utf-16"))
    assert [json.loads(line)["text"] for line in done.out.splitlines()] == ["good", "caf\xe9"]
    done = call("predict", folder, "--encoding", "utf-16-le", "--json", stdin="\ufeffgood\n".encode("utf-16-le"))
    assert json.loads(done.out)["text"] == "good"
    assert "stdin is not utf-16" in call("predict", folder, "--encoding", "utf-16", stdin=b"abc").err


@pytest.mark.parametrize("command", ["predict", "insights"])
def test_a_closed_stdin(folder: Path, command: str) -> None:
    closing = ["sh", "-c", 'exec "$0" -m bertcnn "$@" <&-', sys.executable]
    done = real(command, folder, "-", command=closing)
    assert done.code == 2
    assert "it is closed" in done.err
    assert "Traceback" not in done.err


def test_unknown_settings_on_the_command_line(csv_file: Path, tmp_path: Path) -> None:
    done = call("train", csv_file, "--output", tmp_path / "m", "--dept", 4)
    assert done.code == 2
    assert "--dept" in done.err
    assert "--depth" in done.err
    (tmp_path / "mine.toml").write_text("[model]\ndept = 4\n[training]\nepoch = 1\n")
    done = call("train", csv_file, "--output", tmp_path / "m", "--config", tmp_path / "mine.toml")
    refused(done, r"'dept' in \[model\]\. Did you mean 'depth'\?.*'epoch' in \[training\]\. Did you mean 'epochs'\?")
    refused(call("train", csv_file, "--output", tmp_path / "m", "--dropout", 2), "'dropout' is 2.0, expected 0 to")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.toml"]


def test_all_our_errors_are_of_one_tree() -> None:
    kinds = {DataError, EncoderError, ModelError, SettingsError, StudyError, TrainingError}
    assert set(BertCNNError.__subclasses__()) == kinds


# Answered


HARD = ["", " ", "\t\n", "\ud800", "good \udfff film", "\U0001f600\U0001f1e9\U0001f1ea", "\u0633\u0644\u0627\u0645",
        "\u05e9\u05dc\u05d5\u05dd good", "\u200f\u202egood", "a\u0301\u0327",
        "\0", "\ufeffgood", "good " * 300]  # fmt: skip


def test_hard_texts_are_answered(folder: Path) -> None:
    predictor = Predictor.load(folder)
    for text, prediction in zip(HARD, predictor.predict(HARD), strict=True):
        assert prediction == predictor.predict([text])[0] or prediction.label == predictor.predict([text])[0].label
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert predictor.predict(["good \ud800"])[0].probabilities == pytest.approx(
        predictor.predict(["good \ufffd"])[0].probabilities
    )


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_hard_texts_from_file_to_file(folder: Path, tmp_path: Path, ending: str) -> None:
    source = tmp_path / "hard.jsonl"
    source.write_text("".join(json.dumps({"text": text, "\udc00": "x"}) + "\n" for text in HARD))
    done = call("predict", folder, source, "--output", tmp_path / f"out.{ending}")
    assert done.code == 0, done.err
    assert "3 of them empty" in done.err
    rows = list(read_rows(tmp_path / f"out.{ending}"))
    lost = {"csv": "[\ud800-\udfff\0]", "tsv": "[\ud800-\udfff\0]", "parquet": "[\ud800-\udfff]", "jsonl": "(?!)"}
    assert [row["text"] for row in rows] == [re.sub(lost[ending], "\ufffd", text) for text in HARD]
    assert [row["prediction"] for row in rows] == [p.label for p in Predictor.load(folder).predict(HARD)]


@pytest.mark.parametrize("flag", ["--json", "--table", None])
def test_hard_texts_on_stdout(folder: Path, tmp_path: Path, flag: str | None) -> None:
    source = tmp_path / "hard.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in HARD))
    done = call("predict", folder, source, *([flag] if flag else []))
    assert done.code == 0, done.err
    if flag == "--json":
        assert [json.loads(line)["text"] for line in done.out.split("\n")[:-1]] == HARD


def test_hard_texts_are_learned_and_counted(tiny: str, csv_file: Path, tmp_path: Path) -> None:
    rows = [{"text": row["review"], "label": row["sentiment"]} for row in read_rows(csv_file)]
    rows += [{"text": text, "label": label} for text in HARD for label in ("negative", "positive")]
    rows += [{"text": rows[0]["text"].upper(), "label": rows[0]["label"]}] * 3
    rows += [{"text": f"shouted {i}", "label": "Positive"} for i in range(2)]
    source = tmp_path / "t.jsonl"
    source.write_text("\ufeff" + "".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    done = call(
        "train", source, "--output", tmp_path / "m", *small(tiny), "--head-epochs", 1, "--dev", "hf:none",
        "--test-fraction", 0, "--max-train-pieces", 40,
    )  # fmt: skip
    assert done.code == 2  # the dev set does not exist, and says so before anything is trained
    write_rows(tmp_path / "dev.jsonl", rows[:20])
    done = call(
        "train", source, "--output", tmp_path / "m", *small(tiny), "--head-epochs", 1,
        "--dev", tmp_path / "dev.jsonl", "--test-fraction", 0, "--max-train-pieces", 40,
    )  # fmt: skip
    assert done.code == 0, done.err
    said = " ".join(done.err.split())
    assert "6 empty texts" in said
    assert "texts with contradicting labels" in said
    duplicates = len(rows) - len({" ".join(row["text"].casefold().split()) for row in rows})
    assert f"{duplicates} duplicate texts" in said
    assert "labels that look alike: 'positive' and 'Positive'." in said
    assert "2 long texts were cut to 40 pieces in training" in said
    assert "look like lists" not in said


def test_what_is_no_page_is_not_written_over(folder: Path, csv_file: Path, tmp_path: Path) -> None:
    mine = tmp_path / "texts.csv"
    mine.write_text("text\nmine\n", "utf-8")
    done = call("explain", folder, csv_file, "--html", mine)
    refused(done, "is there already, and no page. Give a name that ends in .html.")
    refused(call("insights", folder, csv_file, "--output", tmp_path), "is there already, and no table of ours")
    assert mine.read_text("utf-8") == "text\nmine\n"


def test_columns_of_training_that_are_missing_are_named(tiny: str, csv_file: Path, tmp_path: Path) -> None:
    columns = ["--text", "review", "--label", "sentiment"]
    done = call("train", csv_file, "--output", tmp_path / "m", *columns, *small(tiny), "--head-epochs", 1)
    assert done.code == 0, done.err
    (tmp_path / "new.csv").write_text("txt,other\na,b\n", "utf-8")
    refused(call("predict", tmp_path / "m", tmp_path / "new.csv"), "has no column 'review'")
    (tmp_path / "new.csv").write_text("review,other\na,b\n", "utf-8")
    refused(call("evaluate", tmp_path / "m", tmp_path / "new.csv"), "has no column 'sentiment'")
    (tmp_path / "new.csv").write_text("text,label\na,positive\n", "utf-8")
    assert call("evaluate", tmp_path / "m", tmp_path / "new.csv").code == 0
    refused(call("predict", tmp_path, tmp_path / "new.csv"), f"Did you mean {str(tmp_path / 'm')!r}?")


def test_labels_that_look_like_lists_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    train = Examples(["a", "b", "c", "d"], ["food|service", "food", "service", "food"], "made up")
    show.say_findings(show.err, Splits(train, train.pick([1, 2], "dev")))
    said = " ".join(capsys.readouterr().err.split())
    assert "labels look like lists of labels, such as 'food|service'" in said
    assert "give --separator '|'" in said


def read_to_the_end(folder: Path, characters: int) -> None:
    predictor = Predictor.load(folder)
    text = "the film was " * (characters // 13)
    good, bad = predictor.logits([text + "good superb", text + "awful dull"])  # negative, positive
    assert good[1] - good[0] > bad[1] - bad[0] + 0.1  # the last two words of all were read


def test_a_text_of_200_000_characters(folder: Path) -> None:
    read_to_the_end(folder, 200_000)


@pytest.mark.slow
def test_a_text_of_ten_million_characters(folder: Path, tmp_path: Path) -> None:
    text = "the film was " * 770_000 + "good"
    assert len(text) > 10_000_000
    write_rows(tmp_path / "t.csv", [{"text": text}, {"text": "good"}])
    done = call("predict", folder, tmp_path / "t.csv", "--output", tmp_path / "out.csv")
    assert done.code == 0, done.err
    rows = list(read_rows(tmp_path / "out.csv"))
    assert rows[0]["text"] == text
    assert rows[0]["prediction"] in {"negative", "positive"}
