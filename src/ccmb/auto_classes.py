"""AutoConfig, AutoModel and AutoProcessor know R2D2 as soon as `ccmb` has been imported.

To register with transformers is to import it and torch, which takes seconds that `ccmb --help` must not wait for. So
registering waits until somebody imports transformers.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType


def register_with_transformers() -> None:
    """Register now if transformers is there already, or else when it is imported."""
    if "transformers" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _WhenImported("transformers"))


def _register() -> None:
    # Where a module of the network is what imports transformers, the rest of them follows it by itself.
    if not any(name.startswith("ccmb.r2d2.") for name in sys.modules):
        import ccmb.r2d2.modeling
        import ccmb.r2d2.processing  # noqa: F401


class _WhenImported(importlib.abc.MetaPathFinder):
    """Finds a module as if this finder were not there, and calls `_register` once it has been executed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
