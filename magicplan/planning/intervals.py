"""80 % intervals of everything that a plan predicts, from the things that make it uncertain.

A calibration says how far measured steps lay from predicted ones (10th and 90th percentile), a row
of acceptance how far off its rates may be. Each is put to either end and the simulation runs again
with the same requests. Two questions are asked there: what do the replicas of the plan do under the
same traffic (held), and how many replicas would the limits need (counted anew)? And the same plan
under other draws of the same traffic says what chance alone does. The causes are independent: their
distances to the value add in quadrature of logarithms, as in a speedup's interval. Lengths and
prices are taken as stated, and bytes follow from shapes: neither adds to an interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from magicplan.hardware_specs.calibration import Residual
from magicplan.hardware_specs.spread import combined_spread
from magicplan.planning.candidates import SizedChoice, step_ends
from magicplan.planning.request import METRICS, SLO_KEYS, STATISTICS, PlanRequest
from magicplan.planning.result import Candidate, Interval
from magicplan.planning.sensitivity import Needs, needs, row_with
from magicplan.planning.sizing import BRIEF, FULL, Kind, borne, trial_of
from magicplan.roofline.acceptance import Acceptance
from magicplan.serving.load import Load
from magicplan.serving.load_test import setup_of

Figures = Mapping[str, float]
SEEDS = 3
"""Further draws of the traffic that say what chance does to a percentile."""
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


def candidate_ends(load: Load, choices: Sequence[SizedChoice]) -> list[tuple[Figures, Figures]]:
    """Figures of every choice, replicas and traffic held, at the low and the high end of its step
    time."""
    return [_ends(load, choice, choice.sized.requests) for choice in choices]


def _ends(load: Load, choice: SizedChoice, requests: int) -> tuple[Figures, Figures]:
    kind = choice.sized.kind
    low, high = (_held(load, choice, kind.slower(end), requests) for end in step_ends(choice))
    return low, high


def with_ends(
    ask: PlanRequest, choice: SizedChoice, one: Candidate, ends: tuple[Figures, Figures]
) -> Candidate:
    """The candidate with the intervals that comparisons show; it bears as many times less as its
    steps are longer."""
    values = figures_of(one)
    kept = dict.fromkeys((*(f"{m}_p95_seconds" for m in METRICS), *ask.slo))
    found = {key: _combined(values[key], [ends[0][key]], [ends[1][key]]) for key in kept}
    faster, slower = step_ends(choice)
    bears = one.capacity_requests_per_s
    return replace(one, ends=found | {"capacity_requests_per_s": (bears / slower, bears / faster)})


def intervals(
    ask: PlanRequest, load: Load, choice: SizedChoice, best: Candidate
) -> tuple[Interval, ...]:
    """Intervals of the best candidate's figures."""
    anew = not any(key in SLO_KEYS for key in best.violations)
    money = replace(ask.money, max_gpus=None, budget_usd_per_hour=None, available=None)
    free = replace(ask, money=money)
    residual = _residual(choice)
    ends = tuple(
        {**_capacity(free, load, choice, kind), **_held(load, choice, kind, FULL)}
        for kind in map(choice.sized.kind.slower, (residual.low, residual.high))
    )
    slow = Cause(
        name="step time",
        words=f"step time: {residual.low:.3g} to {residual.high:.3g} of the prediction "
        f"({residual.basis})",
        held=(ends[0], ends[1]),
        needed=(
            _needs(free, load, choice, residual.low),
            _needs(free, load, choice, residual.high),
        ) if anew else None,
    )  # fmt: skip
    accepted = _accepted(free, load, choice) if best.gamma else None
    return tuple(_all(best, choice, load, slow, accepted, _chance(load, choice, best), anew=anew))


def _needs(ask: PlanRequest, load: Load, choice: SizedChoice, slower: float) -> Needs:
    """What slower steps need, counted with as many requests as the plan itself."""
    return needs(ask, load, choice, choice.row, slower=slower)


def _capacity(ask: PlanRequest, load: Load, choice: SizedChoice, kind: Kind) -> Figures:
    """What the plan's replicas bear if they are of another kind."""
    sized = replace(choice.sized, kind=kind, utilisation=choice.sized.trial.rate / kind.saturation)
    most = borne(sized, load, ask.engine.max_utilisation, 2 * BRIEF, least=0.05)
    peak = load.users if load.users is not None else load.requests_per_s
    rate = choice.sized.trial.rate * choice.sized.replicas
    return {"capacity_requests_per_s": most / peak * rate, "capacity_over_peak": most / peak}


def _chance(load: Load, choice: SizedChoice, best: Candidate) -> Cause:
    """Latencies under other draws of the same traffic: 1.28 standard deviations either way."""
    sized, values = choice.sized, figures_of(best)
    draws = [_held(load, choice, sized.kind, FULL, seed=seed) for seed in range(1, SEEDS + 1)]

    def end(name: str, sign: float) -> float:
        logs = [math.log(d[name] / values[name]) for d in draws if d[name] > 0 < values[name]]
        spread = float(np.sqrt(np.mean(np.square(logs)))) if logs else 0.0
        return values[name] * math.exp(sign * 1.2816 * spread)

    low, high = ({name: end(name, sign) for name in SLO_KEYS} for sign in (-1.0, 1.0))
    words = f"chance: {SEEDS} further draws of the same traffic, {FULL} requests or more each"
    return Cause(name="chance", words=words, held=(low, high), needed=None)


def _all(
    best: Candidate, choice: SizedChoice, load: Load, slow: Cause, accepted: Cause | None,
    chance: Cause, *, anew: bool,
) -> Iterator[Interval]:  # fmt: skip
    causes = [slow, accepted] if accepted else [slow]
    values = figures_of(best)
    for name in values:
        if name == "tokens_per_s" and load.users is None:
            continue  # what arrives is what leaves
        some = [*causes, chance] if name in SLO_KEYS else causes
        some = [c for c in some if name in c.held[0]]
        low, high = zip(*((c.held[0][name], c.held[1][name]) for c in some), strict=True)
        if name == "step_seconds":  # of the plan's mean batch, as long as simulated ones turn out
            share = values[name] / choice.sized.trial.outcome.step_seconds
            low, high = (tuple(end * share for end in ends) for ends in (low, high))
        found = _interval(name, values[name], low, high, HELD, some)
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


def _residual(choice: SizedChoice) -> Residual:
    """The residual of the step time at the planned load, whose ends enclose the prediction."""
    low, high = step_ends(choice)
    found = choice.row.resolved.machine.calibration.step_residual
    return replace(found, low=low, high=high)


def _held(
    load: Load, choice: SizedChoice, kind: Kind, requests: int, *, seed: int = 0
) -> dict[str, float]:
    """Figures of the plan's replicas, if they are of a kind, under the traffic of the plan."""
    sized = choice.sized
    trial = trial_of(kind, load, sized.replicas, sized.prefill_replicas, requests, seed)
    endless = not all(map(math.isfinite, trial.ratios({"e2e_mean_seconds": 1.0}).values()))
    return {
        **{
            key: math.inf if endless and key.startswith(("ttft", "e2e")) else trial.figure(key)
            for key in SLO_KEYS
        },
        "batch_per_replica": trial.outcome.decoding * kind.setup.stages,
        "utilisation": trial.rate / kind.saturation,
        "tokens_per_s": trial.rate * sized.replicas * float(load.lengths.output.mean()),
        "step_seconds": trial.outcome.step_seconds,
        "tokens_per_round": kind.tokens_per_round,
    }


def _accepted(ask: PlanRequest, load: Load, choice: SizedChoice) -> Cause | None:
    """Acceptance at either end, with the draft length or tree of the plan where replicas are held;
    None where its interval is not known."""
    accepted, kind = choice.row.spec.acceptance, choice.sized.kind
    if accepted is None or not accepted.uncertainty:
        return None

    def held(end: Acceptance) -> Figures:
        spec = replace(choice.row.spec, acceptance=end)
        setup = setup_of(choice.row.replica, choice.row.layout, spec, kind.gamma, kind.depth,
                         kind.setup.server.policy)  # fmt: skip
        return _held(load, choice, replace(kind, setup=setup), FULL)

    def needed(end: Acceptance) -> Needs:
        spec = replace(choice.row.spec, acceptance=end)
        return needs(ask, load, choice, row_with(load, choice.row, ask.slo, spec))

    low, high = accepted.interval()
    return Cause(
        name="acceptance",
        words=_acceptance(accepted),
        held=(held(low), held(high)),
        needed=(needed(low), needed(high)),
    )


def _needed(cause: Cause, name: str) -> tuple[float, float]:
    """What either end needs; where nothing would do, no end of it."""
    assert cause.needed is not None
    worst = 0.0 if name == "tokens_per_s_per_gpu" else math.inf
    low, high = (float(getattr(n, name)) if n.meets else worst for n in cause.needed)
    return low, high


def _counted(
    best: Candidate,
    choice: SizedChoice,
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


def _speculation(
    best: Candidate, choice: SizedChoice, accepted: Cause | None
) -> Iterator[Interval]:
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
