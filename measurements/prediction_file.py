"""A prediction as a plain value and back; and a log in the form of a prediction, so that any two can be compared.

In: a prediction, the value that a program printed, or an event log. Out: the other form. A value of any origin is
bounded, and every register that says it is extended has to be what its events lead to.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, get_args

from measurements.errors import MeasurementError
from measurements.eventlog import MAX_EVENTS
from measurements.explain_content import said
from measurements.prediction import SIZES, Input, PredictedEvent, Prediction, Register
from measurements.register_file import MAX_REGISTERS, NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from measurements.eventlog import EventLog
    from measurements.prediction import Bank

SCHEMA: Final = "chrysalis prediction 1"
MAX_BYTES: Final = 8 << 20
_MAX_TEXT: Final = 2000
_INPUTS: Final = frozenset(get_args(Input))


class PredictionFileError(MeasurementError):
    """A file does not hold a prediction."""


def to_value(prediction: Prediction) -> dict[str, Any]:
    """The prediction as maps, lists and texts; digests are lower-case hex."""
    return {
        "schema": SCHEMA,
        "platform": prediction.platform,
        "boot": prediction.boot,
        "shape": prediction.shape,
        "registers": {
            name: {
                "bank": register.bank,
                "value": register.value.hex(),
                "extended": register.extended,
                "events": [
                    {
                        "digest": event.digest.hex(),
                        "name": event.name,
                        "source": event.source,
                        "inputs": list(event.inputs),
                    }
                    for event in register.events
                ],
            }
            for name, register in prediction.registers.items()
        },
        "unpredicted": dict(prediction.unpredicted),
    }


def parse_prediction(data: bytes) -> Prediction:
    """Read what ``chrysalis measure predict --json`` printed.

    Raises:
        PredictionFileError: Too long, no JSON, another schema, or values that a prediction cannot have.
    """
    if len(data) > MAX_BYTES:
        raise PredictionFileError(f"a prediction of {len(data)} bytes, at most {MAX_BYTES} are read")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise PredictionFileError("a prediction that is not JSON") from None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise PredictionFileError(f"JSON that is not of schema {SCHEMA!r}")
    registers, why = value.get("registers"), value.get("unpredicted", {})
    if not isinstance(registers, dict) or not 0 < len(registers) <= MAX_REGISTERS:
        raise PredictionFileError(f"a prediction without 1 to {MAX_REGISTERS} registers")
    if not isinstance(why, dict) or len(why) > MAX_REGISTERS:
        raise PredictionFileError("a prediction whose unpredicted registers are not a map")
    return Prediction(
        _text(value.get("platform")),
        _text(value.get("boot")),
        _text(value.get("shape")),
        {name: _register(name, item) for name, item in registers.items()},
        {_text(name): _text(reason) for name, reason in why.items()},
    )


def of_log(log: EventLog, names: Mapping[int, str], values: Mapping[str, bytes] | None = None) -> Prediction:
    """What a log says that a machine measured.

    Args:
        log: With one bank, or with SHA-256 among others.
        names: Registers by their index in the log.
        values: What the machine reported, where that is known: it decides, and where a log leads elsewhere there are
            no events.

    Raises:
        EventLogError: The log has another bank.
    """
    bank: Bank = "sha384" if set(log.banks) == {"sha384"} else "sha256"
    replayed = log.replay(bank)
    registers: dict[str, Register] = {}
    for index, name in names.items():
        events = tuple(
            PredictedEvent(event.digests[bank], said(event, bank).text or event.type_name, "the machine's log")
            for event in log.events
            if event.extended and event.register == index
        )
        value = replayed.get(index, bytes(SIZES[bank]))
        if values is None or values.get(name) == value:
            registers[name] = Register(name, bank, value, events)
    for name, value in (values or {}).items():
        if name not in registers:
            registers[name] = Register(name, "sha256" if len(value) == 32 else "sha384", value, (), extended=False)
    return Prediction("log", "unknown", "the first", registers)


def of_values(values: Mapping[str, bytes]) -> Prediction:
    """Register values alone, without events."""
    registers = {
        name: Register(name, "sha256" if len(value) == 32 else "sha384", value, (), extended=False)
        for name, value in values.items()
    }
    return Prediction("registers", "unknown", "the first", registers)


def _register(name: str, item: object) -> Register:
    if not NAME.fullmatch(name) or not isinstance(item, dict):
        raise PredictionFileError(f"a prediction of register {name[:20]!r}")
    bank: Any
    bank, extended, events = item.get("bank"), item.get("extended"), item.get("events")
    if bank not in tuple(SIZES) or not isinstance(extended, bool):  # a tuple: what came need not be hashable
        raise PredictionFileError(f"register {name} without a bank, or not said whether it is extended")
    if not isinstance(events, list) or len(events) > MAX_EVENTS:
        raise PredictionFileError(f"register {name} with events that are no list of at most {MAX_EVENTS}")
    kept = tuple(_event(name, bank, event) for event in events)
    register = Register(name, bank, _digest(name, bank, item.get("value")), kept, extended)
    if extended and Register.replayed(name, bank, kept).value != register.value:
        raise PredictionFileError(f"register {name} whose events do not lead to its value")
    return register


def _event(name: str, bank: str, event: object) -> PredictedEvent:
    inputs = event.get("inputs", []) if isinstance(event, dict) else None
    if not isinstance(event, dict) or not isinstance(inputs, list) or len(inputs) > len(_INPUTS):
        raise PredictionFileError(f"register {name} with an event that is none")
    if not all(isinstance(item, str) and item in _INPUTS for item in inputs):
        raise PredictionFileError(f"register {name} with an event that something unknown moves")
    digest = _digest(name, bank, event.get("digest"))
    return PredictedEvent(digest, _text(event.get("name")), _text(event.get("source", "")), tuple(inputs))


def _digest(name: str, bank: str, text: object) -> bytes:
    try:
        digest = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        digest = b""
    if len(digest) != SIZES[bank]:
        raise PredictionFileError(f"register {name} with a digest that is not {SIZES[bank]} bytes in hex")
    return digest


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise PredictionFileError("a prediction with something else where a text is expected")
    if len(value) > _MAX_TEXT or not value.isprintable():
        raise PredictionFileError(f"a prediction with a text that is over {_MAX_TEXT} characters or not printable")
    return value
