"""What the host hands over: by volume or fw_cfg, checked, bound, handed on."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest
from boot_machine import HOST, ME, MEASURED, OWNER, Registers, attach, machine, members, write

from appliance.boot import configuration
from appliance.boot.configuration import Handed, Owners
from appliance.boot.errors import GuestConfigError
from appliance.boot.volume import pack
from appliance.config import GuestConfig, WorkerConfig
from appliance.errors import ConfigError, StageError
from measurements.tpm import REFUSED_CONFIGURATION, configuration_digest

if TYPE_CHECKING:
    from pathlib import Path

OWNERS = Owners(ME, ME, ME)


def by_fw_cfg(root: Path, **contents: bytes) -> None:
    for name, content in contents.items():
        write(root, f"{configuration.FW_CFG}/{name.replace('gas_key', 'gas.key')}/raw", content)


def test_volume_and_fw_cfg_say_the_same(tmp_path: Path) -> None:
    volume = machine(tmp_path / "a", configured=False)
    attach(volume.root, "chrysalis-config", pack(members(gas_key=b"seed")))
    other = machine(tmp_path / "b", configured=False)
    texts = {name.removesuffix(".toml"): content for name, content in members().items()}
    by_fw_cfg(other.root, **texts, gas_key=b"seed")
    first, second = configuration.obtain(volume), configuration.obtain(other)
    assert (first.source, second.source) == ("volume", "fw_cfg")
    assert first.members == second.members
    assert configuration.check(first) == configuration.check(second)


def test_nothing_or_both_is_refused(tmp_path: Path) -> None:
    system = machine(tmp_path, configured=False)
    with pytest.raises(GuestConfigError, match="no configuration"):
        configuration.obtain(system)
    attach(system.root, "chrysalis-config", pack(members()))
    assert configuration.obtain(system).source == "volume"
    by_fw_cfg(system.root, measured=b"x")
    with pytest.raises(GuestConfigError, match="at once"):
        configuration.obtain(system)


def test_two_disks_with_the_serial_are_refused(tmp_path: Path) -> None:
    system = machine(tmp_path)
    attach(system.root, "chrysalis-config", pack(members()), "vdc")
    with pytest.raises(StageError, match=r"2 disks with serial .*: vdb, vdc, expected one"):
        configuration.obtain(system)


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ({"measured": b"a", "owner": b"b"}, "lacks host"),
        ({"measured": b"a", "owner": b"b", "host": b"c", "script": b"d"}, "holds"),
        ({"measured": b"", "owner": b"b", "host": b"c"}, "has no bytes"),
        ({"measured": b"a" * (256 * 1024 + 1), "owner": b"b", "host": b"c"}, "more than"),
    ],
)
def test_fw_cfg_is_bounded(tmp_path: Path, contents: dict[str, bytes], said: str) -> None:
    system = machine(tmp_path, configured=False)
    by_fw_cfg(system.root, **contents)
    with pytest.raises(GuestConfigError, match=said):
        configuration.obtain(system)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("measured", {"policy": "any"}, "measured.toml:1: policy: unknown key"),
        ("host", {"state_dir": "/etc"}, "host.toml:1: state_dir: unknown key"),
        ("host", {"engine_url": "http://10.0.2.2:1"}, "engine_url: unknown key"),
        ("host", {"quote_source": "/tmp/x"}, "quote_source: unknown key"),
        ("host", {"attestation_ca": "file:///etc/shadow"}, "attestation_ca"),
        ("host", {"log_level": "debug"}, "log_level"),
        ("owner", {"gas_key_file": "/etc/shadow"}, "gas_key_file is not a guest's to read"),
        ("owner", {"coefficient": -1}, "coefficient"),
    ],
)
def test_a_text_can_say_only_what_is_its_own(name: str, changes: dict[str, Any], said: str) -> None:
    base = {"measured": MEASURED, "owner": OWNER, "host": HOST}[name]
    configuration.check(Handed("volume", members()))
    with pytest.raises(ConfigError) as caught:
        configuration.check(Handed("volume", members(**{name: changes | base})))
    assert said in caught.value.message


@pytest.mark.parametrize("without", ["model", "engine"])
def test_a_guest_serves_a_model(without: str) -> None:
    measured = {key: value for key, value in MEASURED.items() if key != without}
    with pytest.raises(ConfigError, match=r"needs model and \[engine\]"):
        configuration.check(Handed("volume", members(measured=measured)))


def test_texts_that_are_not_texts_are_refused() -> None:
    for content in (b"\xff\xfe", b"a = ", b"[" * 5000):
        with pytest.raises(ConfigError, match=r"host\.toml"):
            configuration.check(Handed("volume", members() | {"host.toml": content}))


async def test_the_register_holds_the_measured_configuration_or_that_there_is_none() -> None:
    registers = Registers()
    config = configuration.check(Handed("volume", members()))
    await configuration.bind(registers, config)
    await configuration.bind(registers, None)
    assert registers.extended == [
        (14, configuration_digest(config.measured.digest())),
        (14, REFUSED_CONFIGURATION),
    ]


def test_secrets_have_one_reader_and_the_rest_none(tmp_path: Path) -> None:
    system = machine(tmp_path)
    handed = Handed("volume", members(gas_key=b"seed"))
    config = configuration.check(handed)
    assert configuration.hand_on(system, handed, OWNERS)
    configuration.publish(system, config, gas_key=True, platform="tpm", quote_source="/run/chrysalis/tpm/worker")
    files = {path.name: path for path in system.config.iterdir()}
    assert set(files) == {"gas.key", "engine.key", "machine.json", "owner-page.sha256"}
    for name in ("gas.key", "engine.key"):
        assert stat.S_IMODE(files[name].stat().st_mode) == 0o400
    assert files["gas.key"].read_bytes() == b"seed"
    assert (tmp_path / "run/chrysalis/engine.key").read_bytes() == files["engine.key"].read_bytes()
    shown = files["machine.json"].read_text()
    assert "seed" not in shown
    assert files["engine.key"].read_text() not in shown
    worker = WorkerConfig.model_validate_json(shown)
    assert worker.measured.digest() == config.measured.digest()
    assert str(worker.owner.gas_key_file) == "/run/chrysalis/config/gas.key"
    assert (worker.host.platform, worker.host.quote_source) == ("tpm", "/run/chrysalis/tpm/worker")


def test_the_guests_own_paths_are_the_worker_s() -> None:
    worker = configuration.check(Handed("volume", members())).worker(gas_key=False)
    host = worker.host
    assert (str(host.state_dir), host.status, host.engine_url) == (
        "/var/lib/chrysalis/worker", "127.0.0.1:9480", "http://127.0.0.1:30000",
    )  # fmt: skip
    assert worker.owner.gas_key_file is None
    assert json.loads(worker.model_dump_json())["host"]["model_dir"] is None


def test_the_hosts_text_moves_no_digest() -> None:
    one = configuration.check(Handed("volume", members()))
    other = configuration.check(Handed("volume", members(host=HOST | {"gateways": ["10.0.2.2:7"]})))
    measured = MEASURED | {"engine": {"kind": "sglang", "max_tokens": 7}}
    third = configuration.check(Handed("volume", members(measured=measured)))
    assert one.measured.digest() == other.measured.digest() != third.measured.digest()
    assert isinstance(one, GuestConfig)
