"""Inputs: what an archive no longer has is not a difference, and neither is what nobody may fetch."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from audit_support import DEB, PACKAGE, Release, audited

from appliance.image.archive import Archives

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Pool(SimpleHTTPRequestHandler):
    """One package, or what a test wants instead."""

    answer: bytes | int = DEB

    def do_GET(self) -> None:
        if isinstance(self.answer, int):
            self.send_error(self.answer)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Nothing."""


@contextmanager
def serving(answer: bytes | int) -> Iterator[Archives]:
    handler = type("Answering", (Pool,), {"answer": answer})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield Archives(f"{address}/debian", f"{address}/debian-security")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def empty_cache(audit_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("appliance.image.fetch._ATTEMPTS", 1)
    place = audit_home / "image" / "cache" / "debs" / f"{PACKAGE.sha256}.deb"
    place.unlink()
    return place


def test_a_missing_input_is_fetched_and_then_needs_no_network(
    release: Release, tmp_path: Path, empty_cache: Path
) -> None:
    with serving(DEB) as archives:
        done = audited(release, tmp_path, archives=lambda: archives)
    assert done.verdict.line == "reproduced"
    assert "fetched: 1" in done.step("inputs").summary
    assert empty_cache.read_bytes() == DEB
    again = audited(release, tmp_path / "offline")
    assert again.verdict.line == "reproduced"
    assert "all in the cache" in again.step("inputs").summary


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (404, "could not be checked: inputs unavailable: tool_1.0-1_amd64.deb of trixie is gone"),
        (410, "could not be checked: inputs unavailable: tool_1.0-1_amd64.deb of trixie is gone"),
        (b"!<arch>\nX package", "could not be checked: the inputs cannot be had: tool_1.0-1_amd64.deb differs"),
        (403, "could not be checked: the inputs cannot be had: http://127.0.0.1"),
    ],
    ids=["gone", "gone for good", "other bytes", "no answer to that"],
)
def test_an_input_that_cannot_be_had_is_no_mismatch(
    release: Release, tmp_path: Path, empty_cache: Path, answer: bytes | int, why: str
) -> None:
    """The control is the test above: the same audit, the archive answers with the locked bytes."""
    with serving(answer) as archives:
        done = audited(release, tmp_path, archives=lambda: archives)
    assert done.verdict.line.startswith(why)
    assert done.verdict.kind == "unchecked"
    assert done.verdict.exit_status == 2
    assert done.step("rebuild").status == "left out"
    assert done.step("artefacts").status == "left out"
    assert not empty_cache.exists()


def test_an_audit_without_network_names_what_the_cache_lacks(
    release: Release, tmp_path: Path, empty_cache: Path
) -> None:
    done = audited(release, tmp_path)
    assert done.verdict.line == (
        "could not be checked: inputs unavailable: not in the cache, and nothing may be fetched: "
        "tool_1.0-1_amd64.deb"
    )  # fmt: skip
    assert done.verdict.exit_status == 2


def test_a_missing_input_does_not_hide_a_difference(release: Release, tmp_path: Path, empty_cache: Path) -> None:
    """What differs is found, whatever else is open; here the manifest names another lock than the commit has."""
    published = tmp_path / "published"
    published.mkdir()
    (published / "chrysalis.efi").write_bytes(b"another")
    done = audited(release, tmp_path, published=published)
    assert done.step("inputs").status == "unchecked"
    assert done.verdict.line == "differs: published chrysalis.efi"
