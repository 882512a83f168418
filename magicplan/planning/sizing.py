"""How many replicas: the load that each configuration bears within every limit, found at once.

Latencies rise with the batch, so the largest batch that meets the limits is found by bisection
on the grid, for all configurations together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from magicplan.planning.request import SLO_KEYS
from magicplan.roofline.deployment import Array
from magicplan.serving.latency import Entry, Sampled, population, sample
from magicplan.serving.load import Load
from magicplan.serving.steady_state import (
    SAFE_MARGIN,
    UTILISATIONS,
    Steady,
    edge_of,
    last_feasible,
    reached,
    slope_at,
    where_reached,
    without_prefill,
)

Whole = NDArray[np.int64]
Limits = Mapping[str, float]
HAIR = 1.05
"""Times the best reachable figure that count as good as it, where no load meets a limit."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sized:
    """Every configuration at the peak, [config]. Replicas are 0 where it cannot run at all."""

    state: Steady
    """One entry on the batch axis."""
    replicas: Whole
    prefill_replicas: Whole
    batch: Array
    figures: Mapping[str, Array]
    """By `SLO_KEYS`."""
    itl_cv: Array
    capacity: Array
    """Requests a second (or users) that the sized fleet bears within every limit."""
    utilisation: Array
    violations: Mapping[str, Array]
    """Figure over limit, by limit."""
    most: Array
    """Largest batch that the replica may run and holds safely."""
    binding: tuple[str, ...]

    @property
    def runs(self) -> NDArray[np.bool_]:
        """Whether a configuration can serve this load at all."""
        return np.asarray(self.replicas > 0)

    @property
    def worst(self) -> Array:
        """Largest violation, at most 1 where all limits hold; infinite where it cannot run."""
        found = np.ones(self.replicas.shape)
        for ratio in self.violations.values():
            found = np.maximum(found, ratio)
        return np.where(self.runs, found, np.inf)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Borne:
    """Where on the batch axis each configuration stands at most, and how it is loaded there."""

    states: Steady
    ladder: Array
    last: Whole
    entry: Entry
    at: Array
    by_latency: NDArray[np.bool_]
    """Whether a latency limit, rather than utilisation, is what stops it."""


def size_mixed(
    load: Load,
    states: Steady,
    limits: Limits,
    max_utilisation: float,
    *,
    held: Whole | None = None,
) -> Sized:
    """Replicas that prefill and decode: as many as meet the limits, or those `held` whatever they
    meet. Held ones fill their cache; past that, requests queue and those that arrive at random
    queue without end: times to first token and of whole requests are infinite."""
    return _size(load, states, limits, max_utilisation, held)[0]


def _size(
    load: Load, states: Steady, limits: Limits, max_utilisation: float, held: Whole | None
) -> tuple[Sized, Sampled]:
    """`size_mixed`, and the requests that its figures are of."""
    borne = _borne(load, states, limits, max_utilisation)
    wanted = load.users if load.users is not None else load.requests_per_s
    rows, end = np.arange(states.configs), np.maximum(borne.last, 0)
    most = reached(borne.ladder, borne.at)
    if held is None:
        able = (most > 0) & (borne.last >= 0)
        needed = np.ceil(wanted / np.maximum(most, 1e-12) - 1e-9)
        replicas = np.where(able, np.maximum(needed, 1), 0).astype(np.int64)
        target = wanted / np.maximum(replicas, 1)
        at, entry = where_reached(borne.ladder, target, end), borne.entry
        found = _sampled(load, states, entry, rows, at)
        figures = _figures(found)
    else:
        replicas, edge = held, edge_of(states)
        target = wanted / np.maximum(replicas, 1)
        excess = target - reached(borne.ladder, edge) * (1 + 1e-9)
        at = where_reached(borne.ladder, target, edge)
        entry = replace(borne.entry, queued=np.maximum(excess, 0.0))
        found = _sampled(load, states, entry, rows, at)
        figures = _endless(_figures(found), (excess > 0) & (load.users is None), ("ttft", "e2e"))
        most = np.where(_fails(load, states, entry, limits, rows, borne.at), 0.0, most)
    state = states.pick(rows, at)
    sized = Sized(
        state=state,
        replicas=replicas,
        prefill_replicas=np.zeros_like(replicas),
        batch=state.batch[:, 0],
        figures=figures,
        itl_cv=found.itl_cv,
        capacity=most * replicas,
        utilisation=state.rate[:, 0] / np.maximum(states.rate[rows, end], 1e-12),
        violations={key: figures[key] / limit for key, limit in limits.items()},
        most=states.batch[rows, end],
        binding=_binding(load, borne, limits),
    )
    return sized, found


def _endless(
    figures: dict[str, Array], queues: NDArray[np.bool_], metrics: tuple[str, ...]
) -> dict[str, Array]:
    """The figures, infinite in those metrics where a queue grows without end, [config]."""
    return {
        key: np.where(queues, np.inf, value) if key.startswith(metrics) else value
        for key, value in figures.items()
    }


def size_split(
    load: Load,
    states: Steady,
    pools: Steady,
    limits: Limits,
    max_utilisation: float,
    *,
    held: tuple[Whole, Whole] | None = None,
) -> Sized:
    """Replicas that only decode, fed by replicas that only prefill; `held` gives the numbers of
    both, in this order."""
    late = {k: v for k, v in limits.items() if not k.startswith(("ttft", "e2e"))}
    early = {k: v for k, v in limits.items() if k.startswith("ttft")}
    decoders = held[0] if held else None
    decode, answers = _size(load, without_prefill(load, states), late, max_utilisation, decoders)
    rate = decode.state.rate[:, 0] * decode.replicas
    random = replace(load, users=None)
    entry = Entry(
        saturation=np.full(pools.configs, np.inf), slots=np.ones(pools.configs),
        queued=np.zeros(pools.configs),
    )  # fmt: skip
    rows, first = np.arange(pools.configs), np.zeros(pools.configs, dtype=np.int64)
    last = first + pools.rate.shape[1] - 1
    at = _bisect(random, pools, entry, early, first, last)
    late_prompts = held is not None and _fails(random, pools, entry, early, rows, at)
    saturation = pools.rate[:, -1] / UTILISATIONS[-1]
    in_time, in_use = reached(pools.rate, at), max_utilisation * saturation
    each = np.minimum(in_time, in_use)
    needed = np.maximum(np.ceil(rate / each - 1e-9), 1)
    replicas = held[1] if held else np.where(decode.runs, needed, 0).astype(np.int64)
    at = where_reached(pools.rate, rate / np.maximum(replicas, 1), last)
    prompts = _sampled(random, pools, entry, rows, at)
    # the decoding side waits for no prompt of its own
    e2e = prompts.ttft + answers.e2e - answers.ttft
    figures = _figures(replace(answers, ttft=prompts.ttft, e2e=e2e))
    queues = rate / np.maximum(replicas, 1) > saturation
    figures = _endless(figures, queues, ("ttft",))
    full = ~np.isfinite(decode.figures["e2e_mean_seconds"])
    figures = _endless(figures, queues | full, ("e2e",))
    borne = np.where(late_prompts, 0.0, each * replicas)
    if load.users is not None:  # prompts a second as users: as many as send what comes now
        borne = load.users * borne / np.maximum(rate, 1e-12)
    slow = np.full(pools.configs, "prefill", dtype=object)
    if early:
        beyond = np.minimum(np.floor(at) + 1, last)
        keys, worst = list(early), _ratios(random, pools, entry, early, rows, beyond).argmax(axis=0)
        slow = np.where(in_time < in_use, np.asarray(keys, dtype=object)[worst], slow)
    return replace(
        decode,
        prefill_replicas=replicas,
        figures=figures,
        capacity=np.minimum(decode.capacity, borne),
        utilisation=np.maximum(decode.utilisation, rate / np.maximum(replicas, 1) / saturation),
        violations={key: figures[key] / limit for key, limit in limits.items()},
        binding=tuple(np.where(borne < decode.capacity, slow, np.asarray(decode.binding, object))),
    )


def _borne(load: Load, states: Steady, limits: Limits, max_utilisation: float) -> _Borne:
    last = last_feasible(states)
    ladder = states.rate if load.users is None else population(load, states)
    end = np.maximum(last, 0)
    rows = np.arange(states.configs)
    edge = edge_of(states)
    entry = Entry(
        saturation=np.maximum(reached(states.rate, edge), 1e-12),
        slots=reached(states.batch, edge),
        queued=np.zeros(states.configs),
    )
    by_use = where_reached(states.rate, max_utilisation * states.rate[rows, end], end)
    lowest = np.minimum(np.full(end.shape, 0 if load.users is not None else 1), end)
    fast = _bisect(load, states, entry, limits, lowest, end)
    at = np.maximum(np.minimum(fast, by_use), lowest)
    return _Borne(
        states=states, ladder=ladder, last=last, entry=entry, at=at, by_latency=fast < by_use
    )


def _bisect(
    load: Load, states: Steady, entry: Entry, limits: Limits, first: Whole, last: Whole
) -> Array:
    """Largest batch index that meets all limits, [config]. A limit that even `first` breaks is out
    of reach of any number of replicas: a `HAIR` more than `first` gives stands in for it, and what
    bears it is found between indices too."""
    if not limits:
        return last.astype(np.float64)
    low, high = first.copy(), last.copy()
    rows = np.arange(states.configs)
    least = _ratios(load, states, entry, limits, rows, first.astype(np.float64))
    bound = np.where(least > 1, HAIR * least, 1.0)
    while (low < high).any():
        middle = (low + high + 1) // 2
        ratios = _ratios(load, states, entry, limits, rows, middle.astype(np.float64))
        good = (ratios <= bound).all(axis=0)
        low, high = np.where(good, middle, low), np.where(good, high, middle - 1)
        high = np.maximum(high, low)
    far = (least > 1).any(axis=0) & (low < last)
    if not far.any():
        return low.astype(np.float64)
    here, after = (
        _ratios(load, states, entry, limits, rows, np.minimum(low + more, last).astype(np.float64))
        for more in (0, 1)
    )
    share = np.where(after > bound, (bound - here) / np.maximum(after - here, 1e-12), 1.0)
    return np.where(far, low + np.clip(share.min(axis=0), 0.0, 1.0), low)


def _ratios(
    load: Load, states: Steady, entry: Entry, limits: Limits, rows: Whole, at: Array
) -> Array:
    """Figures over limits, [limit, config]."""
    found = _sampled(load, states, entry, rows, at)
    return np.stack([found.statistic(*_split(key)) / limit for key, limit in limits.items()])


def _fails(
    load: Load, states: Steady, entry: Entry, limits: Limits, rows: Whole, at: Array
) -> NDArray[np.bool_]:
    """Whether a limit is broken there: where `_bisect` found nothing, even an idle replica does."""
    if not limits:
        return np.zeros(rows.size, dtype=np.bool_)
    return np.asarray((_ratios(load, states, entry, limits, rows, at) > 1 + 1e-6).any(axis=0))


def _sampled(load: Load, states: Steady, entry: Entry, rows: Whole, at: Array) -> Sampled:
    return sample(load, states.pick(rows, at), entry, slope_at(states, rows, at))


def _figures(found: Sampled) -> dict[str, Array]:
    return {key: found.statistic(*_split(key)) for key in SLO_KEYS}


def _split(key: str) -> tuple[str, str]:
    metric, statistic, _ = key.split("_")
    return metric, statistic


def _binding(load: Load, borne: _Borne, limits: Limits) -> tuple[str, ...]:
    """What stops each configuration from bearing more."""
    states, rows = borne.states, np.arange(borne.states.configs)
    after = np.minimum(np.maximum(borne.last, 0) + 1, states.rate.shape[1] - 1)
    full = states.kv_margin[rows, after] < SAFE_MARGIN
    slow = ~states.keeps_up[rows, after] & states.holds[rows, after]
    cause = np.where(full, "kv_cache", np.where(slow, "prefill", "max_sequences"))
    if not limits:
        return tuple(str(c) for c in cause)
    beyond = np.minimum(np.floor(borne.at) + 1, np.maximum(borne.last, 0))
    ratios = _ratios(load, states, borne.entry, limits, rows, beyond)
    metric = np.asarray(list(limits))[ratios.argmax(axis=0)]
    return tuple(str(name) for name in np.where(borne.by_latency, metric, cause))
