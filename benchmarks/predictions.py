"""How long it takes to predict what a machine measures, once its ACPI tables are captured.

``python benchmarks/predictions.py [--json] [--image DIR] [--snp-firmware FILE] [--rounds N]``. The image is a built one
with its firmware (``just image``); the shapes and their tables are the library's. The rows:

* a prediction of one shape for each platform, from bytes to registers, the shape's file and its captured tables read
  and unpacked each time: what ``chrysalis measure predict`` does after its arguments are read;
* ``acpi from the library`` is that reading alone;
* SEV-SNP's part besides against sev-snp-measure called as its own command line calls it, with the same firmware and
  kernel as files. Without a firmware that hashes kernels (Debian's ovmf-amdsev) both are measured without a kernel.

Kinds are interleaved; the median of all rounds counts, and the fastest stands beside it. ``cpu_ms`` is the processor
time of this process, the median too: what is left of a figure on a machine that does other things besides.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sevsnpmeasure import guest, vcpu_types
from sevsnpmeasure.sev_mode import SevMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from appliance.config import home
from measurements import predictors, shape_library, snp
from measurements.artefacts import Artefacts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from measurements.prediction import Prediction

FIRST_SECTORS = 34 * 512
"""What a disk's partition table takes: a protective record, a header, 128 entries."""
SHAPES = ("tpm-2c-4g-disk", "tpm-2c-4g-direct", "tdx-24c-192g-1h100-disk", "tdx-192c-1536g-8h100-direct")
SNP_SHAPE = "snp-192c-1536g-8h100-direct"
SNP_FIRMWARE = Path("/usr/share/ovmf/OVMF.amdsev.fd")


@dataclass(frozen=True)
class Taken:
    """What one call took, in milliseconds: by the clock, and of the processor."""

    wall: float
    cpu: float


def timed(call: Callable[[], object]) -> Taken:
    """What a call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Taken((time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000)


def interleaved(kinds: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Taken]]:
    """Several calls, taken in turn; the first turn, which loads modules, does not count."""
    times: dict[str, list[Taken]] = {name: [] for name in kinds}
    for number in range(rounds + 1):
        for name, call in kinds.items():
            taken = timed(call)
            if number:
                times[name].append(taken)
    return times


def row(name: str, times: Sequence[Taken], base: Sequence[Taken] | None = None) -> dict[str, Any]:
    """A row; ``ratio`` is that of the medians of the processor's time."""
    cpu = statistics.median(taken.cpu for taken in times)
    ratio = {} if base is None else {"ratio": cpu / statistics.median(taken.cpu for taken in base)}
    return {
        "name": name,
        "median_ms": statistics.median(taken.wall for taken in times),
        "best_ms": min(taken.wall for taken in times),
        "cpu_ms": cpu,
        **ratio,
    }


def artefacts(image: Path) -> Artefacts:
    """The image's files; the disk's first sectors only."""
    with (image / "chrysalis.raw").open("rb") as disk:
        first = disk.read(FIRST_SECTORS)
    return Artefacts(
        firmware=(image / "OVMF.fd").read_bytes(),
        firmware_code=(image / "OVMF_CODE.fd").read_bytes(),
        firmware_variables=(image / "OVMF_VARS.fd").read_bytes(),
        image=(image / "chrysalis.efi").read_bytes(),
        disk=first,
        measured_config=bytes(32),
    )


def predictions(given: Artefacts) -> dict[str, Callable[[], object]]:
    """One prediction a shape, its tables read anew."""

    def predict(name: str) -> Prediction:
        whole = replace(given, acpi=shape_library.acpi(name))
        return predictors.predict(whole, shape_library.shape(name))

    for name in SHAPES:
        missing = predict(name).unpredicted
        print(f"{name}: {', '.join(missing) or 'nothing'} is not predicted", file=sys.stderr)
    kinds: dict[str, Callable[[], object]] = {
        f"predict {name}": (lambda name=name: predict(name))  # type: ignore[misc]  # a default that binds the name
        for name in SHAPES
    }
    return kinds | {"acpi from the library": lambda: shape_library.acpi(SHAPES[-1])}


def launch_digests(image: Path, firmware: Path, *, hashes_kernels: bool) -> dict[str, Callable[[], object]]:
    """SEV-SNP's part here, and by the library called plainly."""
    shape = shape_library.shape(SNP_SHAPE)
    kernel = image / "chrysalis.efi"
    content, cpu = firmware.read_bytes(), shape.cpu or ""
    handed = snp.Kernel(kernel.read_bytes()) if hashes_kernels else None
    path = str(kernel) if hashes_kernels else None

    def ours() -> bytes:
        return snp.launch_digest(content, vcpus=shape.vcpus, cpu=cpu, kernel=handed).value

    def plain() -> object:
        signature = vcpu_types.CPU_SIGS[cpu]
        return guest.calc_launch_digest(SevMode.SEV_SNP, shape.vcpus, signature, str(firmware), path, "", "", 1)

    assert ours() == plain()
    return {"snp, plain sev-snp-measure": plain, f"snp, {SNP_SHAPE}": ours}


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    times = interleaved(predictions(artefacts(options.image)), options.rounds)
    rows = [row(name, found) for name, found in times.items()]
    hashes_kernels = options.snp_firmware.is_file()
    firmware = options.snp_firmware if hashes_kernels else options.image / "OVMF.fd"
    digests = interleaved(launch_digests(options.image, firmware, hashes_kernels=hashes_kernels), options.rounds)
    plain = digests["snp, plain sev-snp-measure"]
    return rows + [row(name, found, plain) | {"kernel": hashes_kernels} for name, found in digests.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=20)
    image = os.environ.get("CHRYSALIS_IMAGE") or home() / "image" / "engine-cpu"
    parser.add_argument("--image", type=Path, default=Path(image), help="directory of a built image")
    parser.add_argument("--snp-firmware", type=Path, default=SNP_FIRMWARE, help="OVMF.amdsev.fd")
    options = parser.parse_args()
    if not (options.image / "chrysalis.efi").is_file():
        message = f"no image in {options.image}; build it: just image"
        raise SystemExit(message)
    rows = measure(options)
    if options.json:
        print(json.dumps({"benchmark": "predictions", "rows": rows}))
        return
    for found in rows:
        cells = [
            f"{key} {value:,.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items()
        ]
        print(f"{found['name']:<40}" + ", ".join(cells[1:]))


if __name__ == "__main__":
    main()
