"""The page: one file, nothing fetched, nothing run, readable by everybody; every check of the verdict is on it."""

from __future__ import annotations

import asyncio
import itertools
import re

import pytest
from attest_cli_support import HOSTILE, NONCE, Site
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree, html

from attestation.policy_file import load_policy
from attestation.report import Facts, text_lines, to_value, visible
from attestation.report_html import render
from attestation.verdict import Check, Verdict
from attestation.verifier import Verifier

ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "footer", "h1", "h2", "h3", "h4", "h5", "h6",
    "p", "ul", "li", "strong", "table", "caption", "thead", "tbody", "tr", "th", "td", "span", "code",
}  # fmt: skip
ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "class", "scope", "aria-hidden"}


@pytest.fixture(scope="module")
def verdict(site: Site) -> Verdict:
    verifier = Verifier(load_policy(site.policy("page", gpu={"count": {"min": 2}})))
    return asyncio.run(verifier.verify_bundle(site.bundle, nonce=NONCE, public_key=None))


def parsed(page: str) -> html.HtmlElement:
    found: html.HtmlElement = html.document_fromstring(page)
    return found


def only_plain(page: str) -> html.HtmlElement:
    """The page's elements, none of which can run, fetch or send anything."""
    tree = parsed(page)
    for element in tree.iter():
        assert isinstance(element.tag, str), "a comment or an instruction"
        assert element.tag in ALLOWED, element.tag
        assert set(element.attrib) <= ATTRIBUTES, dict(element.attrib)
    assert not re.search(r"url\(|@import|https?:|javascript:", page)
    return tree


def hostile_verdict(text: str, *, passed: bool = False) -> Verdict:
    check = Check(text, passed, text, text, text, why=text, group=f"{text}/{text}")
    return Verdict(passed, "none", text, bytes(32), bytes(32), (check,), 0.0, machine=b"m", judged_at=0.0)


def test_the_page_is_plain_and_whole(verdict: Verdict) -> None:
    page = render(verdict, Facts(source="evidence.cbor", digest=bytes(32)))
    tree = only_plain(page)
    text = tree.text_content()
    for check in verdict.checks:
        assert check.name in text
        assert check.seen[:100] in text
    assert "default-src 'none'" in page
    assert page.index("no assurance") < page.index("Refused"), "assurance comes first"
    failed = tree.xpath("//h2[text()='Why it was refused']/following-sibling::ul[1]/li")
    assert len(failed) == len(verdict.failed) == 1


def test_the_page_is_for_everybody(verdict: Verdict) -> None:
    page = render(verdict, Facts(source="evidence.cbor"))
    tree = parsed(page)
    assert tree.get("lang") == "en"
    assert len(tree.xpath("//main")) == len(tree.xpath("//h1")) == 1
    levels = [int(element.tag[1]) for element in tree.iter("h1", "h2", "h3", "h4", "h5", "h6")]
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels)), "no level is skipped"
    for table in tree.iter("table"):
        assert table.find("caption") is not None
        assert all(header.get("scope") in {"row", "col"} for header in table.iter("th"))
    results = {cell.text_content().strip() for cell in tree.xpath("//td[@class='state']")}
    assert {word.split()[-1] for word in results} == {"passed", "failed", "judged"}, "words, not colours alone"
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_it_is_well_formed_xml_too(verdict: Verdict) -> None:
    page = render(verdict, Facts(source="evidence.cbor"))
    closed = re.sub(r"<(meta [^>]*)>", r"<\1/>", page.removeprefix("<!DOCTYPE html>\n"))
    assert etree.fromstring(closed.encode()) is not None


@pytest.mark.parametrize("passed", [True, False])
def test_hostile_text_is_text_wherever_it_stands(passed: bool) -> None:
    page = render(hostile_verdict(HOSTILE, passed=passed), Facts(source=HOSTILE))
    only_plain(page)
    assert "&lt;script&gt;" in page


@given(st.text(max_size=40))
def test_any_text_stays_text(text: str) -> None:
    verdict = hostile_verdict(text)
    page = render(verdict, Facts(source=text))
    only_plain(page.replace("https:", "").replace("http:", "").replace("url(", "").replace("javascript:", ""))
    lines = text_lines(verdict, Facts(source=text), reasons=True)
    assert all(line.isprintable() for line in lines)
    assert to_value(verdict, Facts(source=text))["policy"] == text


def test_what_is_shown_is_harmless_and_bounded() -> None:
    assert visible("plain ünïcode ✓") == "plain ünïcode ✓"
    assert visible("\x1b[31m\u202e\n") == r"\x1b[31m\u202e\n"
    assert len(visible("x" * 10**6)) < 5000
