"""Latency limits as people write them: `ttft_p95=500ms`."""

from __future__ import annotations

from magicplan.errors import UsageError
from magicplan.units import parse_seconds

REASONABLE_SECONDS = {"ttft": 60.0, "tpot": 2.0, "itl": 2.0, "e2e": 1800.0}
"""The largest bare number taken for seconds, by metric. A minute to a first token, two seconds a
token and half an hour an answer are beyond what services promise: more than that is probably
meant in milliseconds."""


def parse_limit(text: str, *, option: str) -> tuple[str, float]:
    """A limit's field and its seconds: "ttft_p95=500ms" is ("ttft_p95_seconds", 0.5).

    A bare number is in seconds. Raises UsageError for what is no pair, BadQuantity for a number
    that can hardly be seconds.
    """
    name, found, value = text.partition("=")
    name = name.strip().lower().removesuffix("_seconds")
    if not found or not name:
        raise UsageError(f"{option} {text!r}: expected a name and a time, such as ttft_p95=500ms")
    reasonable = REASONABLE_SECONDS.get(name.partition("_")[0], float("inf"))
    seconds = parse_seconds(value, option=f"{option} {name}", reasonable=reasonable)
    return f"{name}_seconds", seconds
