"""Collection in the guest: configfs and ioctls as the kernel plays them, and hosts that lie, fail or never answer."""

from __future__ import annotations

import ctypes
import errno
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
from snp_support import NOW, REPORT_DATA, failed, judge, strict, world

from appliance.lab.snp_world import SnpAttack, SyntheticSnp
from attestation.errors import CollectionError
from attestation.platforms import Snp, open_platform
from attestation.platforms.detect import detect
from attestation.platforms.snp_device import SNP_GET_EXT_REPORT, SNP_GET_REPORT, TABLE_SIZE
from attestation.snp import SnpEvidence
from attestation.snp.table import make_table


class Configfs:
    """A directory that behaves as the kernel's does: an entry appears with its attributes and goes with them."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, machine: SyntheticSnp) -> None:
        self.root = root / "report"
        self.root.mkdir()
        self.provider, self.floor, self.generation = "sev_guest", "0", "2"
        self.busy = 0
        self.report = machine.report
        shown = SnpEvidence.parse(machine.evidence(REPORT_DATA)).certificates
        self.table = make_table(dict(shown))
        self.written: dict[str, bytes] = {}
        self.removed: list[str] = []
        real_mkdir, real_open = Path.mkdir, Path.open

        def mkdir(path: Path, *args: Any, **options: Any) -> None:
            real_mkdir(path, *args, **options)
            if path.parent == self.root:
                (path / "provider").write_text(self.provider + "\n")
                (path / "privlevel_floor").write_text(self.floor + "\n")
                (path / "generation").write_text(self.generation + "\n")

        def opened(path: Path, *args: Any, **options: Any) -> Any:
            if path.name == "outblob":
                if self.busy:
                    self.busy -= 1
                    raise OSError(errno.EBUSY, "busy")
                self.written = {name: (path.parent / name).read_bytes() for name in ("inblob", "privlevel")}
                path.write_bytes(self.report(self.written["inblob"]))
                (path.parent / "auxblob").write_bytes(self.table)
            return real_open(path, *args, **options)

        def rmdir(path: Path) -> None:
            if path.parent == self.root:  # not what another test's abandoned request leaves
                self.removed.append(path.name)

        patch.setattr(Path, "mkdir", mkdir)
        patch.setattr(Path, "rmdir", rmdir)
        self._real_open = real_open
        patch.setattr(Path, "open", self._reading(opened, real_open))

    def _reading(self, opened: Any, real_open: Any) -> Any:
        def choose(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            reads = path.name == "outblob" and mode == "rb"
            return (opened if reads else real_open)(path, mode, *args, **options)

        return choose

    def platform(self, **options: Any) -> Snp:
        return Snp(self.root, self.root / "no-device", **options)


@pytest.fixture
def machine() -> SyntheticSnp:
    return world()


@pytest.fixture
def configfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: SyntheticSnp) -> Configfs:
    return Configfs(tmp_path, monkeypatch, machine)


async def test_configfs_gives_evidence_that_verifies(configfs: Configfs, machine: SyntheticSnp) -> None:
    evidence = await configfs.platform().collect(REPORT_DATA)
    assert configfs.written == {"inblob": REPORT_DATA, "privlevel": b"0"}
    assert len(configfs.removed) == 1
    assert failed(judge(evidence, machine.collateral(), machine.roots, strict(machine))) == set()
    lenient = strict(machine, require_revocation_list=False)
    assert failed(judge(evidence, None, machine.roots, lenient)) == set()  # the host's certificates are in it


async def test_a_busy_kernel_is_asked_again_without_another_request(configfs: Configfs) -> None:
    configfs.busy = 2
    assert await configfs.platform().collect(REPORT_DATA)
    configfs.busy = 10**6
    with pytest.raises(CollectionError, match="no report"):
        await configfs.platform(timeout=0.2).collect(REPORT_DATA)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("provider", "tdx_guest", "provider 'tdx_guest', expected 'sev_guest'"),
        ("floor", "2", "runs at privilege level 2, expected 0"),
        ("floor", "x", "a number that is none"),
        ("generation", "3", "answers request 3, expected 2"),
        ("report", lambda _: bytes(1184), "gave no report"),
        ("report", lambda _: b"", "gave no report"),
        ("report", lambda _: bytes(1185), "over 1184 bytes of outblob"),
        ("table", bytes(65 * 1024), "over 65536 bytes of auxblob"),
    ],
)
async def test_what_configfs_may_not_say(configfs: Configfs, name: str, value: Any, words: str) -> None:
    setattr(configfs, name, value)
    with pytest.raises(CollectionError, match=words):
        await configfs.platform().collect(REPORT_DATA)
    assert len(configfs.removed) == 1


async def test_a_guest_under_a_paravisor_may_speak_for_its_level(configfs: Configfs) -> None:
    configfs.floor = "2"
    await configfs.platform(vmpl=2).collect(REPORT_DATA)
    assert configfs.written["privlevel"] == b"2"


async def test_a_report_over_other_data_is_refused(configfs: Configfs) -> None:
    configfs.report = world(SnpAttack(replay=True)).report
    with pytest.raises(CollectionError, match="over other report data"):
        await configfs.platform().collect(REPORT_DATA)


async def test_a_host_with_a_broken_table_loses_its_certificates_only(configfs: Configfs) -> None:
    for table in (b"", b"\7" * 100):
        configfs.table = table
        assert SnpEvidence.parse(await configfs.platform().collect(REPORT_DATA)).certificates == {}


async def test_no_interface_at_all(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="cannot be opened"):
        await Snp(tmp_path / "none", tmp_path / "none").collect(REPORT_DATA)
    with pytest.raises(CollectionError, match="report data of 5 bytes"):
        await Snp(tmp_path / "none", tmp_path / "none").collect(b"short")
    (tmp_path / "report").touch()
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o500)
    with pytest.raises(CollectionError):
        await Snp(tmp_path / "there", tmp_path / "none").collect(REPORT_DATA)


# --- the device


class Firmware:
    """Answers ioctls as ``drivers/virt/coco/sev-guest`` does: addresses in the request are this process's memory."""

    def __init__(self, machine: SyntheticSnp) -> None:
        self.report = machine.report
        self.table = make_table(dict(SnpEvidence.parse(machine.evidence(REPORT_DATA)).certificates))
        self.fails: dict[int, tuple[int, int]] = {}
        self.status, self.size = 0, 1184
        self.asked: list[tuple[int, int]] = []
        self.waits: threading.Event | None = None

    def __call__(self, handle: int, operation: int, request: bytearray) -> int:
        assert handle >= 0
        version, asked, answer, error = struct.unpack("<B7xQQQ", request)
        assert (version, error, len(request)) == (1, 0xFF, 32)
        if self.waits is not None:
            self.waits.wait(20)
        extended = operation == SNP_GET_EXT_REPORT
        data = ctypes.string_at(asked, 112 if extended else 96)
        report_data, vmpl, reserved = struct.unpack_from("<64sI28s", data)
        assert reserved == bytes(28)
        self.asked.append((operation, vmpl))
        if operation in self.fails:
            number, information = self.fails[operation]
            request[24:] = information.to_bytes(8, "little")
            raise OSError(number, "Input/output error")
        if extended:
            address, length = struct.unpack_from("<QI", data, 96)
            assert length == TABLE_SIZE
            assert length % 4096 == 0
            ctypes.memmove(address, self.table, min(len(self.table), length))
        content = struct.pack("<II24x", self.status, self.size) + self.report(report_data)
        ctypes.memmove(answer, content, len(content))
        request[24:] = bytes(8)
        return 0


@pytest.fixture
def firmware(machine: SyntheticSnp) -> Firmware:
    return Firmware(machine)


def by_device(tmp_path: Path, firmware: Firmware, **options: Any) -> Snp:
    device = tmp_path / "sev-guest"
    device.touch()
    return Snp(tmp_path / "no-configfs", device, ioctl=firmware, **options)


async def test_the_device_gives_evidence_that_verifies(
    tmp_path: Path, firmware: Firmware, machine: SyntheticSnp
) -> None:
    evidence = await by_device(tmp_path, firmware).collect(REPORT_DATA)
    assert firmware.asked == [(SNP_GET_EXT_REPORT, 0)]
    assert set(SnpEvidence.parse(evidence).certificates) == {"vcek", "ask", "ark"}
    assert failed(judge(evidence, machine.collateral(), machine.roots, strict(machine), now=NOW)) == set()


@pytest.mark.parametrize("information", [1 << 32, 2 << 32, 0xFF, 0])
async def test_without_certificates_where_the_host_gives_none(
    tmp_path: Path, firmware: Firmware, information: int
) -> None:
    """The table is too long, or the host does not know the extended request: a bare report does."""
    firmware.fails = {SNP_GET_EXT_REPORT: (errno.EIO, information)}
    evidence = await by_device(tmp_path, firmware).collect(REPORT_DATA)
    assert [operation for operation, _ in firmware.asked] == [SNP_GET_EXT_REPORT, SNP_GET_REPORT]
    assert SnpEvidence.parse(evidence).certificates == {}


async def test_a_host_without_certificates_leaves_the_table_empty(tmp_path: Path, firmware: Firmware) -> None:
    firmware.table = b""
    assert SnpEvidence.parse(await by_device(tmp_path, firmware).collect(REPORT_DATA)).certificates == {}


@pytest.mark.parametrize(
    ("information", "words"),
    [(2 << 32, "the host is busy"), (7 << 32, "machine monitor's error 0x7"), (0x16, "firmware's error"),
     (0xFF, "Input/output error")],
)  # fmt: skip
async def test_a_refusal_says_whose_it_is(tmp_path: Path, firmware: Firmware, information: int, words: str) -> None:
    firmware.fails = dict.fromkeys((SNP_GET_EXT_REPORT, SNP_GET_REPORT), (errno.EIO, information))
    with pytest.raises(CollectionError, match=words):
        await by_device(tmp_path, firmware).collect(REPORT_DATA)


@pytest.mark.parametrize(
    ("status", "size", "words"),
    [(0x16, 0, "invalid parameters"), (0x27, 0, "forbids the signing key"), (0x99, 0, "status 0x99"),
     (0, 1183, "1183 bytes, expected 1184"), (0, 2**32 - 1, "4294967295 bytes")],
)  # fmt: skip
async def test_an_answer_without_a_report(
    tmp_path: Path, firmware: Firmware, status: int, size: int, words: str
) -> None:
    firmware.status, firmware.size = status, size
    with pytest.raises(CollectionError, match=words):
        await by_device(tmp_path, firmware).collect(REPORT_DATA)


async def test_a_host_that_never_answers_is_left_behind(tmp_path: Path, firmware: Firmware) -> None:
    firmware.waits = threading.Event()
    platform = by_device(tmp_path, firmware, timeout=0.05)
    with pytest.raises(CollectionError, match="no report within"):
        await platform.collect(REPORT_DATA)
    with pytest.raises(CollectionError, match="earlier request"):  # one thread waits, never two
        await platform.collect(REPORT_DATA)
    firmware.waits.set()
    for thread in threading.enumerate():
        if thread.name == "snp-report":
            thread.join(20)
    firmware.waits = None
    assert SnpEvidence.parse(await by_device(tmp_path, firmware).collect(REPORT_DATA))


def test_the_operations_are_the_kernels() -> None:
    """``_IOWR('S', n, struct snp_guest_request_ioctl)`` of 32 bytes."""
    iowr = lambda number: 3 << 30 | 32 << 16 | ord("S") << 8 | number  # noqa: E731 - the header's macro
    assert (iowr(0), iowr(2)) == (SNP_GET_REPORT, SNP_GET_EXT_REPORT)


# --- which platform a machine is


def test_detection(tmp_path: Path) -> None:
    assert [item.why for item in detect(tmp_path).findings if item.platform == "snp"] == [
        "no /dev/sev-guest, and the processor does not say SEV-SNP"
    ]
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("flags\t: fpu sme sev sev_es sev_snp\n")
    found = {item.platform: item for item in detect(tmp_path).findings}["snp"]
    assert (found.found, found.usable) == (True, False)
    assert "paravisor" in found.why
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/sev-guest").touch()
    said = detect(tmp_path)
    assert said.platform == "snp"
    assert "snp: yes (an SEV-SNP guest with /dev/sev-guest, without configfs)" in said.explain()
    (tmp_path / "sys/kernel/config/tsm/report").mkdir(parents=True)
    assert "snp: yes (an SEV-SNP guest with configfs and /dev/sev-guest)" in detect(tmp_path).explain()


def test_platforms_by_name(tmp_path: Path) -> None:
    for source in (None, str(tmp_path)):
        platform = open_platform("snp", source)
        assert isinstance(platform, Snp)
        assert platform.name == "snp"


async def test_an_error_that_is_no_waiting_is_told_at_once(configfs: Configfs, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def refuses(report_data: bytes) -> bytes:
        asked.append(report_data)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(configfs, "report", refuses)
    with pytest.raises(CollectionError, match="no report: Input/output error"):
        await configfs.platform(timeout=2.0).collect(REPORT_DATA)
    assert asked == [REPORT_DATA]
