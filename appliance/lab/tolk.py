"""Builds the contracts with the locked Tolk compiler: ``python -m appliance.lab.tolk [--check]``.

In: ``appliance/chain/contracts/*.tolk``. Out: ``appliance/chain/contracts/compiled/*.json`` with the code as a bag of
cells, its hash, the compiler's version and the hashes of the sources. The same sources and the same compiler give the
same bytes; ``--check`` compares instead of writing.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import appliance.chain.contracts as contracts_package
from appliance.chain.boc import decode_boc, encode_boc
from appliance.errors import ApplianceError
from appliance.lab.tvm_tools import Tools, prepare_tools

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMPILE_SECONDS = 120


class CompileError(ApplianceError):
    """The compiler refused a source or could not be run."""


def source_folder() -> Path:
    """Where the Tolk sources are."""
    return Path(contracts_package.__file__).parent


def build(name: str, tools: Tools) -> dict[str, Any]:
    """Compile one contract; raises :class:`CompileError` with the compiler's words.

    Args:
        name: The contract, such as ``worker``.
        tools: The compiler and the Node that runs it.
    """
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(source_folder().glob("*.tolk"))}
    answer = _run(tools, json.dumps({"entry": f"{name}.tolk", "files": sources}))
    if "error" in answer:
        raise CompileError(f"{name}.tolk does not compile: {answer['error']}")
    code = decode_boc(base64.b64decode(answer["code"]))
    used = {each: sources[each] for each in ("common.tolk", f"{name}.tolk")}
    return {
        "contract": name,
        "compiler": f"tolk {answer['version']}",
        "sources": {each: hashlib.sha256(text.encode()).hexdigest() for each, text in used.items()},
        "code_hash": code.hash.hex(),
        "code": base64.b64encode(encode_boc(code)).decode(),
    }


def _run(tools: Tools, request: str) -> dict[str, Any]:
    with as_file(files("appliance.lab") / "tolk.js") as script:
        try:
            done = subprocess.run(  # noqa: S603 - our own arguments, no shell
                [str(tools.node), str(script), str(tools.compiler)],
                input=request,
                capture_output=True,
                text=True,
                timeout=_COMPILE_SECONDS,
                check=True,
            )
            answer = json.loads(done.stdout)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise CompileError(f"the Tolk compiler did not run: {error}") from error
    if not isinstance(answer, dict):
        raise CompileError("the Tolk compiler's answer is not an object")
    return answer


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build or check every contract; the number of contracts that differ is the exit status."""
    parser = argparse.ArgumentParser(description="Build the contracts with the locked Tolk compiler.")
    parser.add_argument("--check", action="store_true", help="compare with the committed builds, write nothing")
    check = parser.parse_args(arguments).check
    tools = prepare_tools(_say)
    different = 0
    for name in contracts_package.CONTRACTS:
        built = build(name, tools)
        path = source_folder() / "compiled" / f"{name}.json"
        text = json.dumps(built, indent=2) + "\n"
        same = path.is_file() and path.read_text(encoding="utf-8") == text
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        different += check and not same
        sys.stdout.write(f"{name:7} {built['code_hash']} {'same' if same else 'different'}\n")
    return different


if __name__ == "__main__":
    raise SystemExit(main())
