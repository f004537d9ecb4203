"""The bill of materials: valid against the schema, complete, the same bytes, and nothing but what is locked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from appliance.image.errors import BuildError
from appliance.image.lock import PackageLock, read_lock
from appliance.image.lock_lists import PROFILES
from appliance.image.lock_wheels import read_wheel_lock
from appliance.image.profiles import LOCKS, read_recipe
from appliance.image.sbom import locked_parts, sbom

ROOT = Path(__file__).resolve().parents[2]
PROFILE_NAMES = sorted(LOCKS)


def read(profile: str, **options: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(sbom(profile, **options))
    return content


def properties(entry: dict[str, Any]) -> dict[str, str]:
    return {item["name"].removeprefix("chrysalis:"): item["value"] for item in entry["properties"]}


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("profile", PROFILE_NAMES)
def test_it_is_valid_and_has_every_locked_file(profile: str, debug: bool) -> None:
    data = sbom(profile, debug=debug)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    content = json.loads(data)
    assert content["specVersion"] == "1.6"
    seen = {item["hashes"][0]["content"] for item in content["components"] if "hashes" in item}
    expected: set[str] = set()
    for part in locked_parts(read_recipe(ROOT, profile)):
        if part.lock.startswith("wheels-"):
            expected |= {item.sha256 for item in read_wheel_lock(ROOT, part.lock.removeprefix("wheels-")).wheels}
        else:
            expected |= {item.sha256 for item in read_lock(ROOT / f"image/lock/{part.lock}.json").packages}
    extra = {item.sha256 for item in read_lock(ROOT / "image/lock/debug.json").packages} if debug else set()
    assert seen == expected | extra
    assert len(content["components"]) == len(seen) + 1  # and the guest's own wheel


def test_the_schema_can_refuse() -> None:
    """Control."""
    content = read("base")
    content["components"][0]["type"] = "thing"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(content)) is not None


@pytest.mark.parametrize("profile", PROFILES)
def test_what_is_installed_is_required_and_what_only_builds_is_not(profile: str) -> None:
    content = read(profile)
    by_digest = {item["hashes"][0]["content"]: item for item in content["components"] if "hashes" in item}
    installed = {
        item.sha256 for name in PROFILES[profile] for item in read_lock(ROOT / f"image/lock/{name}.json").packages
    }
    installed |= {item.sha256 for item in read_wheel_lock(ROOT, "guest").wheels}
    for digest, item in by_digest.items():
        uses = set(properties(item)["use"].split())
        assert (item["scope"] == "excluded") is (uses == {"build"})
        python = item["purl"].startswith("pkg:pypi") and uses != {"files"}
        assert ("image" in uses) is (digest in installed or python)
    mkosi = next(item for item in content["components"] if item["name"] == "mkosi")
    assert mkosi["scope"] == "excluded"
    assert mkosi["purl"].startswith("pkg:deb/debian/mkosi@")


def test_the_same_bytes_in_another_process_and_place(tmp_path: Path) -> None:
    for name in ("image", "packaging"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True)
    code = (
        "import sys; from pathlib import Path; from appliance.image.sbom import sbom\n"
        "sys.stdout.buffer.write(sbom('engine-cpu', checkout=Path(sys.argv[1])))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Pacific/Kiritimati", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, tmp_path], env=environment, capture_output=True, check=True)
    assert done.stdout == sbom("engine-cpu")


def test_another_lock_is_another_serial_number(tmp_path: Path) -> None:
    for name in ("image", "packaging"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True)
    before = read("base", checkout=tmp_path)
    lock = read_lock(tmp_path / "image/lock/base.json")
    (tmp_path / "image/lock/base.json").write_bytes(PackageLock("base", lock.indexes, lock.packages[1:]).to_bytes())
    after = read("base", checkout=tmp_path)
    assert before["serialNumber"] != after["serialNumber"]
    assert before["serialNumber"] == read("base")["serialNumber"]
    assert before["metadata"]["timestamp"] == "2026-01-01T00:00:00+00:00"
    assert before["metadata"]["properties"] != after["metadata"]["properties"]


def test_no_host_is_named_but_the_schemas_own() -> None:
    text = sbom("engine-gpu").decode()
    lines = [line.strip().rstrip(",") for line in text.splitlines() if "://" in line]
    assert lines == ['"$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json"']


def test_a_profile_that_does_not_exist() -> None:
    with pytest.raises(BuildError, match="no profile 'engine-npu'"):
        sbom("engine-npu")
