"""Every parser of outside bytes, fuzzed shortly: the kept corpus, and a search of a fixed number of inputs.

``just fuzz`` searches for longer. A finding is any error that a parser does not declare, a hang, too much memory, or an
input that is read and would be written otherwise.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest
from fuzz_all import TARGETS
from fuzz_run import CORPUS, KEPT_BYTES, fuzz
from fuzz_target import PropertyError, Target
from fuzz_verdicts import judge_bundle, judge_evidence
from fuzz_worlds import DATA, NONCE, worlds

from attestation.azure import reader as azure_reader
from attestation.snp import reader as snp_reader

if TYPE_CHECKING:
    from pathlib import Path

RUNS = 400
SHORT = ("bundle", "certificate", "event-log", "http-request", "rim", "spdm", "snp-report", "tdx-quote", "tl",
         "tpms-attest")  # fmt: skip
"""Those that are searched here; one of each kind of evidence, log, file and message."""


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_taken_and_nothing_undeclared_is_raised(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    assert seeds
    for seed in seeds:
        assert target.try_one(seed)
        for cut in (0, 1, len(seed) // 2, len(seed) - 1):
            target.try_one(seed[:cut])
        target.try_one(seed + b"\0")
    for path in sorted((CORPUS / name).glob("*")):
        target.try_one(path.read_bytes())


def test_what_the_judging_targets_are_seeded_with_is_accepted() -> None:
    """Else they would never reach what is behind a signature, and a forged bundle could not stand out."""
    every = worlds()
    assert judge_bundle(every.bundle).accepted
    device = judge_evidence(every.gpus.gpu_evidence(0, NONCE))
    assert [check.name for check in device.failed] == []
    for claims, checks in (
        snp_reader.read(every.snp.evidence(DATA), every.snp.collateral(), every.snp.roots, every.now),
        azure_reader.read(every.azure.evidence(DATA), every.azure.snp.collateral(), every.azure.roots, every.now),
    ):
        assert claims is not None, checks


def test_the_corpus_is_of_targets_and_small() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)
    for folder in CORPUS.iterdir():
        assert sum(path.stat().st_size for path in folder.iterdir()) <= KEPT_BYTES


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has wheels for Linux x86-64 only")
@pytest.mark.parametrize("name", SHORT)
def test_a_short_search_finds_nothing(name: str, tmp_path: Path) -> None:
    result = fuzz(name, runs=RUNS, kept=tmp_path / "kept", seed=1)
    assert not result.finding, result.said
    assert result.executions >= RUNS
    assert result.branches > 0


def test_a_target_tells_declared_errors_from_findings() -> None:
    def read(data: bytes) -> bytes:
        if data == b"declared":
            raise ValueError
        if data == b"finding":
            raise KeyError
        return data[:4]

    target = Target("example", read, (ValueError,), lambda: [b"1234"], lambda found: found)
    assert target.try_one(b"1234")
    assert not target.try_one(b"declared")
    with pytest.raises(KeyError):
        target.try_one(b"finding")
    with pytest.raises(PropertyError):
        target.try_one(b"12345")
