"""Facts of one benchmark run, and how fields of result files become them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from magicplan.errors import SpecError
from magicplan.fields import Span, Table, shown
from magicplan.serving.lengths import Lengths

STATABLE = ("concurrency", "requests_per_s", "prompts", "prompt", "output", "prefix_hit_rate")
"""Facts that a file may leave out and its reader then states; what is stated wins."""
POSITIVE = Annotated[float, Span(0, 1e15, above=True)]
FROM_ZERO = Annotated[float, Span(0, 1e15)]
ROUNDING = 0.02
"""Relative difference between two fields of a file that rounding may make."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObservedRun:
    """What a file says. `figures` are seconds by names such as "ttft_p99_seconds", and rates
    "requests_per_s", "output_tokens_per_s"."""

    path: str
    tool: str
    concurrency: float | None
    """Requests always in flight, or where there is a rate, the most that ever are."""
    requests_per_s: float | None
    """Rate of arrivals; None where the next request starts as soon as one ends."""
    prompts: float | None
    lengths: Lengths
    figures: Mapping[str, float]
    arrival_cv2: float = 1.0
    """Squared variation of the gaps between arrivals."""
    prefix_hit_rate: float = 0.0
    tokens_per_round: float | None = None
    """Accept length, where the server speculated and the tool saw it."""
    round_field: str = ""
    model: str = ""
    """The model's name in the file, "" where it has none."""
    model_field: str = ""
    engine: str = ""
    """The engine that served, by the name of its stack; "" where the file does not say."""
    backend: str = ""
    """The backend's name in the file: at times only the client's protocol."""
    failed: float = 0.0
    """Requests that ended in an error, of which no figure speaks."""
    doubts: tuple[str, ...] = ()
    """What else the file says that no prediction models, a sentence each."""


def loading(
    doc: Table, concurrency: Any, rate: Any, stated: dict[str, float], names: tuple[str, str]
) -> tuple[float | None, float | None]:
    """How many may be in flight, and the rate of arrivals; "inf" is no rate."""
    limit = stated.get("concurrency", concurrency)
    speed = stated.get("requests_per_s", rate)
    if speed == "inf" or (isinstance(speed, float) and math.isinf(speed)):
        speed = None
    told = replace(doc, path="", data={names[0]: limit, names[1]: speed})
    return (
        None if limit is None else positive(told, names[0]),
        None if speed is None else positive(told, names[1]),
    )


def needed(doc: Table, stated: dict[str, float], name: str, field: str) -> float:
    """A fact as stated, or as the file says it. Raises SpecError that tells how to state it."""
    if name in stated:
        return stated[name]
    if doc.data.get(field) is None:
        raise SpecError(doc.file, f"does not say {field}: add {example(name)}")
    return positive(doc, field)


def example(name: str) -> str:
    """The option that adds what a file leaves out."""
    return f"--stated {name}={8 if name == 'concurrency' else 1024}"


def named(stated: dict[str, float], name: str, field: str) -> str:
    """What errors call a fact: the option, where it was stated, else the file's field."""
    return f"--stated {name}" if name in stated else field


def positive(doc: Table, field: str) -> float:
    """A number above zero that a file must hold. Raises SpecError."""
    return float(doc.get(field, POSITIVE))


def from_zero(doc: Table, field: str) -> float:
    """A number of zero or more that a file must hold. Raises SpecError."""
    return float(doc.get(field, FROM_ZERO))


def numbers(doc: Table, field: str) -> list[float]:
    """A list of numbers of zero or more; empty where it is left out. Raises SpecError."""
    values = doc.data.get(field) or []
    if not isinstance(values, list):
        doc.fail(field, f"{shown(values)}: expected a list")
    return [
        from_zero(replace(doc, data={f"{field}[{i}]": v}), f"{field}[{i}]")
        for i, v in enumerate(values)
    ]


def agree(path: str, field: str, said: float, of: str, follows: float) -> None:
    """Two ways to the same number. Raises SpecError that names all fields where they differ."""
    if abs(said / follows - 1) > ROUNDING:
        raise SpecError(path, f"{field} is {said:g}, but {of} make it {follows:g}")


def refuse_overfull(path: str, run: ObservedRun, fields: tuple[str, str, str]) -> None:
    """Refuse a run that held more requests in flight than its concurrency.

    By Little's law rate times stay are in flight; a quarter more is what a tool's window cuts off.
    `fields` name the concurrency, the rate and the stay. Raises SpecError.
    """
    stay = run.figures.get("e2e_mean_seconds")
    if stay is None or run.concurrency is None:
        return
    held = run.figures.get("requests_per_s", 0.0) * stay
    if held > 1.25 * run.concurrency:
        raise SpecError(
            path,
            f"{fields[0]} is {run.concurrency:g}, but {fields[1]} times {fields[2]} make "
            f"{held:.3g} in flight: state what ran with --stated concurrency={math.ceil(held)}",
        )


def rate_doubts(run: ObservedRun, fields: tuple[str, str]) -> tuple[str, ...]:
    """Whether more requests ended than came, beyond chance. `fields` name both rates."""
    seen, came = run.figures.get("requests_per_s"), run.requests_per_s
    if seen is None or came is None or seen <= came * (1.1 + 4 / math.sqrt(run.prompts or 100)):
        return ()
    return (
        f"{fields[0]} {seen:g} is above {fields[1]} {came:g}: more requests ended than came, so "
        "check which run the file is of",
    )
