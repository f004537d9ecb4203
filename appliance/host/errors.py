"""Errors of the host room.

::

    ApplianceError
    └── HostError                 this host cannot do what was asked
        ├── MissingProgramError   a program is not installed; the hint names the package
        ├── MachineError          a machine's description asks for what cannot be
        ├── LaunchError           a virtual machine did not start, or ended
        ├── NotReadyError         a virtual machine runs, and a stage of its boot failed or takes too long
        └── ControlError          QEMU's control socket gave no answer, or one that makes no sense
"""

from __future__ import annotations

from appliance.errors import ApplianceError


class HostError(ApplianceError):
    """This host cannot do what was asked."""


class MissingProgramError(HostError):
    """A program is not installed; the hint names the package that brings it."""


class MachineError(HostError):
    """A machine's description asks for what cannot be."""


class LaunchError(HostError):
    """A virtual machine did not start, or ended; the message has its last words."""


class NotReadyError(HostError):
    """A virtual machine runs, and a stage of its boot failed or takes too long."""


class ControlError(HostError):
    """QEMU's control socket gave no answer, or one that makes no sense."""
