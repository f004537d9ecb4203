"""What every TL object is: a frozen value that shows its shape, never its content."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    class _Dataclass(DataclassInstance):
        """For the type checker: every subclass is a dataclass."""

else:
    _Dataclass = object

ResultT_co = TypeVar("ResultT_co", covariant=True)


class TLObject(_Dataclass):
    """The common base of all messages.

    Attributes:
        TL_ID: The constructor id.
        TL_NAME: The constructor's name in the scheme.
    """

    __slots__ = ()

    TL_ID: ClassVar[int]
    TL_NAME: ClassVar[str]

    def __repr__(self) -> str:
        """Numbers as they are; of text, bytes and vectors only the length, because they may be content or keys."""
        shown = ", ".join(f"{field.name}={_shape(getattr(self, field.name))}" for field in fields(self))
        return f"{type(self).__name__}({shown})"


class TLFunction(TLObject, Generic[ResultT_co]):
    """A query; its parameter is the type of the answer."""

    __slots__ = ()


def _shape(value: object) -> str:
    match value:
        case bytes() | str():
            return f"<{len(value)} {'bytes' if isinstance(value, bytes) else 'characters'}>"
        case tuple():
            return f"<{len(value)} elements>"
        case _:
            return repr(value)
