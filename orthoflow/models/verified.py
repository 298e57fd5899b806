"""Import a module whose source was read and checked before: that source runs, and no other."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType, ModuleType


class _Verified(SourceFileLoader):
    """Compiles the content it was given.

    Python's own loader would run a ``.pyc`` file in its place wherever one says that it belongs to
    the source; nothing proves that it does.
    """

    def __init__(self, name: str, path: str, content: bytes) -> None:
        super().__init__(name, path)
        self._content = content

    def get_code(self, fullname: str) -> CodeType:
        """Code of the checked content."""
        return self.source_to_code(self._content, self.get_filename(fullname))


def imported(name: str, path: str, content: bytes) -> ModuleType:
    """The module `name`, made of the `content` of its source file at `path`.

    A module that this process has imported before is used as it is. The packages around it are
    imported in the usual way.
    """
    parent, _, child = name.rpartition(".")
    package = importlib.import_module(parent) if parent else None
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path, loader=_Verified(name, path, content))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    if package is not None:
        setattr(package, child, module)
    return module
