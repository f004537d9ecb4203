"""Errors of the engine room.

::

    ApplianceError
    └── EngineError
        ├── EnvironmentBuildError     the engine's Python environment cannot be built
        │   ├── DiskFullError
        │   ├── NetworkError
        │   └── HashMismatchError
        ├── ModelError                a model cannot be obtained, made or read
        ├── EngineSettingsError       an option that a worker never sets, or a value out of range
        ├── EngineStartError          the engine ended or did not get ready
        ├── SelfCheckError            the engine answers, but not sanely
        ├── EngineUnavailableError    no request can be sent now
        ├── EngineTimeoutError       the engine did not answer in time
        └── RouteRefusedError         a path that is not on the allow-list
"""

from __future__ import annotations

from appliance.errors import ApplianceError


class EngineError(ApplianceError):
    """Root of the errors of the model server, its environment and its models."""


class EnvironmentBuildError(EngineError):
    """The engine's Python environment cannot be built; the message names the step."""


class DiskFullError(EnvironmentBuildError):
    """The cache directory's disk has no room; the message says how much is free and how much is needed."""


class NetworkError(EnvironmentBuildError):
    """A package could not be fetched; what is fetched already is kept by pip's own cache."""


class HashMismatchError(EnvironmentBuildError):
    """A fetched file is not the one that is locked. Nothing of it was installed."""


class ModelError(EngineError):
    """A model cannot be obtained, made or read."""


class EngineSettingsError(EngineError):
    """The engine is asked for with an option that a worker never sets, or a value out of its range."""


class EngineStartError(EngineError):
    """The engine's process ended, or did not get ready in time."""


class SelfCheckError(EngineError):
    """The engine answers a known prompt, but not with what its model should say."""


class EngineUnavailableError(EngineError):
    """No request can be sent to the engine now: it is starting, draining or gone."""


class RouteRefusedError(EngineError):
    """A method and path that are not on the allow-list of what may reach the engine."""


class EngineTimeoutError(EngineError):
    """The engine did not answer, or did not finish, within the time that its request had."""
