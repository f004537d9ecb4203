"""That every benchmark works and says what it should; never how fast anything is."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN = Path(__file__).resolve().parents[2] / "benchmarks" / "run.py"
ROWS = {
    "codec": {"write a part in its packet", "read a packet and its part", "a message over a link"},
    "handshake": {"plain mutual TLS", "RA-TLS, warm verdict cache", "RA-TLS, cold verdict cache", "RA-TLS"},
    "evidence": {
        "quote, bare dcap-qvl",
        "quote, verified and judged",
        "full bundle, cold",
        "full bundle, machine known",
        "full bundle, verdict kept",
        "SEV-SNP report and chain",
        "GPU, cold",
        "GPU, known",
        "plain mutual TLS",
        "RA-TLS, warm verdict cache",
        "idle attested links",
        "idle links of one peer",
    },
    "labchain": {"bare TVM", "block", "sent and block"},
    "path": {"unstreamed, 1", "unstreamed, 16", "unstreamed, 64", "streamed, 64", "paced stream, 64"},
}


def quick(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(RUN), "--quick", "--json", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def numbers(value: Any) -> list[float]:
    """All numbers inside a row."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    return [value] if isinstance(value, int | float) else []


@pytest.mark.parametrize("name", ["codec", "handshake", "evidence", pytest.param("labchain", marks=pytest.mark.slow)])
def test_rows_and_ratios(name: str) -> None:
    found = quick("--only", name)
    assert set(found["benchmarks"]) == {name}
    assert found["machine"]["cores"] >= 1
    rows = found["benchmarks"][name]["rows"]
    assert {row["name"] for row in rows} >= ROWS[name]
    assert all(math.isfinite(number) and number > 0 for row in rows for number in numbers(row))


@pytest.mark.slow
def test_the_whole_path() -> None:
    rows = quick("--only", "path")["benchmarks"]["path"]["rows"]
    assert {row["name"] for row in rows} == ROWS["path"]
    for row in rows:
        for side in ("direct", "whole"):
            assert row[side]["errors"] == 0
            assert row[side]["requests_per_s"] > 0
            assert row[side]["tokens_per_s"] > 0
        assert set(row["whole"]["rss_mib"]) == {"chain", "gateway", "worker", "client", "engine"}
        assert set(row["whole"]["cpu_s"]) == {"chain", "gateway", "worker", "client", "engine", "load"}
        streams = "stream" in row["name"].partition(",")[0] and not row["name"].startswith("unstreamed")
        assert (row["added_first_median_ms"] is not None) == streams


def test_a_name_that_is_none_is_refused() -> None:
    done = subprocess.run([sys.executable, str(RUN), "--only", "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "invalid choice" in done.stderr
