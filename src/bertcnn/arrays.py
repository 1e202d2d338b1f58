"""Arrays, called by what they hold. Their shapes stand where they are used."""

from typing import Any

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats16 = npt.NDArray[np.float16]
Floats32 = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
"""Of any precision."""
