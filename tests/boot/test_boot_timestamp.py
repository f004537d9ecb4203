"""Nonce-signed time from a real time-stamp authority (OpenSSL's), and authorities that lie."""

from __future__ import annotations

import base64
import shutil
import ssl
import subprocess
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from appliance.boot import clock, timestamp
from appliance.boot.errors import ClockError
from appliance.boot.image import ImageInfo
from appliance.boot.timestamp import SignedTime, read_time, signed_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
CONFIG = """
[req]
distinguished_name = dn
[dn]
[tsa_cert]
extendedKeyUsage = critical,timeStamping
[tsa]
default_tsa = t
[t]
serial = {serial}
digests = sha256
default_policy = 1.2.3.4
signer_digest = sha256
accuracy = secs:1
"""


class Authority:
    """A certificate authority and its time-stamp service."""

    def __init__(self, place: Path, name: str) -> None:
        self.place = place / name
        self.place.mkdir()
        self.config = self.place / "tsa.cnf"
        self.config.write_text(CONFIG.format(serial=self.place / "serial"))
        (self.place / "serial").write_text("01\n")
        self.run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-days", "10",
                 "-keyout", "ca.key", "-out", "ca.pem", "-config", str(self.config))  # fmt: skip
        self.run("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name} stamps", "-keyout", "tsa.key",
                 "-out", "tsa.csr", "-config", str(self.config))  # fmt: skip
        self.run("x509", "-req", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                 "-out", "tsa.pem", "-days", "9", "-extfile", str(self.config), "-extensions", "tsa_cert")  # fmt: skip

    def run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.place, check=True, capture_output=True)

    @property
    def root(self) -> str:
        return base64.b64encode(ssl.PEM_cert_to_DER_cert((self.place / "ca.pem").read_text())).decode()

    def stamp(self, query: bytes) -> bytes:
        (self.place / "query").write_bytes(query)
        self.run("ts", "-reply", "-queryfile", "query", "-signer", "tsa.pem", "-inkey", "tsa.key", "-out", "reply",
                 "-config", str(self.config))  # fmt: skip
        return (self.place / "reply").read_bytes()


@contextmanager
def serving(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tsa"), "good")


async def test_an_authority_s_time_is_taken(authority: Authority, tmp_path: Path) -> None:
    with serving(authority.stamp) as url:
        signed = await signed_time(url, [authority.root], directory=tmp_path)
    assert abs(signed.offset(time.time(), time.monotonic())) < 60
    assert list(tmp_path.iterdir()) == []


async def test_an_older_stamp_is_refused(authority: Authority, tmp_path: Path) -> None:
    kept: list[bytes] = []

    def replay(query: bytes) -> bytes:
        kept.append(authority.stamp(query))
        return kept[0]

    with serving(replay) as url:
        await signed_time(url, [authority.root], directory=tmp_path)
        with pytest.raises(ClockError, match="does not verify"):
            await signed_time(url, [authority.root], directory=tmp_path)


async def test_another_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    with serving(other.stamp) as url:
        await signed_time(url, [authority.root, other.root], directory=tmp_path)
        with pytest.raises(ClockError, match="does not verify"):
            await signed_time(url, [authority.root], directory=tmp_path)


@pytest.mark.parametrize("body", [b"", b"not a stamp", b"\x30\x05\x30\x03\x02\x01\x02", bytes(100_000)])
async def test_other_answers_are_refused(authority: Authority, tmp_path: Path, body: bytes) -> None:
    with serving(lambda _: body) as url, pytest.raises(ClockError):
        await signed_time(url, [authority.root], directory=tmp_path)


async def test_a_slow_answer_is_refused(authority: Authority, tmp_path: Path) -> None:
    """Whoever holds a stamp back makes the machine's time older by as much: the exchange has a limit."""
    for seconds in (timestamp.MAX_EXCHANGE_S, timestamp.MAX_EXCHANGE_S + 1):
        moments = iter((100.0, 100.0 + seconds))
        with serving(authority.stamp) as url:
            asking = signed_time(url, [authority.root], directory=tmp_path, clock=lambda: next(moments))  # noqa: B023 - asked at once
            if seconds == timestamp.MAX_EXCHANGE_S:
                assert (await asking).answered == 100.0 + seconds
            else:
                with pytest.raises(ClockError, match="after 21"):
                    await asking


async def test_nobody_there(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(ClockError, match="gives no time-stamp"):
        await signed_time("http://127.0.0.1:1/", [authority.root], directory=tmp_path)


def test_times_in_words() -> None:
    assert read_time("Time stamp: Jan  2 03:04:05 2026 GMT\n") == 1767323045.0
    assert read_time("x\nTime stamp: Jan  2 03:04:05.5 2026 GMT\ny") == 1767323045.5
    for text in ("", "Time stamp: unspecified", "Time stamp: Foo  2 03:04:05 2026 GMT"):
        with pytest.raises(ClockError):
            read_time(text)


def test_the_clock_is_set_where_it_is_off() -> None:
    set_to: list[float] = []
    now, mono = time.time(), time.monotonic()
    right = SignedTime(now, mono - 1, mono + 1)
    clock.correct(right, 30.0, set_clock=set_to.append)
    assert set_to == []
    wrong = SignedTime(now + 5000, mono - 1, mono + 1)
    assert 4990 < clock.correct(wrong, 30.0, set_clock=set_to.append) < 5010
    assert len(set_to) == 1

    def refuse(_: float) -> None:
        raise PermissionError(1, "Operation not permitted")

    with pytest.raises(ClockError, match="cannot be set"):
        clock.correct(wrong, 30.0, set_clock=refuse)


def test_a_clock_before_the_image_or_long_after_is_refused() -> None:
    image = ImageInfo(profile="engine-cpu", source_date_epoch=1767225600, command_line="")
    clock.check_range(1767225600.0, image)
    for now in (0.0, 1767225599.0, 1767225600.0 + clock.MAX_AGE_S + 1):
        with pytest.raises(ClockError, match="the clock says"):
            clock.check_range(now, image)
