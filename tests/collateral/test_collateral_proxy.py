"""Proxies: which one is chosen, and that a real one is used for both schemes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from typing import TYPE_CHECKING

import pytest
from collateral_support import Answering, Asked, LocalService, always, http, serving
from hypothesis import given
from hypothesis import strategies as st
from test_collateral_web import authority

from attestation.collateral.errors import ServiceRefusedError, ServiceUnreachableError
from attestation.collateral.exchange import Question
from attestation.collateral.proxy import Proxies, Proxy
from attestation.collateral.web import Patience, WebClient
from attestation.errors import CollateralError

if TYPE_CHECKING:
    from pathlib import Path

BOTH = {"HTTP_PROXY": "http://plain:3128", "https_proxy": "secure:3129"}


@pytest.mark.parametrize(
    ("environment", "scheme", "host", "expected"),
    [
        (BOTH, "http", "pcs.example", ("plain", 3128)),
        (BOTH, "https", "pcs.example", ("secure", 3129)),
        ({"ALL_PROXY": "http://all"}, "https", "pcs.example", ("all", 80)),
        ({}, "https", "pcs.example", None),
        ({"HTTPS_PROXY": "", "https_proxy": ""}, "https", "pcs.example", None),
        ({"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://lower:2"}, "https", "pcs.example", ("lower", 2)),
        (BOTH, "https", "127.0.0.1", None),
        (BOTH, "https", "::1", None),
        (BOTH, "http", "localhost", None),
        (BOTH | {"NO_PROXY": "*"}, "https", "pcs.example", None),
        (BOTH | {"no_proxy": "other.example, example"}, "https", "pcs.example", None),
        (BOTH | {"no_proxy": ".example"}, "https", "pcs.example", None),
        (BOTH | {"no_proxy": "*.example"}, "https", "pcs.example", None),
        (BOTH | {"no_proxy": "PCS.example:443"}, "https", "pcs.example", None),
        (BOTH | {"no_proxy": "pcs.example:8443"}, "https", "pcs.example", ("secure", 3129)),
        (BOTH | {"no_proxy": "cs.example"}, "https", "pcs.example", ("secure", 3129)),
        (BOTH | {"no_proxy": "10.0.0.0/8"}, "http", "10.1.2.3", None),
        (BOTH | {"no_proxy": "10.0.0.0/8"}, "http", "11.1.2.3", ("plain", 3128)),
        (BOTH | {"no_proxy": "fd00::/8,,"}, "http", "fd00::5", None),
    ],
)
def test_the_environment_says_which(
    environment: dict[str, str], scheme: str, host: str, expected: tuple[str, int] | None
) -> None:
    found = Proxies(environment=environment).route(scheme, host, 443)  # type: ignore[arg-type]  # a literal of the table
    assert (found and (found.host, found.port)) == expected


def test_one_named_proxy_serves_all_but_loopback_and_off_is_off() -> None:
    named = Proxies("http://user:p%40ss@gate:8080")
    found = named.route("https", "pcs.example", 443)
    assert found is not None
    assert (found.host, found.port) == ("gate", 8080)
    assert base64.b64decode(found.credentials.removeprefix("Basic ")) == b"user:p@ss"
    assert "p@ss" not in repr(found)
    assert found.credentials not in repr(found)
    assert named.route("http", "127.0.0.9", 80) is None
    assert Proxies("off", BOTH).route("https", "pcs.example", 443) is None


@pytest.mark.parametrize("text", ["socks5://gate:1", "https://gate:1", "http://", "http://gate:123456", ""])
def test_proxies_that_cannot_be_used_are_refused_at_once_without_their_password(text: str) -> None:
    with pytest.raises(CollateralError, match="expected http://host:port") as caught:
        Proxies(text.replace("//gate", "//user:hunter2@gate"))
    assert "hunter2" not in str(caught.value)


@given(st.text())
def test_any_text_is_a_proxy_or_a_stated_error(text: str) -> None:
    with contextlib.suppress(CollateralError):
        assert Proxy.parse(text).host


def tunnelling(target_port: int = 0, status: int = 200) -> Answering:
    """A proxy that connects every name to one local port, as a resolver of its own would."""

    async def answering(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.method != "CONNECT":
            writer.write(http(200, b"via " + asked.target.encode()))
            return
        writer.write(f"HTTP/1.1 {status} because\r\n\r\n".encode())
        if status == 200:
            reader, upstream = await asyncio.open_connection("127.0.0.1", target_port)
            try:
                await asyncio.gather(_pump(asked.reader, upstream), _pump(reader, writer))
            finally:
                upstream.transport.abort()

    return answering


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    writer.close()


def through(proxy: LocalService) -> WebClient:
    """A client whose only way is the proxy: it knows no ``.test`` names itself."""
    environment = {
        "HTTP_PROXY": f"http://me:secret@127.0.0.1:{proxy.port}",
        "HTTPS_PROXY": f"http://me:secret@127.0.0.1:{proxy.port}",
    }
    return WebClient(Proxies(environment=environment), Patience(silence=20, deadline=30))


async def test_a_plain_question_goes_through_a_real_proxy() -> None:
    async with serving(tunnelling()) as proxy:
        reply = await through(proxy).ask(Question("http://pcs.test/a?b=c", "the thing", 100))
    assert reply.body == b"via http://pcs.test/a?b=c"
    assert proxy.asked[0].headers["host"] == "pcs.test"
    assert proxy.asked[0].headers["proxy-authorization"] == "Basic " + base64.b64encode(b"me:secret").decode()


async def test_a_tls_question_goes_through_a_tunnel_that_sees_nothing(tmp_path: Path) -> None:
    context, path = authority(tmp_path, ends_in=10)
    async with (
        serving(always(http(200, b"end to end")), tls=context) as service,
        serving(tunnelling(service.port)) as proxy,
    ):
        asking = through(proxy)
        asking.tls = ssl.create_default_context(cafile=str(path))
        asking.tls.check_hostname = False  # the local certificate names 127.0.0.1; what is tested is the way
        reply = await asking.ask(Question("https://pcs.test/secret", "the thing", 100))
    assert reply.body == b"end to end"
    assert (proxy.asked[0].method, proxy.asked[0].target) == ("CONNECT", "pcs.test:443")
    assert "proxy-authorization" in proxy.asked[0].headers
    assert service.asked[0].target == "/secret"
    assert "proxy-authorization" not in service.asked[0].headers  # the proxy's credentials go no further


async def test_a_proxy_that_refuses_is_named() -> None:
    async with serving(tunnelling(status=407)) as proxy:
        with pytest.raises(
            ServiceUnreachableError, match=r"through proxy 127\.0\.0\.1: the proxy refuses.*407"
        ) as info:
            await through(proxy).ask(Question("https://pcs.test/", "the thing", 100))
    assert "NO_PROXY" in info.value.hint
    async with serving(always(http(407))) as proxy:
        with pytest.raises(ServiceRefusedError, match="status 407"):
            await through(proxy).ask(Question("http://pcs.test/", "the thing", 100))
