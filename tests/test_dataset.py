import gc
import gzip
import io
import json
import math
import re
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertcnn.errors import DataError
from bertcnn.settings import DataSettings
from bertcnn.study.division import read_task
from bertcnn.study.plan import Task
from bertcnn.text.cells import is_missing
from bertcnn.text.columns import as_text, cell_of
from bertcnn.text.dataset import (
    Examples,
    Splits,
    find_leaks,
    load_examples,
    load_splits,
    look_at,
    normal_form,
    stratified_rows,
)
from bertcnn.text.labels import Labels, as_list
from bertcnn.text.lines import read_lines
from bertcnn.text.read_table import ending_of, read_rows
from bertcnn.text.write_table import write_rows

COLUMNS = DataSettings(text="review", label="sentiment")
ROWS = [
    {"id": "1", "review": 'It said "fine", and was', "sentiment": "good"},
    {"id": "2", "review": "two\nlines", "sentiment": "bad"},
    {"id": "3", "review": "caf\u00e9 \U0001f600 \u05e9\u05dc\u05d5\u05dd", "sentiment": "good"},
]
ENDINGS = ["csv", "tsv", "jsonl", "parquet"]
reusing = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def examples_of(texts: list[str], labels: list[Any]) -> Examples:
    return Examples(texts, labels, "made up")


# Reading and writing


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_gives_the_same_examples(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"reviews.{ending}"
    assert write_rows(file, ROWS) == 3
    assert list(read_rows(file)) == ROWS
    (found,) = load_examples(str(file), COLUMNS).values()
    assert found.texts == [row["review"] for row in ROWS]
    assert found.labels == ["good", "bad", "good"]
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


a_cell = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
tables = st.lists(st.fixed_dictionaries({"text": a_cell, "a label": a_cell, "x,y": a_cell}), min_size=1, max_size=8)


@pytest.mark.parametrize("ending", ENDINGS)
@reusing
@given(rows=tables)
def test_what_is_written_is_read_again(tmp_path: Path, ending: str, rows: list[dict[str, str]]) -> None:
    file = tmp_path / f"table.{ending}"
    assert write_rows(file, rows) == len(rows)
    assert list(read_rows(file)) == rows


@reusing
@given(rows=st.lists(st.fixed_dictionaries({"text": a_cell}), min_size=1, max_size=8))
def test_a_table_of_one_column_keeps_its_empty_texts(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    file = tmp_path / "table.csv"
    write_rows(file, rows)
    assert list(read_rows(file)) == rows


@reusing
@given(text=st.text(max_size=20), lists=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5)))
def test_jsonl_keeps_every_text_and_list(tmp_path: Path, text: str, lists: list[str]) -> None:
    file = tmp_path / "table.jsonl"
    rows = [{"text": text, "label": lists, "n": 1.5, "none": None}]
    write_rows(file, rows)
    assert list(read_rows(file)) == rows


def test_json_and_lines_are_read(tmp_path: Path) -> None:
    rows = [{"text": "two\nlines", "label": ["a", "b"]}, {"text": "é", "label": []}]
    (tmp_path / "t.json").write_text("\ufeff" + json.dumps(rows, indent=1), "utf-8")
    assert list(read_rows(tmp_path / "t.json")) == rows
    (tmp_path / "plain.txt").write_bytes('\ufeffone, "text"\r\n\nthe label __label__a\n'.encode())
    assert [row["text"] for row in read_rows(tmp_path / "plain.txt")] == ['one, "text"', "", "the label __label__a"]
    (tmp_path / "fast.txt").write_text("__label__a __label__b I liked it\n__label__b\n", "utf-8")
    columns = DataSettings(separator="|")
    found = load_examples(str(tmp_path / "fast.txt"), columns)["train"]
    assert found.texts == ["I liked it", ""]
    assert found.labels == [("a", "b"), ("b",)]


@pytest.mark.parametrize(
    "line", ["__label__a\tso so", "__label__a   so so", "  __label__a so so", "__label__a so so  "]
)
def test_a_label_before_a_text_ends_at_any_space(tmp_path: Path, line: str) -> None:
    (tmp_path / "t.txt").write_text(f"{line}\n__label__a  __label__b\tnot  so\n", "utf-8")
    first, second = read_rows(tmp_path / "t.txt")
    assert (first["label"], first["text"].rstrip()) == ("a", "so so")
    assert second == {"label": "a|b", "text": "not  so"}


def test_bytes_are_texts(tmp_path: Path) -> None:
    """As pandas and Spark write them to parquet."""
    rows = [{"text": f"né {i}".encode(), "label": label} for i, label in enumerate([b"yes", b"no"] * 5)]
    write_rows(tmp_path / "t.parquet", rows)
    found = load_examples(str(tmp_path / "t.parquet"), DataSettings())["train"]
    assert found.texts == [f"né {i}" for i in range(10)]
    assert set(found.labels) == {"yes", "no"}
    write_rows(tmp_path / "t.parquet", [{"text": b"\xff\xfe", "label": "a"}])
    with pytest.raises(DataError, match=r"row 1: A text is of bytes that are no UTF-8, b'\\xff"):
        load_examples(str(tmp_path / "t.parquet"), DataSettings())


def test_labels_of_bytes_are_divided_too(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.parquet", [{"text": b"so", "label": b"a|b"}, {"text": b"not so", "label": b""}])
    assert load_examples(str(tmp_path / "t.parquet"), DataSettings(separator="|"))["train"].labels == [("a", "b"), ()]


def test_without_a_share_for_dev_there_must_be_a_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.csv", [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(20)])
    with pytest.raises(DataError, match="dev_fraction is 0 and there is no dev file"):
        load_splits(str(tmp_path / "t.csv"), DataSettings(dev_fraction=0.0))


def test_parquet_keeps_kinds(tmp_path: Path) -> None:
    rows = [{"text": "a", "n": 1, "x": 0.5, "labels": ["p", "q"]}, {"text": None, "n": 2, "x": None, "labels": []}]
    write_rows(tmp_path / "t.parquet", rows)
    assert list(read_rows(tmp_path / "t.parquet")) == rows


def test_many_chunks_keep_their_order(tmp_path: Path) -> None:
    rows = [{"text": str(i)} for i in range(10_000)]
    for ending in ENDINGS:
        assert write_rows(tmp_path / f"t.{ending}", iter(rows)) == 10_000
        assert list(read_rows(tmp_path / f"t.{ending}")) == rows


def test_parquet_after_parquet_keeps_types(tmp_path: Path) -> None:
    many = 5000  # more than are looked at first
    source, output = tmp_path / "source.parquet", tmp_path / "out.parquet"
    table = pa.table(
        {
            "late": pa.array([*[None] * (many - 1), "here"], pa.string()),
            "none": pa.array([None] * many, pa.string()),
            "price": pa.array([Decimal("1.10")] * (many - 1) + [Decimal("123456.45")], pa.decimal128(10, 2)),
            "tags": pa.array([[("a", 1)]] * many, pa.map_(pa.string(), pa.int64())),
            "small": pa.array([7] * many, pa.int32()),
            "half": pa.array([0.5] * many, pa.float32()),
            "kind": pa.array(["x", "y"] * (many // 2)).dictionary_encode(),
            "at": pa.array([1_700_000_000_123_456_789] * many, pa.timestamp("ns")),
            "raw": pa.array([b"\xff\x00"] * many, pa.binary()),
        }
    )
    pq.write_table(table, source)
    answers = ({**row, "prediction": "good", "confidence": 0.5} for row in read_rows(source))
    assert write_rows(output, answers, like=source) == many
    found = pq.read_table(output)
    assert found.select(table.column_names).equals(table)
    assert found.schema.field("prediction").type == pa.string()


@pytest.mark.parametrize(("first", "last"), [(1, 1.5), ("a", 1), (1, "2"), (2**53 + 1, 0.5), ({"a": 1}, [1])], ids=str)
def test_nothing_is_lost_in_parquet_far_down(tmp_path: Path, first: Any, last: Any) -> None:
    with pytest.raises(DataError, match=r"Column 'n' .*different kinds.*\.jsonl"):
        write_rows(tmp_path / "t.parquet", [*[{"n": first}] * 5000, {"n": last}])
    assert not list(tmp_path.iterdir())


def test_whole_numbers_and_gaps_fit_far_down(tmp_path: Path) -> None:
    rows = [*[{"n": 0.5, "gap": None}] * 5000, {"n": 2, "gap": "text"}, {"n": None, "gap": None}]
    write_rows(tmp_path / "t.parquet", rows)
    assert list(read_rows(tmp_path / "t.parquet")) == rows


@pytest.mark.parametrize("value", [None, math.nan, np.float32("nan"), pd.NA, pd.NaT], ids=str)
def test_what_is_missing(value: Any) -> None:
    assert is_missing(value)
    assert as_text(value) == ""
    assert not any(map(is_missing, ["", "nan", 0, 10**400, False, [], {}]))


def test_nested_values_in_text_files(tmp_path: Path) -> None:
    row = {"raw": b"caf\xc3\xa9", "odd": b"\xff", "dict": {"a": [1, None]}, "list": ["a|b", "c"], "tags": ["a", "b"]}
    write_rows(tmp_path / "t.csv", [row])
    assert list(read_rows(tmp_path / "t.csv")) == [
        {"raw": "caf\u00e9", "odd": "/w==", "dict": '{"a": [1, null]}', "list": '["a|b", "c"]', "tags": "a|b"}
    ]
    write_rows(tmp_path / "t.jsonl", [{**row, "n": math.nan, "deep": [{"x": -math.inf}]}])
    (line,) = (tmp_path / "t.jsonl").read_text("utf-8").splitlines()
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found == {**row, "raw": "caf\u00e9", "odd": "/w==", "n": None, "deep": [{"x": None}]}


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_rows_with_other_columns_are_refused_where_they_would_be_lost(tmp_path: Path, ending: str) -> None:
    rows = [{"text": "a"}, {"text": "b", "note": "c"}]
    with pytest.raises(DataError, match=r"Row 2 has a column 'note'.*\.jsonl"):
        write_rows(tmp_path / f"t.{ending}", rows)
    assert not list(tmp_path.iterdir())
    write_rows(tmp_path / "t.jsonl", rows)
    assert list(read_rows(tmp_path / "t.jsonl")) == rows


def test_a_column_of_two_kinds_is_no_parquet_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="different kinds"):
        write_rows(tmp_path / "t.parquet", [{"text": "a", "n": 1}, {"text": "b", "n": "one"}])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["one", {}, 2**70])
def test_what_parquet_cannot_hold_far_down_is_refused_too(tmp_path: Path, value: Any) -> None:
    rows = [{"text": "a", "n": 1}] * 5000
    with pytest.raises(DataError, match=r"that parquet cannot.*\.jsonl"):
        write_rows(tmp_path / "t.parquet", [*rows, {"text": "b", "n": value}])
    with pytest.raises(DataError, match="parquet cannot"):
        write_rows(tmp_path / "t.parquet", [{"n": 2**70}])
    gc.collect()  # what a writer left behind would now complain of
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "latin-1"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_encodings(tmp_path: Path, encoding: str, ending: str) -> None:
    file = tmp_path / f"t.{ending}"
    write_rows(file, [{"text": "caf\u00e9", "label": "\u00fc"}])
    file.write_bytes(file.read_text("utf-8").encode(encoding))
    assert list(read_rows(file, encoding=encoding)) == [{"text": "caf\u00e9", "label": "\u00fc"}]


@pytest.mark.parametrize(("encoding", "mark"), [("utf-8", b"\xef\xbb\xbf"), ("UTF_8", b"\xef\xbb\xbf")])
@pytest.mark.parametrize("content", ["text,label\ngood,1\n", '{"text": "good", "label": "1"}\n'])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, encoding: str, mark: bytes, content: str) -> None:
    file = tmp_path / ("t.jsonl" if content.startswith("{") else "t.csv")
    file.write_bytes(mark + content.encode())
    assert list(read_rows(file, encoding=encoding)) == [{"text": "good", "label": "1"}]


def test_a_byte_order_mark_of_utf_16(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe" + "text\ngood\n".encode("utf-16-le"))
    assert list(read_rows(tmp_path / "t.csv", encoding="utf-16-le")) == [{"text": "good"}]


@pytest.mark.parametrize(("delimiter", "given"), [(";", ";"), ("|", "|"), ("\t", "\t"), ("\t", "\\t")])
def test_delimiters(tmp_path: Path, delimiter: str, given: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(f"text{delimiter}label\nso, so{delimiter}bad\n")
    assert list(read_rows(file, delimiter=given)) == [{"text": "so, so", "label": "bad"}]


def test_what_spreadsheets_leave_behind_is_no_column(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("text,label,,\na,b,,\nc,d\n,e,,\n")
    assert list(read_rows(file)) == [
        {"text": "a", "label": "b"},
        {"text": "c", "label": "d"},
        {"text": "", "label": "e"},
    ]
    file.write_text(",text\n0,a\n")  # the index of a data frame
    assert list(read_rows(file)) == [{"": "0", "text": "a"}]


@pytest.mark.parametrize("name", ["t.csv.gz", "t.jsonl.gz", "t.tsv.GZ", "t.ndjson", "t.txt.gz", "t.json.gz", "t.pq"])
def test_endings_that_mean_the_same(tmp_path: Path, name: str) -> None:
    rows = [{"text": "a good one"}, {"text": "caf\u00e9"}]
    kind = ending_of(name)
    plain = tmp_path / f"plain{kind}"
    if kind == ".txt":
        plain.write_text("".join(f"{row['text']}\n" for row in rows), "utf-8")
    elif kind == ".json":
        plain.write_text(json.dumps(rows), "utf-8")
    else:
        write_rows(plain, rows)
    content = plain.read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
    assert list(read_rows(tmp_path / name)) == rows


def test_quotes_of_a_tsv_that_close_nothing_are_signs(tmp_path: Path) -> None:
    file = tmp_path / "t.tsv"
    file.write_text('text\tlabel\n"I liked it\tgood\nNot "I"\tbad\n"Hm" she said\tbad\n')
    assert [row["text"] for row in read_rows(file)] == ['"I liked it', 'Not "I"', '"Hm" she said']
    file.write_text('text\tlabel\n"He said ""no"""\tgood\n"5 screen\tbad\n')
    with pytest.raises(DataError, match="a quote that is never closed"):
        list(read_rows(file))
    file.write_text('text\tlabel\n"two\nlines"\tgood\n')
    assert [row["text"] for row in read_rows(file)] == ["two\nlines"]


def test_several_columns_and_paths_are_texts(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    rows = [{"review": {"title": f"Title {i}", "body": "It is."}, "meta": {"stars": i % 2}} for i in range(4)]
    write_rows(file, [*rows, {"review": {"body": "No title"}, "meta": {"stars": 1}}])
    settings = DataSettings(text="review.title, review.body", label="meta.stars")
    found = load_examples(str(file), settings)["train"]
    assert found.texts == [*(f"Title {i}\nIt is." for i in range(4)), "No title"]
    assert found.labels == ["0", "1", "0", "1", "1"]
    with pytest.raises(DataError, match=r"no column 'review.name'. Its columns: 'review', 'meta'"):
        load_examples(str(file), replace(settings, text="review.title,review.name"))
    with pytest.raises(DataError, match=r"row 1: The column 'review' holds .* 0 or 1; a single one"):
        load_examples(str(file), replace(settings, label="meta.stars,review"))
    assert cell_of({"a.b": {"c": "text"}}, "a.b.c") == "text"
    with pytest.raises(DataError, match="A text is a dict"):
        load_examples(str(file), replace(settings, text="review"))


class Slow:
    """A pipe from which what one write put in comes by itself."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)

    def read1(self, _: int) -> bytes:
        return self.parts.pop(0) if self.parts else b""


def test_lines_are_had_as_they_come() -> None:
    pipe: Any = Slow(b"one\ntwo\nthr", b"ee\r\n", b"\xc3", b"\xa9\n\n", b"la", b"st")
    found = read_lines(pipe, "stdin")
    assert next(found) == ["one", "two"]
    assert len(pipe.parts) == 5  # the rest is not waited for
    assert list(found) == [["three"], ["\u00e9", ""], ["last"]]
    assert list(read_lines(io.BytesIO("a\nb".encode("utf-16")), "stdin", encoding="utf-16")) == [["a", "b"]]
    assert list(read_lines(io.BytesIO(b""), "stdin")) == []


def test_tables_of_other_libraries_are_read(datasets: Any, tmp_path: Path) -> None:
    columns = {"review": [f"text {i}" for i in range(40)], "stars": [float(i % 2) for i in range(40)]}
    frame = pd.DataFrame(columns)
    rows = frame.to_dict("records")
    settings = DataSettings(text="review", label="stars")
    table = datasets.Dataset.from_dict(columns)
    whole = load_splits(frame, settings)
    for source in (table, rows, table.data.table, {"train": frame}, datasets.DatasetDict(train=table)):
        assert load_splits(source, settings) == replace_source(whole, load_splits(source, settings))
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert load_splits(tmp_path / "t.csv", settings).train.texts == whole.train.texts
    assert set(whole.train.labels) == {"0", "1"}
    with pytest.raises(DataError, match=r"the DataFrame has no column 'text'. Its columns: 'review', 'stars'"):
        load_splits(frame)
    named = frame.assign(features=1, columns=2, to_dicts=3)
    assert load_splits(named, settings).train.texts == whole.train.texts
    with pytest.raises(DataError, match=r"the list has no column 'text'. Its columns: '0'"):
        load_splits([{0: "a"}])
    with pytest.raises(DataError, match=r"A Series is no table"):
        load_splits(frame["review"])
    withheld = {"train": frame, "test": frame.assign(stars=math.nan)}
    assert all(text in columns["review"] for text in load_splits(withheld, settings).train.texts)
    with pytest.raises(DataError, match=r"A int is no table. Expected a file, a data frame"):
        load_splits(3)


def replace_source(whole: Splits, named: Splits) -> Splits:
    """Return splits as another source calls its own."""
    parts = [(whole.train, named.train), (whole.dev, named.dev), (whole.test, named.test)]
    return Splits(*(a and b and replace(a, source=b.source) for a, b in parts))  # type: ignore[arg-type]


@pytest.mark.parametrize("written", [str, json.dumps])
def test_lists_in_cells_are_lists(tmp_path: Path, written: Any) -> None:
    file = tmp_path / "t.csv"
    write_rows(file, [{"text": f"{i}", "label": written(one)} for i, one in enumerate((["a", "b"], [], ["b"]))])
    for separator in ("", "|"):
        found = load_examples(str(file), DataSettings(separator=separator))["train"]
        assert found.labels == [("a", "b"), (), ("b",)]
    rows = [{"text": "1", "label": np.array(["a", "b"])}, {"text": "2", "label": ("b",)}]
    assert load_examples(rows, DataSettings())["train"].labels == [("a", "b"), ("b",)]
    assert as_list("[{[1]: 2}]") == "[{[1]: 2}]"
    write_rows(file, [{"text": "1", "label": "[a]"}, {"text": "2", "label": "['b']"}])
    assert load_examples(str(file), DataSettings())["train"].labels == ["[a]", "['b']"]  # not all are


@pytest.mark.parametrize("delimiter", ["ab", '"', "\n"])
def test_what_is_no_delimiter(tmp_path: Path, delimiter: str) -> None:
    (tmp_path / "t.csv").write_text("text,label\na,b\n")
    with pytest.raises(DataError, match="expected one character"):
        list(read_rows(tmp_path / "t.csv", delimiter=delimiter))


def test_line_ends_of_windows_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'text,label\r\n"a\r\nb",x\r\n\r\nc,y\r\n')
    assert list(read_rows(tmp_path / "t.csv")) == [{"text": "a\r\nb", "label": "x"}, {"text": "c", "label": "y"}]


# Labels


def test_labels_are_names_whatever_they_were(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.jsonl", [{"text": "a", "label": v} for v in (1, 1.0, " 1 ", True)])
    assert load_examples(str(tmp_path / "t.jsonl"), DataSettings())["train"].labels == ["1", "1", "1", "True"]


def test_many_labels_from_lists(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": ["x", "y", "x"]}, {"text": "b", "label": []}, {"text": "c", "label": None}]
    for ending in ("jsonl", "parquet"):
        write_rows(tmp_path / f"t.{ending}", rows)
        found = load_examples(str(tmp_path / f"t.{ending}"), DataSettings())["train"]
        assert found.labels == [("x", "y"), (), ()]


def test_many_labels_from_a_separator(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\na,x| y\nb,\nc,z\n")
    found = load_examples(str(tmp_path / "t.csv"), DataSettings(separator="|"))["train"]
    assert found.labels == [("x", "y"), (), ("z",)]
    labels = Labels.of(found.labels)
    assert labels == Labels(("x", "y", "z"), many=True)
    assert labels.encode(found.labels).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_numbers_are_in_order_of_their_value() -> None:
    assert Labels.of(["10", "9", "b", "a", "-1"] * 2).names == ("-1", "9", "10", "a", "b")


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("True", "false"), ("1.0", "0.0")])
def test_each_label_can_have_a_column_of_its_own(tmp_path: Path, yes: str, no: str) -> None:
    file = tmp_path / "t.csv"
    rows = [("a", yes, no), ("b", no, no), ("c", yes, yes)]
    file.write_text("text,food,price\n" + "".join(f"{','.join(row)}\n" for row in rows))
    found = load_examples(str(file), DataSettings(label="food, price"))["train"]
    assert found.labels == [("food",), (), ("food", "price")]
    frame = pd.read_csv(file)
    assert load_examples(frame, DataSettings(label="food,price"))["train"].labels == found.labels


def test_a_labels_own_column_holds_0_or_1(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("text,food,price\na,1,0\nb,-1,0\n")
    with pytest.raises(DataError, match=r"t\.csv, row 2: The column 'food' holds '-1'.* holds 0 or 1"):
        load_examples(str(file), DataSettings(label="food,price"))
    with pytest.raises(DataError, match=r"no column 'prise'.*Did you mean 'price'"):
        load_examples(str(file), DataSettings(label="food,prise"))
    file.write_text("text,food,price\na,1,0\nb,, \n")
    with pytest.raises(DataError, match=r"no label in row 2 .*write 0 into the columns of all"):
        load_examples(str(file), DataSettings(label="food,price"))
    told = {"train": [{"text": "a", "food": 1, "price": 0}], "test": [{"text": "b", "food": -1, "price": -1}]}
    assert list(load_examples(told, DataSettings(label="food,price"))) == ["train"]  # the test's truth is withheld
    told["test"].append({"text": "c", "food": 2, "price": 0})
    with pytest.raises(DataError, match=r"\(test\), row 2: The column 'food' holds 2\."):
        load_examples(told, DataSettings(label="food,price"))


def test_a_separator_names_what_it_got_where_labels_are_missing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\n" + "a,x\nb,\n" * 7)
    with pytest.raises(DataError, match=r"no label in row 2, 4, 6, 8, 10 and 2 more \(column 'label'\).*--separator"):
        load_examples(str(tmp_path / "t.csv"), DataSettings())


# Hub data sets, from folders


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "hub-cache")
    library.disable_progress_bars()
    return library


def test_a_saved_data_set_with_class_names(datasets: Any, tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    part = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    whole = datasets.DatasetDict({"train": part, "validation": part, "test": part, "unsupervised": part})
    whole.save_to_disk(tmp_path / "set")
    found = load_examples(f"hf:{tmp_path / 'set'}", DataSettings())
    assert set(found) == {"train", "dev", "test"}
    assert found["dev"].labels == ["good", "bad"]
    assert found["test"].texts == ["a", "b"]


def test_a_saved_data_set_with_many_labels(datasets: Any, tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["joy", "anger"])
    kind = datasets.List(names) if hasattr(datasets, "List") else datasets.Sequence(names)
    features = datasets.Features({"text": datasets.Value("string"), "label": kind})
    datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [[1, 0], [], [1]]}, features=features).save_to_disk(
        tmp_path / "set"
    )
    assert load_examples(f"hf:{tmp_path / 'set'}", DataSettings())["train"].labels == [("anger", "joy"), (), ("anger",)]


def test_a_withheld_label_is_a_missing_one(datasets: Any, tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])})
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, -1]}, features=features).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match="no label in row 2"):
        load_examples(f"hf:{tmp_path / 'set'}", DataSettings())


def test_a_split_whose_labels_are_withheld_is_none(datasets: Any, tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])})
    sizes = {"train": 40, "validation": 10, "test": 10}
    made = {
        split: datasets.Dataset.from_dict(
            {
                "text": [f"{split} {i}" for i in range(size)],
                "label": [-1 if split == "test" else i % 2 for i in range(size)],
            },
            features=features,
        )
        for split, size in sizes.items()
    }
    datasets.DatasetDict(made).save_to_disk(tmp_path / "set")
    found = load_splits(f"hf:{tmp_path / 'set'}", DataSettings())
    assert len(found.dev) == 10
    assert found.test is not None
    assert all(text.startswith("train") for text in found.test.texts)
    file = tmp_path / "t.csv"
    write_rows(file, [{"text": f"mine {i}", "label": "xy"[i % 2]} for i in range(6)])
    own = load_splits(f"hf:{tmp_path / 'set'}", DataSettings(), test=str(file)).test
    assert own is not None
    assert own.texts[0] == "mine 0"
    studied = read_task(Task(name="set", source=f"hf:{tmp_path / 'set'}"))
    assert (studied.test, len(studied.train)) == (None, 40)


def test_a_folder_of_csv_files(datasets: Any, tmp_path: Path) -> None:
    place = tmp_path / "set"
    place.mkdir()
    for name in ("train", "test"):
        write_rows(place / f"{name}.csv", [{"text": f"{name} {i}", "label": "ab"[i % 2]} for i in range(6)])
    found = load_examples(f"hf:{place}", DataSettings())
    assert found["train"].texts == [f"train {i}" for i in range(6)]
    assert found["test"].labels == list("ababab")


def test_a_data_set_without_a_split_we_know(datasets: Any, tmp_path: Path) -> None:
    part = datasets.Dataset.from_dict({"text": ["a"], "label": ["b"]})
    datasets.DatasetDict({"unsupervised": part}).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match=r"no split named train.*but unsupervised"):
        load_examples(f"hf:{tmp_path / 'set'}", DataSettings())


def test_no_such_data_set(datasets: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot load the data set"):
        load_examples(f"hf:{tmp_path / 'none'}", DataSettings())
    with pytest.raises(DataError, match="There is: builtin:reviews"):
        load_examples("builtin:review", DataSettings())


# Splits


def reviews(tmp_path: Path, rows: list[tuple[str, str]]) -> str:
    file = tmp_path / "reviews.csv"
    write_rows(file, [{"text": text, "label": label} for text, label in rows])
    return str(file)


def test_splits_are_whole_and_keep_the_share_of_each_label(tmp_path: Path) -> None:
    rows = [(f"text {i}", "a" if i % 10 < 6 else "b" if i % 10 < 9 else "c") for i in range(1000)]
    splits = load_splits(reviews(tmp_path, rows), DataSettings(), seed=3)
    assert splits.test is not None
    parts = [splits.train, splits.dev, splits.test]
    assert sorted(text for part in parts for text in part.texts) == sorted(text for text, _ in rows)
    labels = dict(rows)
    for part, size in zip(parts, (810, 90, 100), strict=True):
        assert abs(len(part) - size) <= 1
        assert all(labels[text] == label for text, label in zip(part.texts, part.labels, strict=True))
        for label, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
            assert abs(part.labels.count(label) - share * len(part)) <= 2
    assert find_leaks(splits) == {}


def test_a_seed_gives_its_splits(tmp_path: Path) -> None:
    source = reviews(tmp_path, [(f"text {i}", "ab"[i % 2]) for i in range(200)])
    one, again, other = (load_splits(source, DataSettings(), seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert set(one.dev.texts) != set(other.dev.texts)


def test_fractions_and_own_files(tmp_path: Path) -> None:
    source = reviews(tmp_path, [(f"text {i}", "ab"[i % 2]) for i in range(200)])
    whole = load_splits(source, DataSettings(test_fraction=0, dev_fraction=0.25))
    assert whole.test is None
    assert (len(whole.train), len(whole.dev)) == (150, 50)
    write_rows(tmp_path / "dev.jsonl", [{"text": "own", "label": "a"}])
    own = load_splits(source, DataSettings(), dev=str(tmp_path / "dev.jsonl"))
    assert own.dev.texts == ["own"]
    assert own.test is not None
    assert len(own.train) + len(own.test) == 200


spellings = st.sampled_from([str, str.upper, str.title, lambda t: f"  {t}", lambda t: t.replace(" ", "\n  ")])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 12), spellings, st.sampled_from("aab")), min_size=4, max_size=60),
    fraction=st.floats(0.05, 0.5),
    seed=st.integers(0, 5),
)
def test_duplicates_never_straddle_a_split(rows: list[Any], fraction: float, seed: int) -> None:
    examples = examples_of([spell(f"the text {i}") for i, spell, _ in rows], [label for *_, label in rows])
    taken = stratified_rows(examples, fraction, seed=seed)
    assert len(set(taken)) == len(taken)
    inside = {normal_form(examples.texts[i]) for i in taken}
    outside = {normal_form(t) for i, t in enumerate(examples.texts) if i not in set(taken)}
    assert not inside & outside
    assert len(inside) <= fraction * len(inside | outside) + 1


@pytest.mark.parametrize("seed", range(8))
def test_a_text_with_several_labels_does_not_take_a_rare_one_away(seed: int) -> None:
    """As raw annotations have it: another annotator's label of a text stands in a row of its own."""
    texts, labels = [f"text {i}" for i in range(100)], ["a", "b"] * 50
    train = examples_of([*texts, *texts[:2]], [*labels, "c", "c"])
    taken = set(stratified_rows(train, 0.5, seed=seed))
    kept = [label for i, label in enumerate(train.labels) if i not in taken]
    assert kept.count("c") == 2


def test_what_is_no_number_is_missing(tmp_path: Path) -> None:
    """As pyarrow writes a column of numbers with gaps; it was read as a label 'nan'."""
    table = pa.table({"text": ["one", "two", "three"], "label": pa.array([0.0, 1.0, math.nan])})
    pq.write_table(table, tmp_path / "gaps.parquet")
    with pytest.raises(DataError, match="no label in row 3"):
        load_examples(str(tmp_path / "gaps.parquet"), DataSettings())
    (tmp_path / "gaps.jsonl").write_text('{"text": NaN, "label": 1.0}\n{"text": "two", "label": 2}\n')
    found = load_examples(str(tmp_path / "gaps.jsonl"), DataSettings())["train"]
    assert (found.texts, found.labels) == (["", "two"], ["1", "2"])


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=6),
    fractions=st.tuples(st.floats(0.05, 0.5), st.floats(0.05, 0.5)),
    seed=st.integers(0, 20),
)
def test_a_label_with_few_texts_keeps_two_to_learn_from(
    counts: list[int], fractions: tuple[float, float], seed: int
) -> None:
    labels = [f"label {name}" for name, count in enumerate(counts) for _ in range(count)]
    train = examples_of([f"text {i}" for i in range(len(labels))], labels)
    for fraction in fractions:  # as test and dev are taken, one after the other
        taken = set(stratified_rows(train, fraction, seed=seed))
        train = train.pick((i for i in range(len(train)) if i not in taken), "train")
    for name, count in enumerate(counts):
        assert train.labels.count(f"label {name}") >= min(count, 2)


def test_texts_with_many_labels_are_divided_by_their_rarest() -> None:
    labels: list[Any] = [("common", "rare") if i % 20 == 0 else ("common",) if i % 2 else () for i in range(400)]
    examples = examples_of([f"text {i}" for i in range(400)], labels)
    taken = stratified_rows(examples, 0.25, seed=0)
    assert len(taken) == 100
    assert sum("rare" in labels[i] for i in taken) == 5


def test_too_few_texts_for_a_dev_split(tmp_path: Path) -> None:
    source = reviews(tmp_path, [("one", "a"), ("two", "a"), ("three", "b"), ("four", "b")])
    with pytest.raises(DataError, match=r"Too few texts.*--dev FILE"):
        load_splits(source, DataSettings())


# What is said of the data


def test_leaks_are_found_and_counted() -> None:
    train = examples_of(["Good film", "bad", "ok"], ["p", "n", "p"])
    dev = examples_of([" good  FILM ", "new"], ["p", "n"])
    test = examples_of(["ok", "bad", "bad"], ["p", "n", "n"])
    assert find_leaks(Splits(train, dev, test)) == {"train and dev": 1, "train and test": 2}
    assert find_leaks(Splits(train, examples_of(["new"], ["p"]))) == {}


def test_findings() -> None:
    texts = ["Good", "good ", "GOOD", "", "  ", "bad", "bad", "ok"]
    found = look_at(examples_of(texts, ["p", "p", "n", "p", "n", "n", "n", "p"]))
    assert (found.rows, found.blank, found.duplicates, found.contradictions) == (8, 2, 4, 1)
    assert found.label_counts == {"p": 4, "n": 4}
    many = look_at(examples_of(["a", "b"], [("x", "y"), ("x",)]))
    assert many.label_counts == {"x": 2, "y": 1}


# The built-in reviews


@pytest.fixture(scope="module")
def builtin() -> list[dict[str, str]]:
    from bertcnn.text.sources import BUILTIN

    return list(read_rows(BUILTIN["builtin:reviews"]))


def test_builtin_reviews_are_many_unique_and_balanced(builtin: list[dict[str, str]]) -> None:
    assert len(builtin) >= 900
    assert len({re.sub(r"\W+", " ", row["text"].casefold()).strip() for row in builtin}) == len(builtin)
    assert Counter(row["label"] for row in builtin) == dict.fromkeys(["negative", "positive"], len(builtin) // 2)
    assert len({row["area"] for row in builtin}) == 8
    tags = Counter(row["tag"] for row in builtin)
    assert set(tags) == {
        "simple", "plain", "negation", "double negation", "contrast", "long-range", "sarcasm", "comparison", "mixed",
    }  # fmt: skip
    assert min(tags.values()) >= 60
    assert all(row["text"] == row["text"].strip() for row in builtin)
    assert all(len(row["text"].split()) >= (1 if row["tag"] == "simple" else 4) for row in builtin)


def test_builtin_splits_are_apart_and_balanced(builtin: list[dict[str, str]]) -> None:
    parts = {split: [row for row in builtin if row["split"] == split] for split in ("train", "dev", "test")}
    assert sum(map(len, parts.values())) == len(builtin)
    for part in parts.values():
        hard = [row for row in part if row["tag"] != "simple"]
        for column in ("label", "area", "tag"):
            counts = Counter(row[column] for row in hard)
            assert max(counts.values()) == min(counts.values()), column
        by_tag = Counter((row["tag"], row["label"]) for row in hard)
        assert max(by_tag.values()) == min(by_tag.values())
        simple = Counter(row["label"] for row in part if row["tag"] == "simple")
        assert simple["negative"] == simple["positive"] > 0
    splits = load_splits("builtin:reviews", DataSettings())
    assert splits.test is not None
    assert [len(splits.train), len(splits.dev), len(splits.test)] == [len(part) for part in parts.values()]
    assert find_leaks(splits) == {}
    assert look_at(splits.train).contradictions == 0


def test_builtin_reviews_are_no_templates(builtin: list[dict[str, str]]) -> None:
    starts = Counter(" ".join(re.findall(r"[\w']+", row["text"].casefold())[:6]) for row in builtin)
    assert max(starts.values()) <= 5
    hard = [row for row in builtin if row["tag"] != "simple"]
    sentences = [len(re.findall(r"[.!?\u2026]+[\"')\u201d\u2019]*(?=\s|$)", row["text"])) or 1 for row in hard]
    assert set(sentences) <= {1, 2, 3, 4}
    assert sum(count > 1 for count in sentences) > len(hard) / 3


def test_a_missing_column_names_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"review": "a", "stars": 3}) + "\n")
    with pytest.raises(DataError, match=r"no column 'text'\. Its columns: 'review', 'stars'\..*--text"):
        load_examples(str(tmp_path / "t.jsonl"), DataSettings())
