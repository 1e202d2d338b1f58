"""Rows by split, of files, of what is built in, of hubs, and of tables in memory."""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertcnn.errors import DataError, reason
from bertcnn.settings import DataSettings
from bertcnn.text.cells import is_missing
from bertcnn.text.columns import has_columns, label_cell
from bertcnn.text.read_table import Row, read_rows

BUILTIN = {"builtin:reviews": Path(__file__).parent / "reviews" / "reviews.csv"}
SPLIT_NAMES = {"train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "test": "test"}


def load_labelled_rows(source: Any, settings: DataSettings) -> dict[str, list[Row]]:
    """Return the rows of a source by split, without splits, of a hub or in memory, whose labels are withheld."""
    tables = load_rows(source, settings)
    if isinstance(source, str) and not source.startswith("hf:"):
        return tables
    labelled = {
        split: rows
        for split, rows in tables.items()
        if split == "train" or not all(_is_withheld(row, settings.label) for row in rows)
    }
    return labelled or tables


def _is_withheld(row: Row, label: str) -> bool:
    try:
        return has_columns(row, label) and is_missing(label_cell(row, label))
    except DataError:  # which is told where the row is known
        return False


def load_rows(source: Any, settings: DataSettings) -> dict[str, list[Row]]:
    """Return the rows of a source by split, with all their columns; see :func:`load_examples`."""
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if not isinstance(source, str):
        return _by_split(source, called(source))
    if source.startswith("hf:"):
        return _hub_tables(source.removeprefix("hf:"))
    if source in BUILTIN:
        tables: dict[str, list[Row]] = defaultdict(list)
        for row in read_rows(BUILTIN[source]):
            tables[row["split"]].append(row)
        return dict(tables)
    if source.startswith("builtin:"):
        raise DataError(f"No built-in data set {source!r}. There is: {', '.join(BUILTIN)}.")
    return {"train": list(read_rows(source, encoding=settings.encoding, delimiter=settings.delimiter))}


def _hub_tables(name: str) -> dict[str, list[Row]]:
    try:
        import datasets
    except ImportError as error:
        raise DataError("Hub data sets need datasets: pip install 'bertcnn[train]'") from error
    place, _, config = name.partition(":")
    try:
        if (Path(place) / "dataset_dict.json").is_file() or (Path(place) / "state.json").is_file():
            found = datasets.load_from_disk(place)
        else:
            found = datasets.load_dataset(place, config or None)
    except Exception as error:  # the library raises many kinds, its own and its loaders'
        raise DataError(f"Cannot load the data set {name!r}: {reason(error)}") from error
    return _by_split(found, f"The data set {name!r}")


def called(source: Any) -> str:
    """Return what a source is called in messages."""
    return str(source) if isinstance(source, str | os.PathLike) else f"the {type(source).__name__}"


def _by_split(found: Any, name: str) -> dict[str, list[Row]]:
    """Return the rows of a table, or of each of several by our names of their splits.

    Raises:
        DataError: No split has a name that is known, or something is no table.
    """
    tables = found if isinstance(found, Mapping) else {"train": found}
    if not any(split in SPLIT_NAMES for split in tables):
        raise DataError(f"{name} has no split named {', '.join(SPLIT_NAMES)}, but {', '.join(map(str, tables))}.")
    return {SPLIT_NAMES[split]: _rows_of(table) for split, table in tables.items() if split in SPLIT_NAMES}


def _rows_of(table: Any) -> list[Row]:
    """Return the rows of a table, whichever library it is of.

    Raises:
        DataError: It is none.
    """
    rows: Any = None
    kind = type(table)  # whose attributes are no columns, as those of a data frame may be
    if hasattr(kind, "features"):  # datasets
        rows = _named(table)
    elif hasattr(kind, "to_dicts"):  # polars
        rows = table.to_dicts()
    elif hasattr(kind, "to_pylist") and hasattr(kind, "column_names"):  # pyarrow
        rows = table.to_pylist()
    elif hasattr(kind, "to_dict") and hasattr(kind, "columns"):  # pandas
        rows = table.to_dict("records")
    elif isinstance(table, Sequence) and not isinstance(table, str) and all(isinstance(row, Mapping) for row in table):
        rows = table
    if rows is None:
        raise DataError(f"A {kind.__name__} is no table. Expected a file, a data frame, a Dataset or a list of dicts.")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _named(table: Any) -> list[Row]:
    """Return a data set's rows, its class numbers turned into names."""
    names: dict[str, Callable[[Any], Any]] = {}
    unlabelled = -1  # what the hub's test splits have where the truth is withheld
    for column, feature in table.features.items():
        inner = getattr(feature, "feature", feature)
        if hasattr(inner, "int2str"):
            names[column] = inner.int2str  # takes a number, or a list of them
    return [
        {k: (None if v in (None, unlabelled) else names[k](v)) if k in names else v for k, v in row.items()}
        for row in table
    ]
