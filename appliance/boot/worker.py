"""The worker inside a guest: the same program as on a host, reporting into the guest's stage table.

In: the configuration that the boot checked and wrote down. The engine is the guest's own service on loopback, measured
with the image, watched and asked the known prompt from here.
"""

from __future__ import annotations

import sys
from typing import Final

import uvloop

from appliance import logs
from appliance.boot.configuration import MACHINE_FILE
from appliance.boot.stages import WORKER_STAGES, StageTable
from appliance.boot.system import System
from appliance.config.models import WorkerConfig
from appliance.worker.program import run

TABLE: Final = {"chain": "chain", "identity": "evidence", "ledger": "links", "links": "links", "engine": "engine"}


def main() -> int:
    """Run until SIGTERM."""
    system = System()
    config = WorkerConfig.model_validate_json(system.read(f"/run/chrysalis/config/{MACHINE_FILE}"))
    logs.configure(config.host.log_level, as_json=True)
    StageTable(system.stages, WORKER_STAGES)
    uvloop.run(run(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
