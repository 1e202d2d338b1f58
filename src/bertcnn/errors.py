"""Every error this package raises on purpose.

::

    BertCNNError
    ├── SettingsError   a setting that is unknown, of the wrong type, or out of range
    ├── DataError       a data file, a column, a row or a label that cannot be used
    ├── EncoderError    an encoder or word-vector file that cannot be found or used
    ├── ModelError      a model folder that is missing, broken, foreign or too new
    ├── TrainingError   a training run that cannot start, go on, or be saved
    └── StudyError      a comparison that cannot be made, continued or reported

The command line prints one of these, or what the system says of a file, in a line and exits 2.
Anything else is a fault of ours and keeps its traceback.
A message says what was got, what was expected, and what to do.
"""

import errno
from collections.abc import Iterable
from difflib import get_close_matches

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says where a disk or a quota has no room left, or a file none to grow."""


class BertCNNError(Exception):
    """Base of all errors that a user can cause and mend."""


class SettingsError(BertCNNError):
    """A setting is unknown, of the wrong type, or out of range."""


class DataError(BertCNNError):
    """A data file, column, row or label cannot be used.

    Args:
        said: What is wrong, and what to do with the data.
        flags: What else can be done on the command line, which other doors leave out (:attr:`said`).
    """

    def __init__(self, said: str, flags: str = "") -> None:
        super().__init__(f"{said} {flags}".rstrip())
        self.said = said


class EncoderError(BertCNNError):
    """An encoder or a word-vector file cannot be found or used."""


class ModelError(BertCNNError):
    """A model folder is missing, broken, foreign or of a newer format."""


class TrainingError(BertCNNError):
    """A training run cannot start, go on, or be saved."""


class StudyError(BertCNNError):
    """A comparison cannot be made, continued or reported."""


def reason(error: BaseException) -> str:
    r"""Return the first line of what another library's error says, or its name where it says nothing.

    >>> reason(ValueError("no such file\nmore")), reason(NotImplementedError())
    ('no such file', 'NotImplementedError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name nearest to ``name``, or ``""``.

    >>> nearest("dept", ["depth", "encoder"])
    " Did you mean 'depth'?"
    """
    found = get_close_matches(name, list(known), n=1)
    return f" Did you mean {found[0]!r}?" if found else ""
