"""Random serving workloads, answered by the steady state and by its simulation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from magicplan import hardware_specs, model_specs
from magicplan.hardware_specs.calibration_files import calibration_for
from magicplan.planning.latency import Entry, population, sample
from magicplan.planning.lengths import independent
from magicplan.planning.replica import EngineLimits, Replica, Speculation, replica, room_of, states
from magicplan.planning.serving import SAFE_MARGIN, edge_of, reached, slope_at, where_reached
from magicplan.planning.traffic_load import Load
from magicplan.roofline.acceptance import Iid
from magicplan.roofline.deployment import Array, Deployment
from magicplan.roofline.drafts import DRAFTS, DraftRequest
from magicplan.roofline.timing import Machine
from magicplan.validate.serving_simulation import Simulated, simulate

SETUPS = (
    ("h100-sxm", "llama-3.1-8b", 1, "bf16"), ("l40s", "llama-3.1-8b", 1, "bf16"),
    ("a100-sxm-80gb", "qwen3-32b", 2, "bf16"), ("h100-sxm", "qwen3-32b", 4, "bf16"),
    ("h100-sxm", "llama-3.1-70b", 4, "fp8"), ("b200-sxm", "llama-3.1-70b", 4, "bf16"),
    ("h100-sxm", "mixtral-8x7b", 4, "bf16"), ("h200-sxm", "gemma-3-27b", 1, "bf16"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One random workload on one replica."""

    kind: str
    """open: random arrivals at a share of saturation; closed: a fixed concurrency; users: the same
    with time to think."""
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Predicted and simulated figures of a case, by name."""

    case: Case
    predicted: dict[str, float]
    simulated: dict[str, float]
    runs: Simulated = field(repr=False)

    def error(self, name: str) -> float:
        """Predicted over simulated, minus 1."""
        return self.predicted[name] / self.simulated[name] - 1


def random_case(seed: int) -> Case:
    """Lengths over two orders of magnitude; half of the cases speculate, half are open, and a third
    has a cache for a few dozen requests only."""
    rng = np.random.default_rng(seed)
    gpu, model, tp, dtype = SETUPS[rng.integers(len(SETUPS))]
    prompt, output = (float(np.exp(rng.uniform(*np.log(r)))) for r in ((64, 8192), (32, 768)))
    spread = rng.uniform(1.05, 4.0, 2)
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
    shape = model_specs.load(model)
    accelerator = hardware_specs.load(gpu)
    machine = Machine(accelerator=accelerator, calibration=calibration_for(accelerator, "vllm")[0])
    layout = Deployment(dtype=dtype, math_dtype=dtype, tp=np.asarray([float(tp)]),
                        pp=np.asarray([1.0]))  # fmt: skip
    spec = Speculation(gamma=0)
    if gamma:
        spec = Speculation(
            draft=DRAFTS["eagle3"].make(DraftRequest(target=shape)),
            acceptance=Iid(alpha=float(rng.uniform(0.4, 0.85)), origin="random"),
            gamma=gamma,
        )
    load = Load(
        requests_per_s=1.0, peak_over_mean=1.0,
        users=None if kind == "open" else float(concurrency), think_seconds=pause,
        arrival_cv2=1.0, lengths=lengths, prefix_hit_rate=float(rng.choice([0.0, 0.5])),
        shared_prefix_tokens=0.0, source="random",
    )  # fmt: skip
    label = f"{gpu} {model} tp{tp} {prompt:.0f}+{output:.0f} g{gamma}"
    found = replica(shape, machine, layout, load, limits, gamma)
    if rng.random() < 0.3:
        tokens = int(2 ** rng.uniform(4, 7))
        label += f" kv{tokens}"
        found = replace(found, limits=replace(limits, memory_fraction=_tight(found, spec, tokens)))
    return Case(
        kind=kind, label=label, utilisation=float(utilisation), concurrency=concurrency,
        replica=found, spec=spec,
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
    found = states(case.replica, case.spec)
    edge = edge_of(found, SAFE_MARGIN if case.kind == "open" else 0.0)
    rate = reached(found.rate, edge)
    load = case.replica.load
    if case.kind == "open":
        load = replace(load, requests_per_s=case.utilisation * float(rate[0]))
        ladder, wanted = found.rate, case.utilisation * rate
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
    measured = simulate(
        replace(case.replica, load=load), case.spec, requests=requests, seed=seed,
        concurrency=None if case.kind == "open" else case.concurrency,
    )  # fmt: skip
    tokens = float(state.rate[0, 0]) * float(load.lengths.output.mean())
    return Comparison(
        case=case,
        predicted={
            "throughput": tokens,
            **_figures(predicted.ttft, predicted.tpot[:, load.decoded > 0], predicted.e2e),
        },
        simulated={
            "throughput": measured.tokens_per_s,
            **_figures(measured.ttft, measured.tpot, measured.e2e),
        },
        runs=measured,
    )


def _figures(ttft: Array, tpot: Array, e2e: Array) -> dict[str, float]:
    found = {}
    for name, values in (("ttft", ttft), ("tpot", tpot), ("e2e", e2e)):
        found[name] = float(values.mean())
        found[f"{name}_p95"] = float(np.percentile(values, 95))
    return found
