"""libtonlibjson as a process of its own: one JSON request a line on stdin, its answer a line on stdout.

The library starts threads that it never ends; here they end with the process, which the caller kills when it hangs.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import sys
import time
from pathlib import Path


def library() -> Path:
    """The shared library inside the installed package ``pytonlib``."""
    spec = importlib.util.find_spec("pytonlib")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pytonlib is not installed")
    return Path(spec.submodule_search_locations[0]) / "distlib" / "linux" / "libtonlibjson.x86_64.so"


class Client:
    """The library's asynchronous interface, one request at a time."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(library()))
        self._library.tonlib_client_json_create.restype = ctypes.c_void_p
        self._library.tonlib_client_json_send.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._library.tonlib_client_json_receive.argtypes = [ctypes.c_void_p, ctypes.c_double]
        self._library.tonlib_client_json_receive.restype = ctypes.c_char_p
        self._library.tonlib_client_set_verbosity_level.argtypes = [ctypes.c_int]
        self._library.tonlib_client_set_verbosity_level(int(os.environ.get("TONLIB_VERBOSITY", "0")))
        self._client = self._library.tonlib_client_json_create()
        self._count = 0

    def call(self, request: dict[str, object], seconds: float = 15.0) -> dict[str, object]:
        """The answer to one request, or ``{"@type": "timeout"}``."""
        self._count += 1
        extra = str(self._count)
        self._library.tonlib_client_json_send(self._client, json.dumps({**request, "@extra": extra}).encode())
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            data = self._library.tonlib_client_json_receive(self._client, 0.2)
            answer = json.loads(data) if data else {}
            if answer.get("@extra") == extra:
                return dict(answer)
        return {"@type": "timeout"}


def main() -> None:
    """Answer until stdin ends."""
    client = Client()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(client.call(json.loads(line))) + "\n")
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
