"""What an artefact will measure: files in, register values out. Pure; no network, no hardware."""

from measurements.errors import ArtefactError, ChrysalisError, EventLogError, MeasurementError

__all__ = ["ArtefactError", "ChrysalisError", "EventLogError", "MeasurementError"]
