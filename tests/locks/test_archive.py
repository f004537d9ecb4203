"""Addresses from the machine's apt configuration, read by the real apt from a configuration of the test's own."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from appliance.image.archive import Archives, from_machine, require_tool, snapshot
from appliance.image.errors import ImageError, MissingToolError
from appliance.image.lock import LockedPackage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOURCES = """
deb http://mirror.example/pub/debian/ bookworm main contrib
deb http://mirror.example/pub/debian bookworm-updates main
deb https://safe.example/debian-security bookworm-security main
deb https://other.example/apt something main
"""


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Give apt these sources and settings."""
    if shutil.which("apt-get") is None:
        pytest.skip("not installed: apt-get (Debian package apt)")

    def write(sources: str, settings: str = "") -> None:
        for folder in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/lib/dpkg"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "var/lib/dpkg/status").write_text("")
        (tmp_path / "etc/apt/sources.list").write_text(sources)
        (tmp_path / "apt.conf").write_text(f'Dir "{tmp_path}/";\n{settings}')
        monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))

    return write


def package(suite: str) -> LockedPackage:
    return LockedPackage("g++", "1", "all", "0" * 64, 1, "pool/main/g/g++/g++_1~x_all.deb", suite, "main")


def test_the_machines_archives_are_found_by_their_names(configure: Callable[..., None]) -> None:
    configure(SOURCES)
    found = from_machine()
    assert (found.main, found.security) == ("http://mirror.example/pub/debian", "https://safe.example/debian-security")
    assert found.proxy is None
    assert not found.unchecked_age
    assert (
        found.address(package("trixie")) == "http://mirror.example/pub/debian/pool/main/g/g%2B%2B/g%2B%2B_1~x_all.deb"
    )
    assert found.address(package("trixie-security")).startswith("https://safe.example/debian-security/pool/")


def test_without_a_security_source_it_is_looked_for_beside_the_archive(configure: Callable[..., None]) -> None:
    configure("deb http://mirror.example/debian bookworm main\n")
    assert from_machine().security == "http://mirror.example/debian-security"


def test_the_machines_way_to_the_network_is_taken(configure: Callable[..., None]) -> None:
    configure(SOURCES, 'Acquire::http::Proxy "http://proxy.example:3128";\nAcquire::Check-Valid-Until "false";\n')
    found = from_machine()
    assert found.proxy == "http://proxy.example:3128"
    assert ("http::Proxy", "http://proxy.example:3128") in found.acquire
    assert found.unchecked_age
    configure(
        SOURCES,
        'Acquire::http::Proxy "DIRECT";\nAcquire::AllowInsecureRepositories "true";\n'
        'Acquire::gpgv::Options:: "--keyring=/elsewhere";\n',
    )
    found = from_machine()
    assert found.proxy is None
    assert not any(name.startswith(("AllowInsecure", "gpgv")) for name, _ in found.acquire)


def test_a_machine_without_an_archive_is_told_the_option(configure: Callable[..., None]) -> None:
    configure("deb https://other.example/apt something main\n")
    with pytest.raises(ImageError, match="names no Debian archive") as caught:
        from_machine()
    assert "--archive URL" in caught.value.hint
    found = from_machine("http://named.example/debian/")  # control
    assert (found.main, found.security) == ("http://named.example/debian", "http://named.example/debian-security")
    assert from_machine("http://named.example/debian", "http://safe.example/s/").security == "http://safe.example/s"


@pytest.mark.parametrize(
    "url", ["debian", "ftp://x/debian", "file:///x", "http://", "http://x/debian?y", "http://x/#y"]
)
def test_what_is_no_address_is_refused(configure: Callable[..., None], url: str) -> None:
    configure(SOURCES)
    with pytest.raises(ImageError, match="is not an archive's address"):
        from_machine(url)
    with pytest.raises(ImageError, match="is not an archive's address"):
        snapshot(url)


def test_a_snapshot_archive_has_one_address_or_one_for_each(configure: Callable[..., None]) -> None:
    configure(SOURCES)
    each = snapshot("http://s.example/archive/{archive}/20261122T000000Z/")
    assert each.base("debian") == "http://s.example/archive/debian/20261122T000000Z"
    assert each.base("debian-security") == "http://s.example/archive/debian-security/20261122T000000Z"
    one = snapshot("http://s.example/all")
    assert one.base("debian") == one.base("debian-security") == "http://s.example/all"


def test_a_missing_program_is_named_with_its_package() -> None:
    assert require_tool("sh", "dash").endswith("/sh")  # control
    with pytest.raises(MissingToolError, match="mksomething is not installed") as caught:
        require_tool("mksomething", "something-tools")
    assert caught.value.hint == "apt-get install something-tools"


def test_archives_without_settings_check_the_age() -> None:
    assert not Archives("http://a.example", "http://b.example").unchecked_age
