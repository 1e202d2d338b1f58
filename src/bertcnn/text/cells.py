"""What a cell of a table can hold of a value."""

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from numbers import Real
from typing import Any

SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_IN_A_TABLE = re.compile("[\0\ud800-\udfff]")


def is_missing(value: Any) -> bool:
    """Return whether a cell holds nothing: none, what is no number in a column of numbers, pandas' NA."""
    is_nan = isinstance(value, Real) and value != value  # numpy's, too; math.isnan takes no integer of 400 digits
    return value is None or is_nan or type(value).__name__ in {"NAType", "NaTType"}


def decoded(value: Any) -> Any:
    """Return bytes that are a text in UTF-8, as some write to parquet, as that text; anything else as it is."""
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            return value.decode()
    return value


def joined(value: Any) -> Any:
    """Return what a cell of csv holds of a value: of a list, its parts between bars; of what is nested, JSON."""
    if isinstance(value, bytes):
        return _plain(value)
    if not isinstance(value, (Mapping, Sequence)) or isinstance(value, str):
        return value
    if isinstance(value, Mapping) or any(isinstance(one, (Mapping, list, tuple)) or "|" in str(one) for one in value):
        return as_json(value)
    return "|".join(map(str, value))


def as_json(value: Any) -> str:
    """Return a value as strict JSON: what is no number is null there, and a date or a decimal its text."""
    try:
        return json.dumps(value, ensure_ascii=False, default=_plain, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, default=_plain)


def _plain(value: Any) -> str:
    """Return the text of a value that JSON and csv do not know; of bytes that are none, base64."""
    value = decoded(value)
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def as_cell(value: Any) -> Any:
    """Return a value as a cell of csv holds it, with U+FFFD for what no UTF-8 table can hold."""
    value = joined(value)
    return _NOT_IN_A_TABLE.sub("\ufffd", value) if isinstance(value, str) else value


def without_surrogates(value: Any) -> Any:
    """Return a value with U+FFFD for each lone surrogate in its texts, so that UTF-8 can hold it."""
    if isinstance(value, str):
        return value if value.isascii() else SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(without_surrogates, value))
    return value
