"""The demonstration's evidence as files: a bundle from the worker's attested port, and the policy that it is judged by.

In: the port, the run's roots, what the machine has to be. Out: ``evidence.cbor``, ``policy.json`` and the roots in one
directory, judged here as ``chrysalis attest verify`` judges them. With ``--keep`` they stay for whoever wants to look.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import TYPE_CHECKING, Any

from attestation import remote
from attestation.policy_file import load_policy
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

DIRECTORY = "evidence"


async def keep_evidence(
    directory: Path,
    url: str,
    *,
    platform: str,
    roots: Sequence[bytes],
    measurements: Mapping[str, Any],
    say: Callable[[str], None],
) -> dict[str, bool]:
    """Fetch, keep and judge the worker's evidence.

    Args:
        directory: The demonstration's.
        url: The worker's attested port.
        platform: Of the worker's machine, ``tdx`` or ``tpm``.
        roots: The run's roots of that platform, DER.
        measurements: What a policy's section of that name says.
        say: Told where the files are.

    Returns:
        Checks by name.

    Raises:
        HandshakeError: The port gives no evidence.
    """
    place = directory / DIRECTORY
    place.mkdir()
    names = [f"root-{number}.der" for number in range(len(roots))]
    for name, root in zip(names, roots, strict=True):
        (place / name).write_bytes(root)
    policy = {
        "name": "demonstration",
        "about": "The one machine of this run, under the run's own roots.",
        "platforms": [platform],
        "simulated": {platform: names},
        "measurements": measurements,
        "workload": {"role": "worker" if platform == "tdx" else "status"},
        "freshness": {"max_age_s": 3600},
    }
    file = place / "policy.json"
    file.write_text(json.dumps(policy, indent=2))
    fetched = await asyncio.to_thread(remote.fetch, remote.parse_endpoint(url), secrets.token_bytes(32))
    (place / "evidence.cbor").write_bytes(fetched.bundle)
    verdict = await remote.appraise(Verifier(load_policy(file)), fetched)
    for check in verdict.failed:
        say(str(check))
    say(f"evidence of {len(fetched.bundle)} bytes; judge it again: chrysalis attest verify {url} --policy {file}")
    say(f"or from the file: chrysalis attest verify {place / 'evidence.cbor'} --policy {file}")
    return {"fresh evidence of the worker is accepted by a policy's file": verdict.accepted}
