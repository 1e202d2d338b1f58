"""Make transformers' Auto classes know our models, without loading transformers for it.

``import bertcnn`` shall be quick, and shall also be enough for
``AutoModelForSequenceClassification.from_pretrained`` and ``pipeline`` to load a bertcnn folder.
So, where transformers is not loaded yet, the registration waits for its auto modules.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

REGISTERS = {
    "transformers.models.auto.configuration_auto": "bertcnn.network.config",
    "transformers.models.auto.modeling_auto": "bertcnn.network.model",
}


class _ThenRegister(Loader):
    def __init__(self, loader: Loader, ours: str) -> None:
        self.loader, self.ours = loader, ours

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        importlib.import_module(self.ours)


class _Waiting(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in REGISTERS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader, REGISTERS[fullname])
        return spec


def register() -> None:
    """Register now what transformers has loaded, and the rest when it does."""
    for theirs, ours in REGISTERS.items():
        if theirs in sys.modules:
            importlib.import_module(ours)
    if not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())
