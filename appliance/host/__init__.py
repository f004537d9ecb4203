"""The owner's host: virtual machines launched, watched and stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
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

__all__ = [
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
    "delete",
    "find",
    "machine_directory",
    "probe_kvm",
    "qemu_command",
    "start",
    "until_stages",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
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
            "delete": "running",
            "find": "running",
            "machine_directory": "record",
            "probe_kvm": "kvm",
            "qemu_command": "machine",
            "start": "launch",
            "until_stages": "readiness",
        },
    )
