"""Capture the ACPI tables of the library's shapes anew (measurements/shapes/*.acpi), each by the QEMU that it names.

`--qemu PATH` and `--firmware PATH` may be repeated: every shape takes the QEMU of its version and the firmware of its
digest (for machines with two files the variables are looked for beside the code, or named by `--variables`). Shapes
for which one is missing are left as they are. Prints what it does; review what `git diff --stat` then shows.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from appliance.host.acpi_cache import AcpiCache  # noqa: E402 - found only after the path was set
from appliance.host.acpi_capture import CAPTURE_S, capture, require_version  # noqa: E402 - as above
from appliance.host.errors import MachineError  # noqa: E402 - as above
from measurements import acpi_file, shape_library  # noqa: E402 - as above

if TYPE_CHECKING:
    from measurements.shape import Shape

SHAPES = ROOT / "measurements" / "shapes"


def main() -> int:
    """Capture what can be captured; 1 where something was left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qemu", type=Path, action="append", required=True, help="a qemu-system-x86_64")
    parser.add_argument("--firmware", type=Path, action="append", required=True, help="OVMF_CODE.fd, OVMF.fd…")
    parser.add_argument("--variables", type=Path, help="OVMF_VARS.fd, where it is not beside the code")
    parser.add_argument("--cache", type=Path, help="where captures are kept; the cache directory by default")
    parser.add_argument("--seconds", type=float, default=CAPTURE_S, help="how long firmware has, each time")
    parser.add_argument("names", nargs="*", help="only these shapes")
    arguments = parser.parse_args()
    firmware = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in arguments.firmware}
    cache = AcpiCache(arguments.cache)
    done: set[str] = set()
    left_out = 0
    for name in arguments.names or shape_library.names():
        shape, target = shape_library.shape(name), shape_library.capture_name(name)
        if shape.qemu is None or target in done:
            continue
        code = firmware.get(shape.firmware.sha256 or "") if shape.firmware else None
        program = next((path for path in arguments.qemu if fits(shape, path)), None)
        if code is None or program is None:
            print(f"{name}: left out, no {'firmware' if program else 'QEMU'} of it is given")
            left_out = 1
            continue
        variables = None
        if shape.platform == "tpm":
            variables = arguments.variables or code.with_name(code.name.replace("CODE", "VARS"))
        found = capture(shape, qemu=program, firmware=(code, variables), cache=cache, seconds=arguments.seconds)
        content = acpi_file.encode(found.tables, found.facts)
        (SHAPES / f"{target}.acpi").write_bytes(content)
        done.add(target)
        print(f"{target}: {len(found.tables.tables)} bytes of tables, captured by QEMU {found.qemu}", flush=True)
    return left_out


def fits(shape: Shape, program: Path) -> bool:
    """Whether a QEMU is of the version that the shape names."""
    try:
        require_version(shape, program)
    except MachineError:
        return False
    return True


sys.exit(main())
