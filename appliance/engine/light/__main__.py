"""Start the light engine; run as a file by the engine environment's Python, which has no ``appliance`` package.

Makes exactly the package's own files importable, under their usual names and without running a package's
``__init__``: what they import beyond the standard library comes from the engine environment alone.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path


def expose(name: str, directory: Path) -> None:
    """Register a package of that name whose modules are the files of ``directory``."""
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(directory)]
    sys.modules[name] = module_from_spec(spec)


if __name__ == "__main__":
    light = Path(__file__).resolve().parent
    expose("appliance", light.parents[1])
    expose("appliance.engine", light.parent)
    expose("appliance.engine.light", light)
    from appliance.engine.light.server import main

    main(sys.argv[1:])
