"""Random serving workloads, answered by the steady state and by its simulation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from magicplan import hardware_specs, model_specs
from magicplan.hardware_specs.transfer import calibration_for
from magicplan.planning.sizing import size_split
from magicplan.roofline.acceptance import Iid
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.drafts import DRAFTS, DraftRequest
from magicplan.roofline.timing import Machine
from magicplan.serving.latency import PERCENTILES, Entry, population, sample
from magicplan.serving.lengths import independent
from magicplan.serving.load import Load
from magicplan.serving.replica import (
    EngineLimits,
    Replica,
    Speculation,
    pool,
    prompts_of,
    replica,
    room_of,
    states,
)
from magicplan.serving.simulation import simulate
from magicplan.serving.steady_state import (
    SAFE_MARGIN,
    edge_of,
    reached,
    slope_at,
    where_reached,
    without_prefill,
)

SETUPS = (
    ("h100-sxm", "llama-3.1-8b", 1, "bf16"), ("l40s", "llama-3.1-8b", 1, "bf16"),
    ("a100-sxm-80gb", "qwen3-32b", 2, "bf16"), ("h100-sxm", "qwen3-32b", 4, "bf16"),
    ("h100-sxm", "llama-3.1-70b", 4, "fp8"), ("b200-sxm", "llama-3.1-70b", 4, "bf16"),
    ("h100-sxm", "mixtral-8x7b", 4, "bf16"), ("h200-sxm", "gemma-3-27b", 1, "bf16"),
)  # fmt: skip
LARGE = SETUPS[3:6]
"""Those whose cache holds several of the longest prompts."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One random workload on one kind of replica."""

    kind: str
    """open: random arrivals at a share of saturation; closed: a fixed concurrency; users: the same
    with time to think."""
    features: frozenset[str]
    """Of `FEATURES`."""
    label: str
    utilisation: float
    concurrency: int
    replica: Replica
    spec: Speculation

    def __str__(self) -> str:
        at = (
            f"{self.utilisation:.2f}"
            if self.kind == "open"
            else f"{self.kind[0]}{self.concurrency}"
        )
        return f"{self.label} {at}"


FEATURES = (
    "speculation", "pipeline", "disaggregated", "tight cache", "shared prefix", "bursty",
    "long prompts",
)  # fmt: skip
"""What a workload may have beyond plain decoding of random arrivals by one replica."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Predicted and simulated figures of a case, by name."""

    name: str
    kind: str
    features: frozenset[str]
    predicted: dict[str, float]
    simulated: dict[str, float]

    def error(self, name: str) -> float:
        """Predicted over simulated, minus 1; of gaps between tokens, the difference in means."""
        if name.startswith("itl"):
            unit = 1.0 if name == "itl_cv" else self.simulated["itl_mean"]
            return (self.predicted[name] - self.simulated[name]) / unit
        return self.predicted[name] / self.simulated[name] - 1


def random_case(seed: int) -> Case:
    """Lengths over two orders of magnitude; half of the cases speculate, half are open, a third has
    a cache for a few dozen requests only. A quarter runs on pipeline stages, a quarter prefills on
    replicas of their own, a few share a prefix or come in bursts, a fifth has prompts as retrieval
    and agents send them."""
    rng = np.random.default_rng(seed)
    long = bool(np.random.default_rng([seed, 1]).random() < 0.2)  # apart: the others stay the same
    gpu, model, tp, dtype = SETUPS[rng.integers(len(SETUPS))]
    prompt, output = (float(np.exp(rng.uniform(*np.log(r)))) for r in ((64, 8192), (32, 768)))
    spread = rng.uniform(1.05, 4.0, 2)
    if long:  # from 9k to 32k in the median and to three times as many at its 95th percentile
        gpu, model, tp, dtype = LARGE[seed % len(LARGE)]
        prompt, spread[0] = 8192.0 * (prompt / 64) ** 0.28, 1 + spread[0] / 2
    lengths = independent(
        f"lognormal:{prompt:.0f},{prompt * spread[0] + 1:.0f}",
        f"lognormal:{output:.0f},{output * spread[1] + 1:.0f}",
    )
    limits = EngineLimits(
        batched_tokens=float(rng.choice([2048, 8192])),
        max_sequences=float(rng.choice([64, 256])),
        memory_fraction=0.92,
    )
    gamma = int(rng.choice([0, 0, 2, 4]))
    kind = str(rng.choice(["open", "open", "closed", "closed", "users"]))
    utilisation, concurrency = rng.uniform(0.2, 0.9), int(2 ** rng.uniform(0, 7))
    pause = float(rng.uniform(0.5, 10)) if kind == "users" else 0.0
    alpha, hits, tight = (
        rng.uniform(0.4, 0.85),
        float(rng.choice([0.0, 0.5])),
        bool(rng.random() < 0.3) and not long,
    )
    requests_held = int(2 ** rng.uniform(4, 7))
    chance = rng.random(3)
    pp = int(rng.choice([2, 4])) if chance[0] < 0.25 else 1
    split = bool(0.2 < chance[0] < 0.45)
    common = float(np.floor(lengths.prompt.min() * rng.uniform(0.2, 0.9)))
    shared = common if chance[1] < 0.15 else 0.0
    cv2 = 4.0 if kind == "open" and chance[2] < 0.25 else 1.0
    cv2 = 9.0 if cv2 > 1 and chance[2] < 0.1 else cv2
    shape = model_specs.load(model)
    accelerator = hardware_specs.load(gpu)
    machine = Machine(accelerator=accelerator, calibration=calibration_for(accelerator, "vllm")[0])
    layout = Deployment(dtype=dtype, math_dtype=dtype, tp=np.asarray([max(tp / pp, 1.0)]),
                        pp=np.asarray([float(pp)]))  # fmt: skip
    spec = Speculation(gamma=0)
    if gamma:
        spec = Speculation(
            draft=DRAFTS["eagle3"].make(DraftRequest(target=shape)),
            acceptance=Iid(alpha=float(alpha), origin="random"),
            gamma=gamma,
        )
    load = Load(
        requests_per_s=1e-9, peak_over_mean=1.0,  # little, so that all bursts are a replica's own
        users=None if kind == "open" else float(concurrency), think_seconds=pause,
        arrival_cv2=cv2, lengths=lengths, prefix_hit_rate=hits,
        shared_prefix_tokens=shared, source="random",
    )  # fmt: skip
    found = replica(shape, machine, layout, load, limits, gamma)
    if tight:
        share = _tight(found, spec, requests_held)
        found = replace(found, limits=replace(limits, memory_fraction=share))
    has = (gamma > 0, pp > 1, split, tight, shared > 0, cv2 > 1, long)
    features = frozenset(name for name, present in zip(FEATURES, has, strict=True) if present)
    label = f"{gpu} {model} tp{max(tp // pp, 1)}" + f" pp{pp}" * (pp > 1)
    label += f" {prompt:.0f}+{output:.0f} g{gamma}" + f" kv{requests_held}" * tight
    label += (
        f" shared{shared:.0f}" * (shared > 0)
        + f" bursts{(1 + cv2) / 2:.1f}" * (cv2 > 1)
        + " split" * split
    )
    return Case(
        kind=kind, features=features, label=label, utilisation=float(utilisation),
        concurrency=concurrency, replica=found, spec=spec,
    )  # fmt: skip


def _tight(r: Replica, spec: Speculation, requests: int) -> float:
    """The memory fraction whose cache holds about that many requests, at most what there is."""
    room = room_of(r, spec)
    memory = r.machine.accelerator.memory_bytes
    fixed = r.limits.memory_fraction * memory - float(room.free_bytes[0])
    wanted = fixed + requests * float(room.request_bytes[0])
    return min(wanted / memory, r.limits.memory_fraction)


def compare(case: Case, *, requests: int, seed: int) -> Comparison:
    """The same figures from both sides."""
    asked = _disaggregated(case) if "disaggregated" in case.features else _mixed(case)
    measured = simulate(
        replace(case.replica, load=asked.load), case.spec, requests=requests, seed=seed,
        concurrency=None if case.kind == "open" else case.concurrency,
        replicas=asked.replicas, prefill_replicas=asked.prefill_replicas,
    )  # fmt: skip
    gaps = measured.gaps
    simulated = {
        "throughput": measured.tokens_per_s,
        "itl_mean": float(gaps.mean()),
        "itl_cv": float(gaps.std() / gaps.mean()),
        **{f"itl_p{p:.0f}": float(np.percentile(gaps, p)) for p in PERCENTILES},
    }
    for name in ("ttft", "tpot", "e2e"):
        values = getattr(measured, name)
        simulated |= {name: float(values.mean()), f"{name}_p95": float(np.percentile(values, 95))}
    return Comparison(
        name=str(case), kind=case.kind, features=case.features, predicted=asked.figures,
        simulated=simulated,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Asked:
    """A case's load as it is put to both sides, and the closed form's answer."""

    load: Load
    figures: dict[str, float]
    replicas: int = 1
    prefill_replicas: int = 0


def _mixed(case: Case) -> _Asked:
    found = states(case.replica, case.spec)
    edge = edge_of(found, SAFE_MARGIN if case.kind == "open" else 0.0)
    load = case.replica.load
    if case.kind == "open":
        most = reached(found.rate, edge)  # none where a burst alone may fill the cache
        wanted = case.utilisation * np.where(most > 0, most, reached(found.rate, edge_of(found)))
        load = replace(load, requests_per_s=float(wanted[0]))
        ladder = found.rate
    else:
        ladder, wanted = population(load, found), np.asarray([float(case.concurrency)])
    queued = np.maximum(wanted - reached(ladder, edge), 0.0)
    at = where_reached(ladder, wanted, edge)
    state = found.pick(np.zeros(1, dtype=np.int64), at)
    most = edge_of(found)
    entry = Entry(
        saturation=reached(found.rate, most), slots=reached(found.batch, most), queued=queued
    )
    predicted = sample(load, state, entry, slope_at(found, np.zeros(1, dtype=np.int64), at))
    figures = {
        "throughput": float(state.rate[0, 0]) * float(load.lengths.output.mean()),
        "itl_mean": float(predicted.itl_mean[0]),
        "itl_cv": float(predicted.itl_cv[0]),
        **{f"itl_p{p:.0f}": float(v) for p, v in zip(PERCENTILES, predicted.itl[0], strict=True)},
    }
    decoded = load.decoded > 0
    for name, values in (
        ("ttft", predicted.ttft), ("tpot", predicted.tpot[:, decoded]), ("e2e", predicted.e2e)
    ):  # fmt: skip
        figures |= {name: float(values.mean()), f"{name}_p95": float(np.percentile(values, 95))}
    return _Asked(load=load, figures=figures)


REPLICAS = 2.0
"""Of the pool that has more, where a case prefills and decodes on replicas of their own."""


def _disaggregated(case: Case) -> _Asked:
    """Sized as a plan would, for a load that keeps about `REPLICAS` busy."""
    r, load = case.replica, case.replica.load
    found, pools = states(r, case.spec), pool(r, prompts_of(r, case.spec))
    if case.kind == "open":
        edge = edge_of(without_prefill(load, found), SAFE_MARGIN)
        one = min(
            float(reached(without_prefill(load, found).rate, edge)[0]), float(pools.rate[0, -1])
        )
        load = replace(load, requests_per_s=REPLICAS * case.utilisation * one)
        r = replace(r, load=load)
        found, pools = states(r, case.spec), pool(r, prompts_of(r, case.spec))
    sized = size_split(load, found, pools, {}, max(case.utilisation, 0.3))
    replicas = int(sized.replicas[0])
    rate = float(sized.state.rate[0, 0]) * replicas
    figures = {
        "throughput": rate * float(load.lengths.output.mean()), "itl_cv": float(sized.itl_cv[0])
    }  # fmt: skip
    for metric in ("ttft", "tpot", "e2e", "itl"):
        for statistic in ("mean", "p50", "p95", "p99"):
            figures[f"{metric}_{statistic}"] = float(
                sized.figures[f"{metric}_{statistic}_seconds"][0]
            )
        if metric != "itl":
            figures[metric] = figures[f"{metric}_mean"]
    return _Asked(
        load=load, figures=figures, replicas=replicas,
        prefill_replicas=int(sized.prefill_replicas[0]),
    )  # fmt: skip
