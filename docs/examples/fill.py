"""Fill the three example files with the values of a private network; they are written into the current directory.

In: ``network.json`` of a lab chain, the root contract, the owner's address and the worker's model. Out:
``worker.toml``, ``gateway.toml`` and ``client.toml``. Standard library only. docs/operating.md shows its use.
"""  # noqa: INP001 - a script beside its data, no package

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
PROGRAMS = ("worker", "gateway", "client")


def fill(text: str, values: dict[str, dict[str, str]]) -> str:
    """Replace values in a TOML text, table by table, and leave comments where they are."""
    table = ""
    lines = []
    for line in text.splitlines():
        if header := re.match(r"\[+([a-z_.]+)\]+", line):
            table = header[1]
        key, separator, _ = line.partition(" = ")
        if separator and key in values.get(table, {}):
            comment = re.search(r"\s+#.*$", line)
            written = f"{key} = {values[table][key]}"
            line = written + (comment[0] if comment else "")  # noqa: PLW2901 - the line as it is to be
        lines.append(line)
    return "\n".join(lines) + "\n"


def values_of(facts: dict[str, object], options: argparse.Namespace) -> dict[str, dict[str, str]]:
    """New values by table and key, as TOML (JSON's strings and numbers are TOML's)."""

    def chosen(block: dict[str, object]) -> dict[str, str]:
        return {key: json.dumps(block[key]) for key in ("seqno", "root_hash", "file_hash")}

    server = facts["liteservers"][0]  # type: ignore[index]  # JSON of a known shape
    return {
        "measured": {"model": json.dumps(options.model)},
        "measured.network": {
            "global_id": json.dumps(facts["global_id"]),
            "root_contract": json.dumps(options.root),
        },
        "measured.network.zerostate": chosen(facts["zerostate"]),  # type: ignore[arg-type]  # as above
        "measured.network.key_block": chosen(facts["key_block"]),  # type: ignore[arg-type]  # as above
        "owner": {"address": json.dumps(options.owner)},
        "host": {"model_dir": json.dumps(options.model_dir)},
        "host.liteservers": {"address": json.dumps(server["address"]), "key": json.dumps(server["key"])},
    }


def main() -> None:
    """Read the options and write the files; an existing file is never overwritten."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", type=Path, required=True, help="network.json of the lab chain")
    parser.add_argument("--root", required=True, help="the root contract, as registry create prints it")
    parser.add_argument("--owner", required=True, help="the owner's address")
    parser.add_argument("--model", required=True, help="name@commit:hash")
    parser.add_argument("--model-dir", required=True, help="the model's directory")
    options = parser.parse_args()
    values = values_of(json.loads(options.network.read_text()), options)
    for program in PROGRAMS:
        with Path(f"{program}.toml").open("x") as file:
            file.write(fill((EXAMPLES / f"{program}.toml").read_text(), values))
        sys.stdout.write(f"wrote {program}.toml\n")


if __name__ == "__main__":
    main()
