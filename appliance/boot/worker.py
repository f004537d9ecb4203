"""The worker inside a guest: the same program as on a host, reporting into the guest's stage table.

In: the configuration that the boot checked and wrote down. The engine is the guest's own service on loopback, measured
with the image, watched and asked the known prompt from here.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

import uvloop

from appliance import logs
from appliance.boot.engine import GuestEngine
from appliance.boot.evidence import read_machine
from appliance.boot.stages import WORKER_STAGES, StageTable
from appliance.boot.system import System
from appliance.boot.unit import run_unit
from appliance.errors import StageError
from appliance.worker.program import Surroundings, run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.worker.service import Worker
    from appliance.worker.stages import Stage

STAGE_OF: Final[Mapping[str, str]] = {"chain": "chain", "identity": "evidence", "ledger": "links", "links": "links"}
"""The machine's stage that each stage of the worker's own page belongs to; the engine has its own two."""
TROUBLE: Final = "/run/chrysalis-engine/trouble"
WATCH_S: Final = 1.0


class Reporter:
    """Tells the machine's table what the worker's stages do.

    Args:
        table: The worker's part of the machine's table.
    """

    def __init__(self, table: StageTable) -> None:
        self._table = table

    def report(self, stage: Stage) -> None:
        """A stage of the worker changed."""
        name = STAGE_OF.get(stage.name)
        if name is None or stage.state == "waiting":
            return
        if stage.state == "failed":
            self._table.begin(name)
            self._table.fail(name, stage.reason)
        elif stage.state == "done" and name != "links":
            self._table.done(name)
        else:
            self._table.begin(name, stage.reason)

    async def watch(self, worker: Worker) -> None:
        """Keep ``links`` in step with the links: done while a gateway sends requests, else why none does."""
        while True:
            if any(link.ready for link in worker.links):
                if self._table["links"].state != "done":
                    self._table.begin("links")
                    self._table.done("links")
            else:
                self._table.begin("links", _why(worker))
            await asyncio.sleep(WATCH_S)


def _why(worker: Worker) -> str:
    """Why there is no link yet."""
    reasons = [reason.text for reason in worker.look()]
    troubles = [f"{address}: {trouble}" for address, trouble in worker.troubles.items()]
    return "; ".join([*troubles, *reasons]) or "no gateway is connected yet"


def work() -> None:
    """Run until SIGTERM.

    Raises:
        StageError: The boot wrote no configuration down.
    """
    system = System()
    config = read_machine(system)
    if config is None:
        raise StageError("the boot wrote no configuration down", hint="see /v1/stages of the status port")
    logs.configure(config.host.log_level, as_json=True)
    table = StageTable(system.stages, WORKER_STAGES)
    reporter = Reporter(table)
    surroundings = Surroundings(
        engine=lambda known: GuestEngine(known, table, system.path(TROUBLE)),
        report=reporter.report,
        watch=reporter.watch,
    )
    uvloop.run(run(config, surroundings))


if __name__ == "__main__":
    sys.exit(run_unit("the worker", work))
