"""One HTTP exchange on one connection, run in a thread and stopped from outside."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.parse
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from attestation.collateral.errors import MalformedAnswerError, ServiceUnreachableError
from attestation.errors import CollateralError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.collateral.proxy import Proxy

_CERTIFICATE_NOT_YET_VALID = 9  # X509_V_ERR_CERT_NOT_YET_VALID
_CERTIFICATE_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_AGENT = "chrysalis-collateral"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        url: An ``http`` or ``https`` address.
        what: What it is, for messages: ``TCB info of 00906ED50000``.
        max_bytes: The longest body that is read.
        body: What is posted; None asks with GET.
        content_type: Its type.
        accept: Type of the answer that is asked for.
        missing: Hint for a 404.
    """

    url: str
    what: str
    max_bytes: int
    body: bytes | None = None
    content_type: str = ""
    accept: str = "*/*"
    missing: str = "404: the service does not know what was asked for"


@dataclass(frozen=True, slots=True)
class Address:
    """A service's address in its parts."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read an address.

        Raises:
            CollateralError: It is no http or https address.
        """
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urllib.parse.urlsplit(""), None
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
            raise CollateralError(f"collateral service {url!r}, expected an http or https address without a user")
        if not url.isascii() or any(character <= " " for character in url):
            raise CollateralError(f"collateral service {url!r} holds blanks or what is not ASCII")
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        scheme = cast("Literal['http', 'https']", parts.scheme)
        return cls(scheme, parts.hostname, port or (443 if scheme == "https" else 80), target)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a service answered.

    Attributes:
        status: HTTP status.
        headers: Names in lower case; of several with one name the first.
        body: At most as long as was allowed; empty unless the status is 200.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Exchange:
    """One request and its answer.

    Args:
        question: What is asked.
        address: Of whom.
        proxy: Through whom.
        silence: Seconds without a byte after which the connection is given up.
        tls: Settings for ``https``; needed for it alone.
    """

    def __init__(
        self, question: Question, address: Address, proxy: Proxy | None, silence: float, tls: ssl.SSLContext | None
    ) -> None:
        self._question = question
        self._address = address
        self._proxy = proxy
        self._silence = silence
        self._tls = tls
        self._socket: socket.socket | None = None  # of its own: the client lets go of it when the body begins
        self._abandoned = False

    def run(self) -> Reply:
        """Do it.

        Raises:
            ServiceUnreachableError: No answer.
            MalformedAnswerError: An answer that is too long, cut off or encoded.
        """
        try:
            return self._run()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unreachable(error) from None

    def abort(self) -> None:
        """Make a thread that waits for the service stop waiting; harmless when there is none."""
        self._abandoned = True
        if self._socket is not None:
            with suppress(OSError):  # not SSLSocket.shutdown: it takes the TLS state from the thread that reads
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _run(self) -> Reply:
        question, address = self._question, self._address
        target, connection = self._open()
        try:
            connection.connect()
            self._socket = connection.sock
            if self._abandoned:
                raise TimeoutError
            headers = {"Connection": "close", "Accept": question.accept, "User-Agent": _AGENT}
            if question.content_type:
                headers["Content-Type"] = question.content_type
            if self._proxy is not None and self._proxy.credentials and address.scheme == "http":
                headers["Proxy-Authorization"] = self._proxy.credentials
            method = "GET" if question.body is None else "POST"
            connection.request(method, target, body=question.body, headers=headers)
            with closing(connection.getresponse()) as response:
                found: dict[str, str] = {}
                for name, value in response.getheaders():
                    found.setdefault(name.lower(), value)
                body = self._read(response, found) if response.status == http.HTTPStatus.OK else b""
                return Reply(response.status, found, body)
        finally:
            connection.close()

    def _open(self) -> tuple[str, http.client.HTTPConnection]:
        address, proxy = self._address, self._proxy
        via = proxy or address
        connection: http.client.HTTPConnection
        if address.scheme == "http":
            connection = http.client.HTTPConnection(via.host, via.port, timeout=self._silence)
            return (self._question.url if proxy else address.target), connection
        connection = http.client.HTTPSConnection(via.host, via.port, timeout=self._silence, context=self._tls)
        if proxy is not None:
            headers = {"Proxy-Authorization": proxy.credentials} if proxy.credentials else {}
            connection.set_tunnel(address.host, address.port, headers)
        return address.target, connection

    def _read(self, response: http.client.HTTPResponse, headers: Mapping[str, str]) -> bytes:
        limit = self._question.max_bytes
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise self._malformed(f"encoded as {headers['content-encoding'][:40]!r}, which was not asked for")
        if response.length is not None and response.length > limit:
            raise self._malformed(f"with too much: {response.length} bytes, at most {limit} are read")
        body = response.read(limit + 1)
        if len(body) > limit:
            raise self._malformed(f"with too much: over {limit} bytes")
        if response.length:
            raise self._malformed(f"and stops {response.length} bytes before its end")
        return body

    def _malformed(self, how: str) -> MalformedAnswerError:
        return MalformedAnswerError(
            f"collateral service {self._address.host} answers {self._question.what} {how}",
            hint="something that is not the service answers in its place, or it is broken: look at the address",
        )

    def _unreachable(self, error: Exception) -> ServiceUnreachableError:
        reason, hint = _explain(error, self._silence)
        through = f" through proxy {self._proxy.host}" if self._proxy else ""
        return ServiceUnreachableError(
            f"collateral service {self._address.host} does not answer {self._question.what}{through}: {reason}",
            hint=hint,
        )


def _explain(error: Exception, silence: float) -> tuple[str, str]:
    """What happened, and what helps."""
    elsewhere = "check the network, or use collateral from a file"
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in {_CERTIFICATE_NOT_YET_VALID, _CERTIFICATE_EXPIRED}:
            return (
                f"its certificate is out of date by this machine's clock ({error.verify_message})",
                "compare this machine's clock with the time: a skewed clock fails every date",
            )
        return (
            f"its certificate is not trusted ({error.verify_message})",
            "a proxy that opens TLS needs its authority in the system's store (or SSL_CERT_FILE)",
        )
    if isinstance(error, TimeoutError):
        return f"silent for {silence:g} s", elsewhere
    for kind, reason, hint in _REASONS:
        if isinstance(error, kind):
            return reason, hint
    if "Tunnel connection failed" in str(error):
        status = str(error).partition("failed: ")[2][:60]
        return f"the proxy refuses to connect ({status})", "check the proxy's rights, or NO_PROXY for this host"
    return type(error).__name__, elsewhere


_REASONS: tuple[tuple[type[Exception], str, str], ...] = (
    (socket.gaierror, "its name cannot be resolved", "check the name and DNS; behind a proxy set HTTPS_PROXY"),
    (ConnectionRefusedError, "the connection is refused", "check address and port: nothing listens there"),
    (http.client.RemoteDisconnected, "it hangs up without an answer", "try again; check that it speaks HTTP"),
)
