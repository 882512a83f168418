"""80 % intervals of everything that a plan predicts, from the two things that make it uncertain.

A calibration says how far measured steps lay from predicted ones (10th and 90th percentile), a row
of acceptance how far off its rates may be. Each is put to either end and the plan's own model runs
again. Two questions are asked there: what do the replicas of the plan do under the same traffic
(held), and how many replicas would the limits need (counted anew)? The two causes are independent:
their distances to the value add in quadrature of logarithms, as in a speedup's interval. Traffic,
lengths and prices are taken as stated, and bytes follow from shapes: neither adds to an interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from magicplan.hardware_specs.calibration import Residual
from magicplan.hardware_specs.spread import combined_spread
from magicplan.planning.candidates import SPLIT, Choice, step_ends
from magicplan.planning.request import METRICS, SLO_KEYS, STATISTICS, PlanRequest
from magicplan.planning.result import Candidate, Interval
from magicplan.planning.search import Fleet
from magicplan.planning.sensitivity import Kind, Needs, kind_of, needs
from magicplan.planning.sizing import size_mixed, size_split
from magicplan.roofline.acceptance import Acceptance
from magicplan.roofline.deployment import Array
from magicplan.serving.load import Load
from magicplan.serving.replica import Speculation
from magicplan.serving.steady_state import Steady, at_speeds

Figures = Mapping[str, float]
NEEDED = (
    "gpus", "cost_usd_per_hour", "usd_per_million_tokens", "tokens_per_s_per_gpu",
    "energy_joules_per_token",
)  # fmt: skip
"""What counting replicas anew decides."""
TOGETHER = "distances added in quadrature of logarithms"
HELD = "replicas and traffic held"
ANEW = "replicas counted anew"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cause:
    """One thing put to its low and its high end."""

    name: str
    words: str
    held: tuple[Figures, Figures]
    needed: tuple[Needs, Needs] | None
    """What either end needs; None where no number of replicas meets the limits even as planned."""


def candidate_ends(
    ask: PlanRequest, load: Load, found: Fleet, choices: Sequence[Choice]
) -> list[tuple[Figures, Figures]]:
    """Figures of every choice, replicas and traffic held, at the low and the high end of its step
    time; all choices of one layout at once."""
    ends: dict[int, tuple[Figures, Figures]] = {}
    for layout in dict.fromkeys(choice.layout for choice in choices):
        numbers = [n for n, choice in enumerate(choices) if choice.layout == layout]
        some = [choices[n] for n in numbers]
        rows = np.asarray([choice.index for choice in some])
        slower = np.asarray([(r.low, r.high) for r in map(_residual, some)]).T
        states = at_speeds(_rows(found.states, rows), slower)
        pools = at_speeds(_rows(found.pools, rows), slower) if layout == SPLIT else None
        figures = _held(ask, load, states, pools, _counts([*some, *some]))
        both = ((_at(figures, i), _at(figures, i + len(some))) for i in range(len(some)))
        ends |= dict(zip(numbers, both, strict=True))
    return [ends[number] for number in range(len(choices))]


def with_ends(ask: PlanRequest, one: Candidate, ends: tuple[Figures, Figures]) -> Candidate:
    """The candidate with the intervals that comparisons show."""
    values = figures_of(one)
    kept = dict.fromkeys((*(f"{m}_p95_seconds" for m in METRICS), *ask.slo))
    return replace(
        one,
        ends={
            key: _combined(values[key], [ends[0][key]], [ends[1][key]])
            for key in (*kept, "capacity_requests_per_s")
        },
    )


def intervals(
    ask: PlanRequest, load: Load, choice: Choice, best: Candidate, ends: tuple[Figures, Figures]
) -> tuple[Interval, ...]:
    """Intervals of the best candidate's figures; `ends` are those at the ends of step time."""
    anew = not any(key in SLO_KEYS for key in best.violations)
    free = replace(
        ask,
        money=replace(ask.money, max_gpus=None, budget_usd_per_hour=None, available=None),
    )
    residual, kind = _residual(choice), kind_of(load, choice)
    factors = (residual.low, residual.high)
    sized = needs(free, load, kind, slower=factors)
    slow = Cause(
        name="step time",
        words=f"step time: {residual.low:.3g} to {residual.high:.3g} of the prediction "
        f"({residual.basis})",
        held=ends,
        needed=(sized[0], sized[1]) if anew else None,
    )
    accepted = _accepted(free, load, choice, best) if best.gamma else None
    return tuple(_all(best, choice, load, slow, accepted, anew=anew))


def _all(
    best: Candidate,
    choice: Choice,
    load: Load,
    slow: Cause,
    accepted: Cause | None,
    *,
    anew: bool,
) -> Iterator[Interval]:
    causes = [slow, accepted] if accepted else [slow]
    values = figures_of(best)
    for name in values:
        if name == "tokens_per_s" and load.users is None:
            continue  # what arrives is what leaves
        low, high = zip(*((c.held[0][name], c.held[1][name]) for c in causes), strict=True)
        found = _interval(name, values[name], low, high, HELD, causes)
        if name == "capacity_over_peak":
            found = replace(found, figure="headroom", low=found.low - 1, value=found.value - 1,
                            high=found.high - 1)  # fmt: skip
        yield found
    for name in NEEDED if anew else ():
        low, high = zip(*(_needed(c, name) for c in causes), strict=True)
        yield from _counted(best, choice, name, low, high, causes)
    residual, step = _residual(choice), best.step
    plain = (step.linear_seconds + step.attention_seconds + step.collective_seconds
             + step.elementwise_seconds + step.host_seconds)  # fmt: skip
    yield _interval(
        "decode_step_seconds", plain, [plain * residual.low], [plain * residual.high],
        "batch and context held", [slow],
    )  # fmt: skip
    if best.gamma:
        yield from _speculation(best, choice, accepted)


def figures_of(c: Candidate) -> Figures:
    """What `_held` finds, of the plan itself."""
    latencies = {
        f"{metric}_{statistic}_seconds": getattr(getattr(c.latency, metric), f"{statistic}_seconds")
        for metric in METRICS
        for statistic in STATISTICS
    }
    names = ("batch_per_replica", "capacity_requests_per_s", "utilisation", "tokens_per_s")
    others = {name: float(getattr(c, name)) for name in names}
    return latencies | others | {
        "step_seconds": c.step.step_seconds, "capacity_over_peak": 1 + c.headroom,
    }  # fmt: skip


def _residual(choice: Choice) -> Residual:
    """The residual of the step time at the planned load, whose ends enclose the prediction."""
    low, high = step_ends(choice)
    found = choice.row.resolved.machine.calibration.step_residual
    return replace(found, low=low, high=high)


def _rows(states: Steady, rows: NDArray[np.int64]) -> Steady:
    return Steady(**{f.name: getattr(states, f.name)[rows] for f in fields(Steady)})


def _counts(choices: Sequence[Choice]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Replicas that decode, and those that only prefill."""
    decode = [int(c.sized.replicas[c.index]) for c in choices]
    prefill = [int(c.sized.prefill_replicas[c.index]) for c in choices]
    return np.asarray(decode, dtype=np.int64), np.asarray(prefill, dtype=np.int64)


def _held(
    ask: PlanRequest,
    load: Load,
    states: Steady,
    pools: Steady | None,
    counts: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> dict[str, Array]:
    """Figures of given numbers of replicas under the traffic of the plan."""
    if pools is None:
        found = size_mixed(load, states, ask.slo, ask.engine.max_utilisation, held=counts[0])
    else:
        found = size_split(load, states, pools, ask.slo, ask.engine.max_utilisation, held=counts)
    state, peak = found.state, load.requests_per_s if load.users is None else load.users
    rate = state.rate[:, 0] * counts[0]
    over = found.capacity / peak
    return {
        **found.figures,
        "batch_per_replica": state.in_flight[:, 0],
        "capacity_requests_per_s": over * (peak if load.users is None else rate),
        "utilisation": found.utilisation,
        "tokens_per_s": rate * float(load.lengths.output.mean()),
        "step_seconds": state.step_seconds[:, 0],
        "tokens_per_round": state.tokens_per_round[:, 0],
        "capacity_over_peak": over,
    }


def _at(figures: Mapping[str, Array], row: int) -> Figures:
    return {key: float(values[row]) for key, values in figures.items()}


def _accepted(ask: PlanRequest, load: Load, choice: Choice, best: Candidate) -> Cause | None:
    """Acceptance at either end, with the draft length or tree of the plan where replicas are held;
    None where its interval is not known."""
    accepted = choice.row.spec.acceptance
    if accepted is None or not accepted.uncertainty:
        return None
    counts, spec = _counts([choice]), choice.row.spec
    levels = best.tree.depth - 1 if best.tree else None
    fixed = replace(spec, gamma=best.gamma, depth=levels)

    def kind(end: Acceptance, spec: Speculation) -> Kind:
        return kind_of(load, choice, replace(spec, acceptance=end))

    def held(end: Acceptance) -> Figures:
        found = kind(end, fixed)
        if not (found.states.gamma == best.gamma).all():  # there, no tree of that size is so deep
            found = kind(end, spec)
        return _at(_held(ask, load, found.states, found.pools, counts), 0)

    low, high = accepted.interval()
    return Cause(
        name="acceptance",
        words=_acceptance(accepted),
        held=(held(low), held(high)),
        needed=(needs(ask, load, kind(low, spec))[0], needs(ask, load, kind(high, spec))[0]),
    )


def _needed(cause: Cause, name: str) -> tuple[float, float]:
    """What either end needs; where nothing would do, no end of it."""
    assert cause.needed is not None
    worst = 0.0 if name == "tokens_per_s_per_gpu" else math.inf
    low, high = (float(getattr(n, name)) if n.meets else worst for n in cause.needed)
    return low, high


def _counted(
    best: Candidate,
    choice: Choice,
    name: str,
    low: Sequence[float],
    high: Sequence[float],
    causes: Sequence[Cause],
) -> Iterator[Interval]:
    """GPUs come in whole replicas, and cost goes with them; nothing where there is no price."""
    value = float(getattr(best, name))
    if math.isnan(value):
        return
    found = _interval(name, value, low, high, ANEW, causes)
    if name in ("gpus", "cost_usd_per_hour"):
        one = choice.row.gpus_per_replica * (1.0 if name == "gpus" else value / best.gpus)
        least = max(math.floor(found.low / one + 1e-9), 1) * one
        most = math.inf if math.isinf(found.high) else math.ceil(found.high / one - 1e-9) * one
        found = replace(found, low=least, high=most)
    yield found


def _speculation(best: Candidate, choice: Choice, accepted: Cause | None) -> Iterator[Interval]:
    """Tokens of a round at the ends of acceptance; the speedup, at the same batch and draft length,
    also at those of its own timing."""
    assert choice.row.spec.acceptance is not None
    words, tokens = _acceptance(choice.row.spec.acceptance), best.tokens_per_round
    ends = [held["tokens_per_round"] for held in accepted.held] if accepted else [tokens, tokens]
    timing = choice.row.resolved.machine.calibration.speedup_residual
    gain, basis = best.speedup, "draft length, batch and context held"
    low, high = _combined(tokens, ends[:1], ends[1:])
    yield Interval(figure="tokens_per_round", low=low, value=tokens, high=high,
                   basis=f"acceptance at either end; {basis}", causes=(words,))  # fmt: skip
    low, high = _combined(
        gain, [gain * ends[0] / tokens, gain * timing.low],
        [gain * ends[1] / tokens, gain * timing.high],
    )  # fmt: skip
    yield Interval(
        figure="speedup", low=low, value=gain, high=high,
        basis=f"acceptance and speedup at either end, {TOGETHER}; {basis}",
        causes=(words, f"speedup: {timing.low:.3g} to {timing.high:.3g} ({timing.basis})"),
    )  # fmt: skip


def _acceptance(accepted: Acceptance) -> str:
    own = "" if accepted.uncertainty else "as stated, without an interval: "
    return f"acceptance: {own}{accepted.origin}"


def _interval(
    name: str,
    value: float,
    low: Sequence[float],
    high: Sequence[float],
    method: str,
    causes: Sequence[Cause],
) -> Interval:
    least, most = _combined(value, low, high)
    names = " and ".join(cause.name for cause in causes)
    together = f", {TOGETHER}" if len(causes) > 1 else ""
    return Interval(
        figure=name, low=least, value=value, high=most,
        basis=f"{names} at either end{together}; {method}",
        causes=tuple(cause.words for cause in causes),
    )  # fmt: skip


def _combined(value: float, one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Both ends around the value, from both ends of every cause, whichever of them is lower.

    A value of 0 (gaps between tokens of one round) has no logarithm: distances add as they are.
    """
    if not math.isfinite(value):  # a queue that has no end as planned
        return min(*one, *other, value), value
    pairs = [(min(a, b, value), max(a, b, value)) for a, b in zip(one, other, strict=True)]
    lows, highs = zip(*pairs, strict=True)
    if value == 0:
        return 0.0, math.hypot(*highs)
    down, up = (combined_spread(*(end / value for end in ends)) for ends in (lows, highs))
    return value / float(down), value * float(up)
