"""What an artefact will measure: files in, register values out. Pure; no network, no hardware."""

from measurements.errors import ChrysalisError, MeasurementError

__all__ = ["ChrysalisError", "MeasurementError"]
