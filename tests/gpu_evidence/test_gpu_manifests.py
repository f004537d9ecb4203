"""Reference manifests: genuine ones in their time, the vendor's own failures, and XML that means harm."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from gpu_evidence_support import DRIVER_RIM, TOOLS_PROJECT, VBIOS_RIM
from hypothesis import given
from hypothesis import strategies as st

from appliance.lab.gpu_world import SyntheticGpus
from attestation.errors import EvidenceError
from attestation.gpu.rim import golden_of, read_rim
from attestation.gpu.rim_xml import NS_SHA384, NS_SWID, certificates_of, parse_tag
from attestation.gpu.roots import NVIDIA_ROOTS
from attestation.staple import MAX_RIM

if TYPE_CHECKING:
    from conftest import SampleTable
    from gpu_evidence_support import Samples

DIGEST = "ab" * 48


def tag(resources: str, *, payload: str = "Payload", name: str = "SoftwareIdentity", before: str = "") -> bytes:
    return (
        f'{before}<{name} xmlns="{NS_SWID}" xmlns:h="{NS_SHA384}"><Meta colloquialVersion="1" product="GH100"/>'
        f"<{payload}>{resources}</{payload}></{name}>"
    ).encode()


def resource(index: object = 0, *, active: str = "True", alternatives: object = 1, values: str | None = None) -> str:
    hashes = f'h:Hash0="{DIGEST}"' if values is None else values
    said = f'index="{index}" active="{active}" alternatives="{alternatives}"'
    return f'<Resource type="Measurement" {said} {hashes} size="48"/>'


@dataclass(frozen=True)
class Genuine:
    """A genuine manifest: what is in it and when its signer's certificate ends."""

    name: str
    version: str
    indices: tuple[int, ...]
    ends: float


GENUINE = (
    Genuine(DRIVER_RIM, "550.90.07", (7, *range(21, 41)), datetime(2026, 6, 1, 2, 8, 29, tzinfo=UTC).timestamp()),
    Genuine(
        VBIOS_RIM,
        "96.00.9F.00.01",
        (*range(7), *range(8, 13)),
        datetime(2026, 2, 22, 23, 17, 58, tzinfo=UTC).timestamp(),
    ),
)


@pytest.mark.parametrize("genuine", GENUINE, ids=["driver", "vbios"])
def test_a_genuine_manifest_in_its_time(genuine: Genuine, samples: Samples, sample_table: SampleTable) -> None:
    """NV_GPU_DRIVER_….xml and NV_GPU_VBIOS_….xml (google/go-nvattest-tools)."""
    data = samples.rims()[genuine.name]
    manifest = read_rim(data, NVIDIA_ROOTS.rim, genuine.ends - 1)
    seen = f"{manifest.product} {manifest.version}, signed by NVIDIA"
    sample_table(genuine.name, TOOLS_PROJECT, f"GH100 {genuine.version}, signed by NVIDIA", seen)
    assert (manifest.version, manifest.product) == (genuine.version, "GH100")
    assert tuple(sorted(manifest.golden)) == genuine.indices
    assert manifest.path.expires_at == genuine.ends
    for moment in (genuine.ends + 1, datetime(2024, 1, 1, tzinfo=UTC).timestamp()):
        with pytest.raises(EvidenceError, match=r"HCC RIM L4 Signer.* is valid from"):
            read_rim(data, NVIDIA_ROOTS.rim, moment)
    with pytest.raises(EvidenceError, match="no trusted root"):
        read_rim(data, NVIDIA_ROOTS.device, genuine.ends - 1)


def test_one_changed_value_breaks_the_signature(samples: Samples) -> None:
    data = samples.rims()[VBIOS_RIM]
    now = datetime(2025, 10, 24, tzinfo=UTC).timestamp()
    read_rim(data, NVIDIA_ROOTS.rim, now)
    with pytest.raises(EvidenceError, match="signature does not hold"):
        read_rim(data.replace(b"8048dfd1", b"8048dfd2"), NVIDIA_ROOTS.rim, now)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("duplicate_index", "index 0 twice"),
        ("empty_payload", "without an active measurement"),
        ("hash_empty_namespace", "has 0 SHA-384 values, announced are 1"),
        ("invalid_alternatives", "alternatives 'xyz'"),
        ("missing_hash", "has 0 SHA-384 values, announced are 1"),
        ("no_payload", "0 elements Payload"),
        ("missing_x509_certificate", "expected a SWID tag"),
    ],
)
def test_the_vendors_own_failures_are_refused(
    name: str, said: str, samples: Samples, sample_table: SampleTable
) -> None:
    """failure_*.xml (google/go-nvattest-tools): unsigned, so also refused for that, and each for its own reason."""
    data = samples.read(f"rim/failure_{name}.xml")
    with pytest.raises(EvidenceError) as caught:
        golden_of(parse_tag(data))
    seen = "refused" if said in caught.value.message else caught.value.message
    sample_table(f"failure_{name}.xml ({said})", TOOLS_PROJECT, "refused", seen)
    assert said in caught.value.message
    with pytest.raises(EvidenceError, match=r"0 signatures|expected a SWID tag"):
        read_rim(data, NVIDIA_ROOTS.rim, 1_750_000_000.0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (tag(resource(253)), "index '253'"),
        (tag(resource(-1)), "index '-1'"),
        (tag(resource("0x1")), "index '0x1'"),
        (tag(resource("٣")), "index"),
        (tag(resource(active="true")), "neither active nor inactive"),
        (tag(resource(alternatives=0)), "alternatives '0'"),
        (tag(resource(alternatives=65)), "alternatives '65'"),
        (tag(resource(alternatives=2)), "has 1 SHA-384 values, announced are 2"),
        (tag(resource(values=f'h:Hash0="{DIGEST}" h:Hash1="{DIGEST}"')), "has 2 SHA-384 values, announced are 1"),
        (tag(resource(values=f'h:Hash1="{DIGEST}"')), "has 1 SHA-384 values"),
        (tag(resource(values='h:Hash0="zz"')), "not hexadecimal"),
        (tag(resource(values='h:Hash0="abcd"')), "not 48 bytes"),
        (tag(resource(active="False")), "without an active measurement"),
        (tag("<File/>"), "expected measurements alone"),
        (tag(resource(), payload="Evidence"), "0 elements Payload"),
        (tag(resource(1) + resource(1, active="False")), "index 1 twice"),
    ],
)
def test_what_a_payload_says_wrong_is_said(data: bytes, said: str) -> None:
    assert golden_of(parse_tag(tag(resource()))) == {0: (bytes.fromhex(DIGEST),)}
    with pytest.raises(EvidenceError, match=said):
        golden_of(parse_tag(data))


BOMB = '<!DOCTYPE t [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>'


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "of 0 bytes"),
        (b" " * (MAX_RIM + 1), "expected 1 to"),
        (tag(resource(), before=BOMB), "has a document type"),
        (tag(resource(), before='<!DOCTYPE t SYSTEM "file:///etc/passwd">'), "has a document type"),
        (tag(resource(), before="<!doctype t>"), "has a document type"),
        (gzip.compress(tag(resource())), "is compressed"),
        (tag(resource()).decode().encode("utf-16"), "is compressed, not UTF-8"),
        (tag(resource(), before='<?xml version="1.0" encoding="UTF-7"?>').replace(b"GH100", b"GH+2AHf/-"), ""),
        (b"<a>" * 300 + b"</a>" * 300, "is not XML"),
        (tag("<x/>" * 5000), "over 4096 elements"),
        (tag("<x {}/>".format(" ".join(f'a{number}=""' for number in range(129)))), "over 128 attributes"),
        (tag(" ".join(f'<x xmlns:n{number}="u"/>' for number in range(64))), "over 64 namespaces"),
        (tag(resource(), name="Other"), "expected a SWID tag"),
        (b"<html>", "is not XML"),
        (b'{"rim": ""}', "is compressed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_xml_that_means_harm_is_refused(data: bytes, said: str) -> None:
    if not said:
        assert b"+2AHf" in parse_tag(data).find(f"{{{NS_SWID}}}Meta").get("product").encode()  # type: ignore[union-attr]  # read as UTF-8, whatever it calls itself
        return
    with pytest.raises(EvidenceError, match=said):
        parse_tag(data)


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for text in (data, b"<" + data, tag("").replace(b"</Payload>", data + b"</Payload>")):
        try:
            read_rim(text, NVIDIA_ROOTS.rim, 1_750_000_000.0)
        except EvidenceError:
            continue
        raise AssertionError


@given(place=st.integers(0, 1 << 20), value=st.integers(0, 255))
def test_another_byte_anywhere_is_refused_or_changes_nothing(place: int, value: int) -> None:
    """Of a manifest that verifies: what is read is what was signed, or the declared error."""
    good = WORLD_RIM
    data = bytearray(good)
    data[place % len(data)] = value
    try:
        assert read_rim(bytes(data), WORLD.roots().rim, NOW).golden == SIGNED
    except EvidenceError:
        return


NOW = datetime(2026, 5, 1, tzinfo=UTC).timestamp()
WORLD = SyntheticGpus(1, clock=lambda: NOW)
WORLD_RIM = WORLD.rims()[VBIOS_RIM]
SIGNED = read_rim(WORLD_RIM, WORLD.roots().rim, NOW).golden


def test_a_second_signature_is_refused() -> None:
    assert len(certificates_of(parse_tag(WORLD_RIM))) >= 3
    start, end = WORLD_RIM.index(b"<ds:Signature "), WORLD_RIM.index(b"</SoftwareIdentity>")
    twice = WORLD_RIM[:end] + WORLD_RIM[start:end] + WORLD_RIM[end:]
    with pytest.raises(EvidenceError, match="2 signatures"):
        certificates_of(parse_tag(twice))
