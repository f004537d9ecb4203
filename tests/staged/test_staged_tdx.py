"""Synthetic TDX machines changed in one way each: what moves is explained by the change that was made.

The machines measure by code of their own (``appliance.lab.tdx_machine``), the registers come out of real-format quotes
and the logs out of the form that bundles carry; the predictor sees neither.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import staged_firmware as parts
import staged_tdx as staged
from hypothesis import given, settings
from hypothesis import strategies as st
from staged_tdx import CHANGES, predicted, usual

from appliance.lab import tdx_machine_memory as memory
from appliance.lab.errors import LabError
from appliance.lab.secure_boot import SecureBootKeys
from attestation.tdx import parse_quote
from attestation.tdx_log import TdxLog
from measurements import shape_library
from measurements.candidates import Others, single_changes
from measurements.eventlog import EventLog, parse_tcg2
from measurements.explain import explain
from measurements.shape import Qemu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from staged_tdx import Change

    from appliance.lab.tdx_machine import TdxMachine
    from measurements.acpi import AcpiTables
    from measurements.explanation import Candidate, Explanation
    from measurements.shape import Boot, Shape

BOOTS: tuple[Boot, ...] = ("direct", "disk")


@dataclass(frozen=True, slots=True)
class Reported:
    """What a machine's evidence holds."""

    values: dict[str, bytes]
    log: EventLog


def reported(machine: TdxMachine) -> Reported:
    """Start it and read its quote and its log."""
    world = machine.world()
    report = parse_quote(world.quote(bytes(64))).report
    values = {f"rtmr{number}": getattr(report, f"rtmr{number}") for number in range(4)}
    values |= {"mrtd": report.mr_td, "mrconfigid": report.mr_config_id}
    return Reported(values, parse_tcg2(TdxLog.parse(world.event_log()).firmware))


def at_hand(machine: TdxMachine) -> Iterator[Candidate]:
    """The search that an auditor has: usual sizes and devices, and the other files that are staged here."""
    others = Others(
        firmware={"second build": staged.changed_file("firmware", "firmware")},
        images={f"with another {name}": staged.changed_file(name, "image") for name in ("command line", "initrd")},
        configurations={"another": staged.configured("another")},
        models={"another": staged.configured("another model")},
        shapes=(staged.reshaped(machine, qemu=Qemu(version="10.1.2", machine="pc-q35-9.2")).shape,),
    )
    return single_changes(machine.artefacts, machine.shape, others=others, acpi=parts.tables)


def named(explanation: Explanation) -> dict[str, list[str]]:
    """Causes by register, most likely first."""
    return {item.register: [cause.input for cause in item.causes] for item in explanation.findings}


def moved(machine: TdxMachine, seen: Reported) -> set[str]:
    """Registers that hold something else than on the unchanged machine."""
    before = reported(machine).values
    return {name for name, value in seen.values.items() if value != before[name]}


@pytest.mark.parametrize("boot", BOOTS)
def test_an_unchanged_machine_is_what_was_predicted(boot: Boot) -> None:
    machine = usual(boot)
    seen = reported(machine)
    found = explain(predicted(machine), seen.values, seen.log)
    assert found.equal
    assert found.findings == ()
    assert found.log_refuted is None
    assert {chain.register for chain in found.chains} >= {"mrtd", "rtmr1", "rtmr2", "mrconfigid"}
    assert explain(predicted(machine), seen.values).equal


@pytest.mark.parametrize("boot", BOOTS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_change_is_explained_by_its_log(change: Change, boot: Boot) -> None:
    machine = usual(boot, secure_boot=change.secure_boot)
    seen = reported(change.make(machine))
    assert moved(machine, seen) == change.moves
    prediction = predicted(machine)
    found = explain(prediction, seen.values, seen.log)
    differing = change.moves & prediction.registers.keys()
    assert found.equal is (not differing)
    assert {item.register for item in found.findings} == differing
    assert found.log_refuted is None
    for item in found.findings:
        first = next(other for other in found.findings if other.register == item.register)
        assert first.event == change.events.get(item.register, "")
        assert first.causes
        assert all(cause.remedy for cause in first.causes)
    causes = named(found)
    if change.cause is not None and differing == change.moves:
        assert any(change.cause in listed for listed in causes.values())
        assert not change.certain or change.cause in {listed[0] for listed in causes.values()}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
@pytest.mark.parametrize("logged", [True, False], ids=["log", "no log"])
def test_a_change_is_found_among_those_that_are_known(change: Change, logged: bool) -> None:
    machine = usual(secure_boot=change.secure_boot)
    seen = reported(change.make(machine))
    found = explain(predicted(machine), seen.values, seen.log if logged else None, at_hand(machine))
    assert {item.register for item in found.findings} == change.moves
    if change.cause is None:
        assert found.equal
        return
    causes = named(found)
    assert change.found in {listed[0] for listed in causes.values()}, causes
    if change.change:
        assert change.change in found.changes
        assert all(item.change == change.change for item in found.findings)
        assert all(item.causes[0].certain for item in found.findings)


def test_a_change_that_moves_nothing_is_told_as_such() -> None:
    """An auditor who suspects a change hears that no register of this machine would show it."""
    machine = usual(memory_mib=8192)
    unmoved = explain(predicted(machine), reported(machine).values, None, at_hand(usual(memory_mib=8192))).unmoved
    assert "memory 16384 MiB" not in unmoved
    other = replace(machine, smbios=("staged by a test",))
    assert reported(other).values == reported(machine).values


def test_two_changes_at_once_are_both_named() -> None:
    machine = usual()
    both = staged.with_files(staged.reshaped(machine, memory_mib=16384), measured_config=staged.configured("another"))
    seen = reported(both)
    found = explain(predicted(machine), seen.values, seen.log, at_hand(machine))
    assert named(found) == {"rtmr0": ["memory"], "mrconfigid": ["configuration"]}


def test_a_log_of_another_boot_is_not_believed() -> None:
    """The registers are the changed machine's, the log is the unchanged one's: it says nothing."""
    machine = usual()
    seen = reported(staged.reshaped(machine, memory_mib=16384))
    found = explain(predicted(machine), seen.values, reported(machine).log, at_hand(machine))
    assert found.log_refuted == "rtmr0"
    assert named(found) == {"rtmr0": ["memory"]}
    assert found.changes == ("memory 16384 MiB",)


def test_pages_are_added_in_the_order_of_the_monitor() -> None:
    machine = usual()
    old = replace(machine, shape=staged.reshaped(machine, qemu=Qemu(version="8.2.2")).shape)
    assert reported(old).values["mrtd"] != reported(machine).values["mrtd"]
    assert explain(predicted(old), reported(old).values, reported(old).log).equal


@pytest.mark.parametrize("qemu", ["10.1.2", "10.2.0"])
def test_a_plain_kernel_is_what_the_monitor_hands_over(qemu: str) -> None:
    machine = staged.plain(qemu)
    seen = reported(machine)
    assert explain(predicted(machine), seen.values, seen.log).equal
    other = reported(staged.plain("10.2.0" if qemu == "10.1.2" else "10.1.2"))
    assert {name for name in seen.values if seen.values[name] != other.values[name]} == {"rtmr0", "rtmr1"}


@pytest.mark.parametrize("change", staged.PLAIN, ids=lambda change: change.name)
def test_a_change_around_a_plain_kernel_is_explained(change: Change) -> None:
    machine = staged.plain()
    seen = reported(change.make(machine))
    assert moved(machine, seen) == change.moves
    found = explain(predicted(machine), seen.values, seen.log)
    firsts: dict[str, str] = {}
    for item in found.findings:
        firsts.setdefault(item.register, item.event)
    assert firsts == change.events
    assert change.cause in {item.causes[0].input for item in found.findings}


@pytest.mark.parametrize("boot", BOOTS)
def test_secure_boot_with_keys_of_ones_own_is_predicted(boot: Boot) -> None:
    secured = staged.CHANGES[-1].make(usual(boot, secure_boot=True))
    seen = reported(secured)
    assert explain(predicted(secured), seen.values, seen.log).equal
    assert "variable db" in {event.name for event in predicted(secured).registers["rtmr0"].events}


@given(
    boot=st.sampled_from(BOOTS),
    memory_mib=st.integers(512, 4 << 20),
    vcpus=st.integers(1, 512),
    version=st.sampled_from(["8.2.2", "9.0.0", "10.1.2", "11.1.0"]),
    secure_boot=st.booleans(),
    gpus=st.integers(0, 8),
)
@settings(max_examples=25)
def test_two_readings_of_the_sources_agree(
    *, boot: Boot, memory_mib: int, vcpus: int, version: str, secure_boot: bool, gpus: int
) -> None:
    """Whatever the shape, the machine measures what was predicted of it."""
    shaped = {"memory_mib": memory_mib, "vcpus": vcpus, "gpus": gpus, "qemu": Qemu(version=version)}
    machine = usual(boot, secure_boot=secure_boot, **shaped)
    prediction = predicted(machine)
    booted = machine.boot().registers
    named = {"mrtd": "mr_td", "mrconfigid": "mr_config_id"}
    assert {"mrtd", "rtmr0", "rtmr1", "rtmr2", "mrconfigid"} <= prediction.registers.keys()
    assert prediction.values == {name: booted[named.get(name, name)] for name in prediction.registers}


LIBRARY = tuple(
    name for name in shape_library.names() if shape_library.shape(name).platform == "tdx" and shape_library.acpi(name)
)


@pytest.mark.parametrize("name", LIBRARY)
def test_a_shape_of_the_library_with_the_tables_of_qemu(name: str) -> None:
    """The tables that QEMU itself built for the shape; the search finds it among the others of its way to boot."""
    shape, acpi = shape_library.shape(name), shape_library.acpi(name)
    machine = usual()
    machine = replace(machine, shape=shape, artefacts=replace(machine.artefacts, acpi=acpi))
    seen = reported(machine)
    assert explain(predicted(machine), seen.values, seen.log).equal
    others = [shape_library.shape(other) for other in LIBRARY if other != name]
    for other in (item for item in others if item.boot == shape.boot):
        foreign = replace(
            machine, shape=other, artefacts=replace(machine.artefacts, acpi=shape_library.acpi(other.name))
        )
        known = single_changes(
            machine.artefacts, shape, others=Others(shapes=tuple(others)), acpi=_of_library, only=("memory", "vcpus")
        )
        found = explain(predicted(machine), reported(foreign).values, None, known)
        assert found.changes == (f"shape {other.name}",)


def _of_library(wanted: Shape) -> AcpiTables | None:
    return shape_library.acpi(wanted.name) if wanted == shape_library.shape(wanted.name) else None


def test_secure_boot_refuses_an_image_that_nobody_signed() -> None:
    machine = usual(secure_boot=True)
    secured = staged.CHANGES[-1].make(machine)
    secured.boot()
    for image in (machine.artefacts.image, SecureBootKeys.new(staged.NOW).sign(machine.artefacts.image or b"")):
        with pytest.raises(LabError, match="no key of db signed it"):
            replace(secured, artefacts=replace(secured.artefacts, image=image)).boot()


@pytest.mark.parametrize(
    ("path", "digest", "single", "double"),
    [
        ("/usr/share/ovmf/OVMF.fd", "7b456907", "4c7206f0", "acccbcc8"),
    ],
)
def test_debians_firmware_has_the_stated_measurement(path: str, digest: str, single: str, double: str) -> None:
    """Source: attestation specification, section 3; computed there by other code."""
    file = Path(path)
    if not file.is_file():
        pytest.skip(f"{path} is not installed")
    content = file.read_bytes()
    if not hashlib.sha256(content).hexdigest().startswith(digest):
        pytest.skip(f"{path} is another build")
    assert memory.mrtd(content).hex().startswith(single)
    assert memory.mrtd(content, two_passes=True).hex().startswith(double)
