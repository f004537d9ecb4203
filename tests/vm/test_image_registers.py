"""The register sets that a manifest states of the built image; that boots measure them is for tests of shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.image.predicted import ReleaseFiles, predicted_registers
from measurements import shape_library
from measurements.predictors import predict

if TYPE_CHECKING:
    from pathlib import Path


def test_a_release_s_own_files_give_the_predictors_values(built_image: Path) -> None:
    """The built image: each set of its shapes is what the predictor says of these files."""
    files = ReleaseFiles(built_image)
    told: list[str] = []
    sets = predicted_registers(built_image, "engine-cpu", told.append)
    assert len(sets) + len(told) == 2 + sum(not shape_library.shape(name).gpus for name in shape_library.names())
    found = {(entry.platform, entry.boot, entry.shape): entry.values for entry in sets}
    shaped = {key: values for key, values in found.items() if key[2] != "any"}
    assert {key[0] for key in shaped} >= {"tdx", "tpm"}
    for (platform, boot, name), values in shaped.items():
        shape = shape_library.shape(name)
        assert (shape.platform, shape.boot) == (platform, boot)
        predicted = predict(files.artefacts(shape), shape).values
        assert values == {register: value.hex() for register, value in predicted.items()}
    by_any = found["tpm", "disk", "any"]
    for (platform, boot, _), values in shaped.items():
        if (platform, boot) == ("tpm", "disk"):
            assert values.items() >= by_any.items()
