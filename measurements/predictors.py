"""The predictor of a machine's shape: one interface for every platform.

In: artefacts and a shape. Out: a prediction. A predictor is loaded when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from measurements.artefacts import Artefacts
    from measurements.prediction import Prediction
    from measurements.shape import Shape

MODULES: Final[Mapping[str, str]] = {
    "tdx": "measurements.tdx",
    "snp": "measurements.snp",
    "tpm": "measurements.tpm_machine",
    "gcp": "measurements.clouds",
    "azure": "measurements.clouds",
}
"""Each has a function ``predict(artefacts, shape)``."""


def predict(artefacts: Artefacts, shape: Shape) -> Prediction:
    """What a machine of a shape measures when it boots the artefacts.

    Raises:
        ArtefactError: A file is missing that every register needs, or is not what it should be.
        MeasurementError: The shape is none that can be predicted.
    """
    found: Prediction = import_module(MODULES[shape.platform]).predict(artefacts, shape)
    return found
