"""The synthetic TDX world: what it measures, shows and serves is what a machine of hardware would."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from tdx_support import NOW, REPORT_DATA, digest, rtmrs

from appliance.lab import tee_service
from appliance.lab.tee import DEFAULT_REGISTERS, Faults, SyntheticTdx
from attestation import dcap
from attestation.errors import CollectionError
from attestation.platforms import SimulatedTdx
from attestation.platforms.base import EventLogPlatform
from attestation.platforms.simulated import log_path
from attestation.tdx import TdAttribute, parse_quote
from attestation.tdx_log import MAX_LOG, RuntimeEvent, TdxLog

if TYPE_CHECKING:
    from pathlib import Path

QUIET = {"log_edited", "log_cut", "log_foreign", "unlogged_extend"}
"""Faults after which the shown log is not the machine's."""


@pytest.mark.parametrize("name", [item.name for item in fields(Faults) if item.type == "bool"])
def test_a_log_leads_to_the_registers_unless_it_lies(name: str) -> None:
    fault: dict[str, Any] = {name: True}
    world = SyntheticTdx(Faults(**fault), clock=lambda: NOW)
    report = parse_quote(world.quote(REPORT_DATA)).report
    assert (TdxLog.parse(world.event_log()).replay() == rtmrs(report)) is (name not in QUIET)


def test_machines_of_one_image_measure_the_same(machine: SyntheticTdx) -> None:
    one, two = (parse_quote(each.quote(REPORT_DATA)).report for each in (machine, machine.neighbour()))
    assert one == two
    assert machine.neighbour().event_log() == machine.event_log()
    assert machine.neighbour().root_der == machine.root_der
    assert machine.registers["rtmr3"] != DEFAULT_REGISTERS["rtmr3"] == bytes(48)
    other = SyntheticTdx(registers={"mr_td": digest("firmware")}, runtime=[RuntimeEvent(digest("x"), "x")])
    assert parse_quote(other.neighbour().quote(REPORT_DATA)).report.mr_td == digest("firmware")


def test_collateral_of_a_world_is_for_all_of_its_machines(machine: SyntheticTdx) -> None:
    other = machine.neighbour()
    for collateral in (machine.collateral_json(), other.collateral_json()):
        for each in (machine, other):
            found = dcap.verify_quote(each.quote(REPORT_DATA), collateral, root_der=machine.root_der, now=NOW)
            assert (found.status, found.ppid) == ("UpToDate", each.ppid)


def test_faults_are_in_the_registers() -> None:
    world = SyntheticTdx(Faults(debug=True, migratable=True, flipped=(TdAttribute.PKS,), service_td=True))
    report = parse_quote(world.quote(REPORT_DATA)).report
    bits = (TdAttribute.SEPT_VE_DISABLE, TdAttribute.DEBUG, TdAttribute.MIGRATABLE, TdAttribute.PKS)
    assert int.from_bytes(report.td_attributes, "little") == sum(1 << bit for bit in bits)
    assert any(report.mr_service_td)
    with pytest.raises(CollectionError, match="not in this body"):
        world.quote(REPORT_DATA, nothing=b"")


async def test_the_service_leaves_the_log_beside_its_socket(tmp_path: Path, machine: SyntheticTdx) -> None:
    socket = tmp_path / "quotes"
    platform = SimulatedTdx(socket)
    assert isinstance(platform, EventLogPlatform)
    assert await platform.event_log() is None
    async with await tee_service.start(socket, machine):
        assert await platform.event_log() == machine.event_log()
        assert parse_quote(await platform.collect(REPORT_DATA)).report.report_data == REPORT_DATA
    log_path(socket).write_bytes(bytes(MAX_LOG + 1))
    with pytest.raises(CollectionError, match="more than"):
        await platform.event_log()
    log_path(socket).unlink()
    log_path(socket).mkdir()
    with pytest.raises(CollectionError, match="cannot be read"):
        await platform.event_log()
