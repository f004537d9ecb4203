"""The owner's host: virtual machines launched, watched and stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from appliance.host.acpi_cache import AcpiCache
    from appliance.host.acpi_capture import capture
    from appliance.host.errors import (
        ControlError,
        HostError,
        LaunchError,
        MachineError,
        MissingProgramError,
        NotReadyError,
    )
    from appliance.host.kvm import Probe, probe_kvm
    from appliance.host.launch import start
    from appliance.host.machine import Configuration, Forward, Machine, qemu_command
    from appliance.host.readiness import Stage, until_stages
    from appliance.host.record import machine_directory
    from appliance.host.running import RunningVm, delete, find
    from appliance.host.shape_machine import machine_of

__all__ = [
    "AcpiCache",
    "Configuration",
    "ControlError",
    "Forward",
    "HostError",
    "LaunchError",
    "Machine",
    "MachineError",
    "MissingProgramError",
    "NotReadyError",
    "Probe",
    "RunningVm",
    "Stage",
    "capture",
    "delete",
    "find",
    "machine_directory",
    "machine_of",
    "probe_kvm",
    "qemu_command",
    "start",
    "until_stages",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "AcpiCache": "acpi_cache",
            "Configuration": "machine",
            "ControlError": "errors",
            "Forward": "machine",
            "HostError": "errors",
            "LaunchError": "errors",
            "Machine": "machine",
            "MachineError": "errors",
            "MissingProgramError": "errors",
            "NotReadyError": "errors",
            "Probe": "kvm",
            "RunningVm": "running",
            "Stage": "readiness",
            "capture": "acpi_capture",
            "delete": "running",
            "find": "running",
            "machine_directory": "record",
            "machine_of": "shape_machine",
            "probe_kvm": "kvm",
            "qemu_command": "machine",
            "start": "launch",
            "until_stages": "readiness",
        },
    )
