"""The configuration loader: good files load, bad ones are named by file, line and key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from appliance.config import ClientConfig, MeasuredConfig, WorkerConfig, load
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

HASH = "00" * 32
WORKER = f"""\
[measured]
model = "Org/Model@abc:{HASH}"

[measured.network]
global_id = -777
root_contract = "0:{HASH}"
zerostate = {{ seqno = 0, root_hash = "{HASH}", file_hash = "{HASH}" }}

[measured.network.key_block]
seqno = 1
root_hash = "{HASH}"
file_hash = "{HASH}"

[measured.trust]
policy = "fake_tdx"
development = true

[measured.engine]
max_tokens = 100

[owner]
address = "0:{HASH}"

[host]
state_dir = "state"
liteservers = [{{ address = "127.0.0.1:1", key = "AAAA" }}]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "worker.toml"
    path.write_text(text)
    return path


def test_a_good_file_loads_and_paths_are_relative_to_it(tmp_path: Path) -> None:
    config = load(write(tmp_path, WORKER), WorkerConfig)
    assert config.host.state_dir == tmp_path / "state"
    assert config.measured.base_model == "Org/Model"


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("max_tokens = 100", "max_tokens = 0", 19, "measured.engine.max_tokens: Input should be greater"),
        ("max_tokens = 100", "max_tokenz = 1", 19, "measured.engine.max_tokenz: unknown key"),
        ("global_id = -777", "", 4, "measured.network.global_id: missing key"),
        ("development = true", "development = false", 14, "needs development = true"),
        (f'address = "0:{HASH}"', 'address = "nowhere"', 22, "owner.address"),
        ('key = "AAAA"', 'key = "*"', 26, "host.liteservers.0.key"),
    ],
)
def test_a_fault_is_named_by_line_and_key(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    path = write(tmp_path, WORKER.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load(path, WorkerConfig)
    assert f"{path}:{line}: " in caught.value.message
    assert said in caught.value.message


def test_broken_toml_and_missing_files_are_errors_not_tracebacks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not TOML"):
        load(write(tmp_path, "a = ["), WorkerConfig)
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "absent.toml", WorkerConfig)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "binary.toml", ClientConfig)


def test_the_digest_covers_measured_values_only(tmp_path: Path) -> None:
    base = load(write(tmp_path, WORKER), WorkerConfig)
    owner = load(write(tmp_path, WORKER.replace('[owner]\naddress = "0:', '[owner]\naddress = "-1:')), WorkerConfig)
    other = load(write(tmp_path, WORKER.replace("max_tokens = 100", "max_tokens = 101")), WorkerConfig)
    assert base.owner != owner.owner
    assert base.measured.digest() == owner.measured.digest()
    assert base.measured.digest() != other.measured.digest()
    assert MeasuredConfig.model_validate_json(base.measured.model_dump_json()).digest() == base.measured.digest()
