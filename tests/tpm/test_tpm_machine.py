"""What is read from the running machine: its logs, and which platform it is."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
import tpm_support as support

from attestation.errors import CollectionError, EvidenceError
from attestation.platforms import Tpm, detect
from attestation.tpm import logs
from attestation.tpm.logs import BootLogs, LogFiles, SystemEvent, gather, record

if TYPE_CHECKING:
    from pathlib import Path


GUEST = (
    "0101271704ccc2360ddbb08438d591c23fb8a0a9cb0cebc60cefea7868833f8e",
    "4605c05ee6caae6e83dfa8a67c5ced8e82d475ac66941c84de94c5cdf234a8fb",
    "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
    "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
    "b1a890e3e17fa67d95c069243a2050aeb13dd428e0f296204babb3cb11c20e43",
    "c45805fc6f2b7fd3f8e192738f80ab529bd47fb7da8ffa980d094cb1e5685cf2",
    "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969",
    "b5710bf57d25623e4019027da116821fa99f5c81e9e38b87671cc574f9281439",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "7923a63a372d08f9621804e615364377140d4d8cb7f91cebbc164119114bf32a",
    "2565f89906dcc34c12d64dc3111c7f364df8b2ef9e70316531f242549101f445",
)
"""Registers 0 to 10 of a guest under QEMU with Debian's OVMF 2025.02, its kernel 6.12 and swtpm, read from its TPM."""


@pytest.fixture
def files(tmp_path: Path) -> LogFiles:
    return LogFiles(
        firmware=tmp_path / "firmware", systemd=tmp_path / "systemd", kernel=tmp_path / "kernel", own=tmp_path / "own"
    )


def systemd_record(register: int | None, word: str, **more: object) -> bytes:
    """One record as ``tpm2_log_event`` writes it: digests of every active bank, what it is, when."""
    digests = [{"hashAlg": name, "digest": hashlib.new(name, word.encode()).hexdigest()} for name in ("sha1", "sha256")]
    content = {"eventType": "phase", "string": word, "bootId": "0" * 32, "timestamp": 1}
    value = {"digests": digests, "content_type": "systemd", "content": content, **more}
    if register is not None:
        value["pcr"] = register
    return b"\x1e" + json.dumps(value).encode() + b"\n"


def kernel_entry(content: bytes, template: bytes = b"ima-ng", register: int = 10) -> bytes:
    head = register.to_bytes(4, "little") + hashlib.sha1(content, usedforsecurity=False).digest()
    return head + len(template).to_bytes(4, "little") + template + len(content).to_bytes(4, "little") + content


def test_all_logs_are_gathered_in_order(files: LogFiles) -> None:
    files.firmware.write_bytes(support.tcg2_log([(4, 5, b"\x44" * 32, b"calling")]))
    files.systemd.write_bytes(systemd_record(11, "enter-initrd") + systemd_record(None, "nvpcr", nvindex=1))
    files.kernel.write_bytes(kernel_entry(b"boot_aggregate") + kernel_entry(b"second"))
    record(files.own, SystemEvent(14, b"\x14" * 32, "measured configuration"))
    found = gather(files)
    assert found.firmware == files.firmware.read_bytes()
    assert [(event.register, event.text) for event in found.system] == [
        (11, "phase: enter-initrd"),
        (10, "integrity: ima-ng"),
        (10, "integrity: ima-ng"),
        (14, "measured configuration"),
    ]
    assert found.system[0].digest == hashlib.sha256(b"enter-initrd").digest()
    assert found.system[1].digest == hashlib.sha256(b"boot_aggregate").digest()
    assert set(found.replay()) == {4, 10, 11, 14}
    assert BootLogs.decode(found.encode()) == found
    assert files.own.stat().st_mode & 0o444 == 0o444


def test_a_kernels_first_entry_leads_to_the_register_of_a_real_guest(files: LogFiles) -> None:
    """The aggregate of registers 0 to 9 in the template ``ima-sig`` (name and hash, file name, no signature)."""
    registers = [bytes.fromhex(value) for value in GUEST]
    fields = (b"sha256:\0" + hashlib.sha256(b"".join(registers[:10])).digest(), b"boot_aggregate\0", b"")
    content = b"".join(len(item).to_bytes(4, "little") + item for item in fields)
    files.firmware.write_bytes(support.tcg2_log([]))
    files.kernel.write_bytes(kernel_entry(content, b"ima-sig"))
    assert gather(files).replay() == {10: registers[10]}


def test_a_log_that_is_not_there_has_no_events(files: LogFiles) -> None:
    assert gather(files) == BootLogs(b"", ())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("systemd", b"\x1e{"),
        ("systemd", b"\x1e[]\n"),
        ("systemd", b'\x1e{"pcr": 11}\n'),
        ("systemd", b'\x1e{"pcr": 11, "digests": []}\n'),
        ("systemd", b'\x1e{"pcr": 99, "digests": [{"hashAlg": "sha256", "digest": "' + b"00" * 32 + b'"}]}\n'),
        ("systemd", b'\x1e{"pcr": 11, "digests": [{"hashAlg": "sha256", "digest": "00"}]}\n'),
        ("systemd", b'\x1e{"pcr": 11, "digests": 1}\n'),
        ("systemd", b"\x1e" + b"[" * 5000),
        ("kernel", kernel_entry(b"content")[:-1]),
        ("kernel", kernel_entry(b"content", register=99)),
        ("kernel", bytes(24) + b"\xff\xff\xff\xff"),
        ("own", b"text\n"),
        ("own", b'{"pcr": 14, "sha256": "00", "text": ""}\n'),
        ("own", b'{"pcr": 14}\n'),
        ("firmware", bytes(logs.MAX_FILE + 1)),
    ],
)
def test_logs_of_the_machine_that_are_none(files: LogFiles, name: str, content: bytes) -> None:
    path: Path = getattr(files, name)
    path.write_bytes(content)
    with pytest.raises(CollectionError, match=str(path)):
        gather(files)


def test_more_events_than_fit_into_evidence(files: LogFiles) -> None:
    line = b'{"pcr": 14, "sha256": "' + b"00" * 32 + b'", "text": ""}\n'
    files.own.write_bytes(line * logs.MAX_EVENTS)
    assert len(gather(files).system) == logs.MAX_EVENTS
    files.own.write_bytes(line * (logs.MAX_EVENTS + 1))
    with pytest.raises(CollectionError, match="at most 512"):
        gather(files)


def test_an_event_out_of_bounds_is_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError):
        record(tmp_path / "own", SystemEvent(24, bytes(32), ""))
    assert not (tmp_path / "own").exists()


def test_a_log_that_may_not_be_read(files: LogFiles) -> None:
    files.firmware.mkdir()
    with pytest.raises(CollectionError, match="cannot be read") as caught:
        gather(files)
    assert "boot leaves a copy" in caught.value.hint


async def test_a_snapshot_comes_before_the_files(made: support.Made, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    service = Tpm(made.tpm.tcti, tmp_path, snapshot=snapshot, files=made.tpm.files)
    assert service._logs() == gather(made.tpm.files)
    snapshot.write_bytes(BootLogs(b"other", ()).encode())
    assert service._logs().firmware == b"other"
    snapshot.write_bytes(b"damaged")
    with pytest.raises(CollectionError, match="are damaged"):
        service._logs()
    snapshot.unlink()
    snapshot.mkdir()
    with pytest.raises(CollectionError, match="cannot be read"):
        service._logs()


def machine(root: Path, *paths: str, **texts: str) -> Path:
    for path in paths:
        (root / path).mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        path = (
            root
            / {
                "cpuinfo": "proc/cpuinfo",
                "version": "sys/class/tpm/tpm0/tpm_version_major",
                "vendor": "sys/class/dmi/id/sys_vendor",
            }[name]
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("paths", "texts", "platform", "why"),
    [
        ((), {}, "none", "tpm: no (no /sys/class/tpm/tpm0)"),
        (("dev/tpmrm0",), {"version": "2\n", "vendor": "QEMU\n"}, "tpm", "tpm: yes (a TPM 2.0 on QEMU)"),
        ((), {"version": "2\n"}, "none", "tpm: found, not usable (a TPM 2.0 without /dev/tpmrm0"),
        (("dev/tpmrm0",), {"version": "1\n"}, "none", "tpm: found, not usable (a TPM of version 1, expected 2)"),
        (
            ("dev/tpmrm0", "sys/kernel/config/tsm/report"),
            {"cpuinfo": "flags : fpu tdx_guest\n", "version": "2"},
            "tdx",
            "tdx: yes (a TDX guest",
        ),
        ((), {"cpuinfo": "flags : fpu tdx_guest\n"}, "none", "tdx: found, not usable (a TDX guest without"),
        (
            ("dev/tdx_guest",),
            {"cpuinfo": "flags : fpu tdx_guest\n"},
            "tdx",
            "tdx: yes (a TDX guest with /dev/tdx_guest, without configfs",
        ),
        (("dev/tdx_guest",), {}, "none", "tdx: no (the processor does not say"),
        (("dev/sev-guest",), {}, "snp", "snp: yes (an SEV-SNP guest with /dev/sev-guest"),
        ((), {"cpuinfo": "flags : fpu sev_snp\n"}, "none", "snp: found, not usable (the processor says SEV-SNP"),
    ],
)
def test_detection_says_what_it_found_and_why(
    tmp_path: Path, paths: tuple[str, ...], texts: dict[str, str], platform: str, why: str
) -> None:
    found = detect(machine(tmp_path, *paths, **texts))
    assert found.platform == platform
    assert len(found.findings) == 5
    assert any(line.startswith(why) for line in found.explain()), found.explain()


def test_detection_looks_at_this_machine() -> None:
    assert detect().explain()[0].startswith("platform ")
