"""What the light engine counts: tokens as they are made, requests, and whether it gets on.

In: the model's own steps (:mod:`appliance.engine.light.generation` reports each from the inference thread). Out: totals
in Prometheus's text, independent of the usage that answers state; nothing about any single request is kept.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

PREFIX = "transformers"


@dataclass(slots=True)
class Run:
    """One request's generation, from when it is taken to when it has ended.

    Attributes:
        counted: False for the engine's own health checks.
        prompt_tokens: Tokens of the prompt; 0 until generation begins.
        generation_tokens: Tokens made so far.
    """

    counted: bool = True
    prompt_tokens: int = 0
    generation_tokens: int = 0
    _cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def cancelled(self) -> bool:
        """Whether its next step is to be its last."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Nobody waits for it any more; may be called from any thread, at any time."""
        self._cancelled.set()


class Meter:
    """Totals over all runs since the process started. Written by the inference thread, read by the server's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._prompt_tokens = 0
        self._generation_tokens = 0
        self._requests = 0
        self._running = 0
        self._steps = 0

    @property
    def steps(self) -> int:
        """Tokens made by all runs, health checks included: it grows while the model works."""
        return self._steps

    @property
    def running(self) -> int:
        """Runs that have begun and not ended: 0 or 1."""
        return self._running

    def began(self, run: Run, prompt_tokens: int) -> None:
        """The model starts on a prompt."""
        run.prompt_tokens = prompt_tokens
        with self._lock:
            self._running += 1
            self._prompt_tokens += prompt_tokens if run.counted else 0

    def made(self, run: Run, generation_tokens: int) -> None:
        """The model has made that many tokens of a run by now."""
        with self._lock:
            more = generation_tokens - run.generation_tokens
            run.generation_tokens = generation_tokens
            self._steps += more
            self._generation_tokens += more if run.counted else 0

    def ended(self, run: Run) -> None:
        """The model is done with a run, whatever ended it."""
        with self._lock:
            self._running -= 1
            self._requests += int(run.counted)

    def exposition(self) -> str:
        """The totals in Prometheus's text format."""
        with self._lock:
            values = (
                ("prompt_tokens_total", "counter", self._prompt_tokens),
                ("generation_tokens_total", "counter", self._generation_tokens),
                ("cached_tokens_total", "counter", 0),
                ("num_requests_total", "counter", self._requests),
                ("num_running_reqs", "gauge", self._running),
            )
        return "".join(f"# TYPE {PREFIX}:{name} {kind}\n{PREFIX}:{name} {value}\n" for name, kind, value in values)
