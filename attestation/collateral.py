"""Collateral: what a verifier needs besides a quote, by platform; sources are files and PCCS-style services.

Nothing here is trusted: collateral is signed and dated, and the verifier checks both. A source is asked by FMSPC and
issuing authority and answers with the JSON form of ``dcap_qvl.QuoteCollateralV3``.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import ssl
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from attestation.dcap import MAX_COLLATERAL
from attestation.errors import CollateralError
from attestation.lru import BoundedCache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FMSPC = re.compile(r"^[0-9A-F]{12}$")
_AUTHORITIES = ("platform", "processor")


class CollateralSource(Protocol):
    """Where collateral comes from."""

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Collateral for a platform.

        Args:
            fmspc: 12 upper-case hex digits.
            ca: ``platform`` or ``processor``.

        Raises:
            CollateralError: There is none, or it cannot be fetched.
        """


class StaticCollateral:
    """Collateral that was handed over: stapled, bundled or made by the lab."""

    def __init__(self, collateral: bytes) -> None:
        self._collateral = collateral

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Return it, whatever the platform: if it is another's, verification says so."""
        _check_platform(fmspc, ca)
        return self._collateral


class FileCollateral:
    """One file, or a directory of ``<FMSPC>-<ca>.json``; read again whenever it changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: dict[Path, tuple[tuple[int, int, int], bytes]] = {}

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Read the platform's file.

        Raises:
            CollateralError: No such file, or it is too long.
        """
        _check_platform(fmspc, ca)
        return await asyncio.to_thread(self._load, f"{fmspc}-{ca}.json")

    def _load(self, name: str) -> bytes:
        path = self._path / name if self._path.is_dir() else self._path
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            known = self._read.get(path)
            if known and known[0] == stamp:
                return known[1]
            if status.st_size > MAX_COLLATERAL:
                raise CollateralError(f"{path} has {status.st_size} bytes, at most {MAX_COLLATERAL} are read")
            content = path.read_bytes()
        except OSError as error:
            raise CollateralError(
                f"no collateral in {path}: {error.strerror}", hint="fetch it, or name another source"
            ) from None
        if len(self._read) > 64:
            self._read.clear()
        self._read[path] = (stamp, content)
        return content


class PccsCollateral:
    """A provisioning certificate caching service, or Intel's own service, by HTTP (API version 4).

    Args:
        url: ``http`` or ``https`` address of the service; ``http`` is fine for a cache, since all of it is signed.
        timeout: Seconds for each of the four requests.
    """

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise CollateralError(f"collateral service {url!r}, expected an http or https address")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._prefix = parts.path.rstrip("/")
        self._timeout = timeout

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Fetch revocation lists, TCB info and QE identity.

        Raises:
            CollateralError: The service is out of reach, refuses, or sends what cannot be collateral.
        """
        _check_platform(fmspc, ca)
        return await asyncio.to_thread(self._fetch, fmspc, ca)

    def _fetch(self, fmspc: str, ca: str) -> bytes:
        pck_crl, pck_chain = self._request(
            f"/sgx/certification/v4/pckcrl?ca={ca}&encoding=der", "SGX-PCK-CRL-Issuer-Chain"
        )
        root_crl, _ = self._request("/sgx/certification/v4/rootcacrl", None)
        tcb, tcb_chain = self._request(f"/tdx/certification/v4/tcb?fmspc={fmspc}", "TCB-Info-Issuer-Chain")
        qe, qe_chain = self._request("/tdx/certification/v4/qe/identity", "SGX-Enclave-Identity-Issuer-Chain")
        tcb_info, tcb_signature = _signed_member(tcb, "tcbInfo")
        identity, identity_signature = _signed_member(qe, "enclaveIdentity")
        return json.dumps(
            {
                "pck_crl_issuer_chain": pck_chain,
                "root_ca_crl": _binary(root_crl).hex(),
                "pck_crl": _binary(pck_crl).hex(),
                "tcb_info_issuer_chain": tcb_chain,
                "tcb_info": tcb_info,
                "tcb_info_signature": tcb_signature,
                "qe_identity_issuer_chain": qe_chain,
                "qe_identity": identity,
                "qe_identity_signature": identity_signature,
            }
        ).encode()

    def _request(self, path: str, chain_header: str | None) -> tuple[bytes, str]:
        connection: http.client.HTTPConnection
        if self._secure:
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=context)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        try:
            connection.request("GET", self._prefix + path, headers={"Connection": "close"})
            response = connection.getresponse()
            body = response.read(MAX_COLLATERAL + 1)
            chain = response.getheader(chain_header, "") if chain_header else ""
        except (OSError, http.client.HTTPException) as error:
            raise CollateralError(
                f"collateral service {self._host} does not answer {path}: {type(error).__name__}",
                hint="check the network, or use collateral from a file",
            ) from None
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise CollateralError(
                f"collateral service {self._host} answers {path} with status {response.status}, expected 200",
                hint="404: the service does not know this platform"
                if response.status == http.HTTPStatus.NOT_FOUND
                else "",
            )
        if len(body) > MAX_COLLATERAL or (chain_header and not chain):
            raise CollateralError(
                f"collateral service {self._host} answers {path} without issuer chain or with too much"
            )
        return body, urllib.parse.unquote(chain)


class CachedCollateral:
    """Keeps what another source gave, for a while and for a number of platforms; failures are kept for a short while.

    A stranger's quote decides which platform is asked for, so one platform's slow answer never makes another's wait,
    and the number of questions under way is bounded.

    Args:
        source: Asked when nothing fresh is kept.
        max_age: Seconds after which the source is asked again; what is kept is used when that fails.
        retry: Seconds for which a failure is remembered.
        limit: Number of platforms that are kept.
        max_asked: Number of platforms that the source is asked for at a time.
        clock: Unix time.
    """

    def __init__(
        self,
        source: CollateralSource,
        *,
        max_age: float = 3600.0,
        retry: float = 30.0,
        limit: int = 256,
        max_asked: int = 16,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._max_age = max_age
        self._retry = retry
        self._max_asked = max_asked
        self._clock = clock
        self._kept: BoundedCache[tuple[float, bytes]] = BoundedCache(limit)
        self._failed: BoundedCache[CollateralError] = BoundedCache(limit)
        self._asked: dict[bytes, asyncio.Task[bytes]] = {}

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Return what is kept, or ask the source.

        Raises:
            CollateralError: The source has none, failed a moment ago, or is asked for too many platforms.
        """
        now = self._clock()
        key = f"{fmspc}-{ca}".encode()
        kept = self._kept.get(key)
        if kept is not None and now - kept[0] < self._max_age:
            return kept[1]
        try:
            return await asyncio.shield(self._ask(key, fmspc, ca, now))
        except CollateralError:
            if kept is not None:
                return kept[1]
            raise

    def _ask(self, key: bytes, fmspc: str, ca: str, now: float) -> asyncio.Task[bytes]:
        """Everybody who waits for a platform waits for the same question."""
        failure = self._failed.get(key, now)
        if failure is not None:
            raise CollateralError(failure.message, hint=failure.hint)
        asked = self._asked.get(key)
        if asked is None:
            if len(self._asked) >= self._max_asked:
                raise CollateralError(
                    f"collateral of {len(self._asked)} platforms is being fetched", hint="try again later"
                )
            asked = asyncio.get_running_loop().create_task(self._fetch(key, fmspc, ca))
            self._asked[key] = asked
        return asked

    async def _fetch(self, key: bytes, fmspc: str, ca: str) -> bytes:
        try:
            collateral = await self._source.get(fmspc, ca)
        except CollateralError as error:
            self._failed.put(key, error, self._clock() + self._retry)
            raise
        finally:
            del self._asked[key]
        self._kept.put(key, (self._clock(), collateral))
        return collateral


class FirstOf:
    """Asks one source after the other."""

    def __init__(self, sources: Sequence[CollateralSource]) -> None:
        self._sources = tuple(sources)

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Return the first answer.

        Raises:
            CollateralError: None of them has it; the message holds every reason.
        """
        reasons = []
        for source in self._sources:
            try:
                return await source.get(fmspc, ca)
            except CollateralError as error:
                reasons.append(error.message)
        raise CollateralError(f"no source has collateral for {fmspc}: {'; '.join(reasons) or 'none is configured'}")


def open_source(text: str | None) -> CollateralSource:
    """Make a source from its configured text: a URL, a file or directory, or nothing (stapled collateral only)."""
    if text is None:
        return FirstOf(())
    if text.startswith(("http://", "https://")):
        return CachedCollateral(PccsCollateral(text))
    return FileCollateral(Path(text))


def _check_platform(fmspc: str, ca: str) -> None:
    if not _FMSPC.match(fmspc) or ca not in _AUTHORITIES:
        raise CollateralError(
            f"platform {fmspc!r} of authority {ca!r}, expected 12 hex digits and one of {_AUTHORITIES}"
        )


def _signed_member(body: bytes, name: str) -> tuple[str, str]:
    """The signed member of an answer exactly as it stands in the text, since the signature is over that text."""
    try:
        text = body.decode()
        signature = json.loads(text)["signature"]
        bytes.fromhex(signature)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CollateralError(f"answer with {name} is not a signed JSON object") from None
    start = text.find(f'"{name}":')
    end = text.rfind(',"signature"')
    if start < 0 or end < start:
        raise CollateralError(f"answer holds no {name} followed by its signature")
    return text[start + len(name) + 3 : end].strip(), signature


def _binary(body: bytes) -> bytes:
    """DER, which some services send as hex text."""
    try:
        return bytes.fromhex(body.decode("ascii").strip())
    except ValueError:
        return body
