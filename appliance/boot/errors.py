"""What can go wrong while a guest starts.

::

    ApplianceError
    ├── StageError            (appliance.errors) a stage of a start failed
    │   ├── GuestConfigError  the configuration volume or fw_cfg: layout, bounds, values
    │   ├── ClockError        the clock cannot be trusted
    │   ├── PostureError      the machine is not what its image makes it; carries the checks
    │   ├── GpuError          no GPU, no driver, or the GPU in a state that must not serve
    │   └── ToolError         a program of the image failed or hung
    └── ConfigError           (appliance.errors) a configuration text has wrong keys or values
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.errors import StageError

if TYPE_CHECKING:
    from appliance.boot.posture import PostureCheck


class GuestConfigError(StageError):
    """The configuration that the host handed over is not one: layout, bounds, members or values."""


class ClockError(StageError):
    """The clock is not one that certificates can be judged by."""


class GpuError(StageError):
    """There is no GPU, its driver did not take it, or it is in a state that must not serve; the message says which."""


class ToolError(StageError):
    """A program of the image failed or hung; the message names it and how it ended."""


class PostureError(StageError):
    """The machine is not what its image makes it.

    Args:
        failed: The checks that failed; the message names each with what was seen and expected.
    """

    def __init__(self, failed: tuple[PostureCheck, ...]) -> None:
        said = "; ".join(f"{check.name}: seen {check.seen}, expected {check.expected}" for check in failed)
        super().__init__(said, hint=failed[0].hint)
        self.failed = failed
