"""The three places where local mode interferes with the import of other packages, and why.

No code of Google is changed. But in the first two cases, a name in `sys.modules` stands for
something else than what Python would have imported:

- `skip_clients`: in the processes of `vertex-local` itself (the server and the command), an empty
  module has Google's name `google.cloud.aiplatform_v1`.
- `skip_address_parser`: where notebooks are read, a slow optional package counts as missing.
- `after_import`: in a kernel, the real SDK is imported as usual, and then gets the address of local
  mode through its public `init`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

CLIENTS = "google.cloud.aiplatform_v1"


def skip_clients() -> None:
    """Let the types of Vertex AI's resources be imported without its clients: saves 1.5 s.

    The types are a subpackage of `google.cloud.aiplatform_v1`, whose own code imports some fifty
    clients. An empty module with the same search path takes its place. Never call this where the
    SDK is used: in a kernel, a job or a test.
    """
    try:
        spec = importlib.util.find_spec(CLIENTS)
    except ModuleNotFoundError:  # not even the package above it is there
        return
    if spec is not None:
        sys.modules.setdefault(CLIENTS, importlib.util.module_from_spec(spec))


def skip_address_parser() -> None:
    """Let nbformat be imported without a parser of international URLs: saves 2 to 4 s.

    nbformat imports jsonschema, which builds that parser if the package `rfc3987_syntax` is
    installed (JupyterLab needs it). Notebooks have no such URL to check, and jsonschema works
    without the package.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None: "not installed"


def after_import(name: str, act: Callable[[ModuleType], None]) -> None:
    """Call `act` with the module `name`: now if it is imported already, else when it is.

    Importing the SDK takes seconds, for which a notebook without the SDK need not wait.
    """
    if name in sys.modules:
        act(sys.modules[name])
    elif not any(isinstance(each, _Finder) and each.name == name for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder(name, act))


class _Finder(MetaPathFinder):
    """Finds one module as usual, and adds a last step to its import.

    It stays in `sys.meta_path`, because an import that was interrupted is repeated.
    """

    def __init__(self, name: str, act: Callable[[ModuleType], None]) -> None:
        self.name = name
        self._act = act

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == self.name else None
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def execute_and_act(module: ModuleType) -> None:
                execute(module)
                self._act(module)

            spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec
