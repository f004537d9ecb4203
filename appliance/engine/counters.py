"""The engine's own token counters, for checking the ledger's. Comes in: ``/metrics`` in Prometheus text.

SGLang prefixes its samples with ``sglang:``, the light engine with ``transformers:``; the names are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from appliance.engine.errors import EngineUnavailableError

MAX_METRICS_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """Tokens since the engine's process started; all labels added up. Health checks are not counted.

    Attributes:
        prompt_tokens: Tokens of prompts, cached ones included.
        generation_tokens: Tokens generated.
        cached_tokens: Tokens of prompts that came from the prefix cache.
        requests: Requests finished.
    """

    prompt_tokens: int = 0
    generation_tokens: int = 0
    cached_tokens: int = 0
    requests: int = 0


_SAMPLES = {
    f"{engine}:{sample}": name
    for engine in ("sglang", "transformers")
    for sample, name in (
        ("prompt_tokens_total", "prompt_tokens"),
        ("generation_tokens_total", "generation_tokens"),
        ("cached_tokens_total", "cached_tokens"),
        ("num_requests_total", "requests"),
    )
}


def parse_counters(text: str) -> EngineCounters:
    """Read an engine's metrics; a counter that has not been used yet is missing there and zero here.

    Raises:
        EngineUnavailableError: The text is not in Prometheus's format.
    """
    totals = dict.fromkeys(_SAMPLES.values(), 0)
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in _SAMPLES:
                    totals[_SAMPLES[sample.name]] += int(sample.value)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise EngineUnavailableError(f"the engine's metrics cannot be read: {type(error).__name__}") from error
    return EngineCounters(**totals)
