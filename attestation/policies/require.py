"""What has to hold together, said in one line: ``registry and (signature or images)``.

In: text, and the names that it may use. Out: a small tree that becomes :class:`~attestation.rules.AllOf` and
:class:`~attestation.rules.AnyOf` over the rules of those names. ``and`` binds tighter than ``or``; parentheses group.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from attestation.errors import PolicyError
from attestation.rules import AllOf, AnyOf

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from attestation.rules import Rule

MAX_TEXT = 1000
MAX_WORDS = 100
_WORD = re.compile(r"\s*([A-Za-z][A-Za-z0-9_-]*|[()])")


@dataclass(frozen=True, slots=True)
class Name:
    """One source of trust, or one demand, by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Group:
    """Several of them, of which all or any have to hold."""

    kind: Literal["and", "or"]
    parts: tuple[Expression, ...]


Expression: TypeAlias = Name | Group


def parse(text: str, names: Collection[str]) -> Expression:
    """Read an expression.

    Args:
        text: Names, ``and``, ``or`` and parentheses.
        names: The names that may be used.

    Raises:
        PolicyError: Another form, too long, or a name that is not known.
    """
    words = _words(text)
    parser = _Parser(text, words, frozenset(names))
    found = parser.alternatives()
    if parser.rest:
        raise PolicyError(f"require {text!r} goes on after its end with {parser.rest[0]!r}")
    return found


def used(expression: Expression) -> Iterator[str]:
    """The names in an expression, in order, each as often as it stands there."""
    if isinstance(expression, Name):
        yield expression.name
    else:
        for part in expression.parts:
            yield from used(part)


def explain(expression: Expression, words: Mapping[str, str]) -> str:
    """The expression for a person: each name by its words."""
    if isinstance(expression, Name):
        return words[expression.name]
    parts = [explain(part, words) for part in expression.parts]
    return f" {expression.kind} ".join(
        f"({text})" if isinstance(part, Group) else text for part, text in zip(expression.parts, parts, strict=True)
    )


def compose(expression: Expression, rules: Mapping[str, Rule]) -> Rule:
    """The rule that an expression makes of the rules of its names."""
    if isinstance(expression, Name):
        return rules[expression.name]
    parts = tuple(compose(part, rules) for part in expression.parts)
    return AllOf(parts) if expression.kind == "and" else AnyOf(parts)


def _words(text: str) -> list[str]:
    if len(text) > MAX_TEXT:
        raise PolicyError(f"require of {len(text)} characters, at most {MAX_TEXT}")
    words, position = [], 0
    stripped = text.rstrip()
    while position < len(stripped):
        match = _WORD.match(stripped, position)
        if match is None:
            seen = stripped[position:].lstrip()[:20]
            raise PolicyError(f"require {text!r} has {seen!r}, expected a name, 'and', 'or' or a parenthesis")
        words.append(match[1])
        position = match.end()
    if len(words) > MAX_WORDS:
        raise PolicyError(f"require of {len(words)} words, at most {MAX_WORDS}")
    return words


class _Parser:
    """Recursive descent; depth is bounded by the number of words."""

    def __init__(self, text: str, words: list[str], names: frozenset[str]) -> None:
        self._text = text
        self._names = names
        self.rest = words

    def alternatives(self) -> Expression:
        parts = [self._together()]
        while self._takes("or"):
            parts.append(self._together())
        return parts[0] if len(parts) == 1 else Group("or", tuple(parts))

    def _together(self) -> Expression:
        parts = [self._one()]
        while self._takes("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else Group("and", tuple(parts))

    def _one(self) -> Expression:
        if self._takes("("):
            inside = self.alternatives()
            if not self._takes(")"):
                raise PolicyError(f"require {self._text!r} lacks a closing parenthesis")
            return inside
        if not self.rest:
            raise PolicyError(f"require {self._text!r} ends where a name belongs")
        name = self.rest.pop(0)
        if name not in self._names:
            raise PolicyError(
                f"require {self._text!r} names {name!r}", hint=f"known here: {', '.join(sorted(self._names)) or 'none'}"
            )
        return Name(name)

    def _takes(self, word: str) -> bool:
        if self.rest and self.rest[0] == word:
            self.rest.pop(0)
            return True
        return False
