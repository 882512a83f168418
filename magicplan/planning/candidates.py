"""Candidates of a plan, best first: sized configurations in the words of the result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from magicplan.engine_specs.capabilities import running_trees
from magicplan.planning.question import PriceUsed
from magicplan.planning.request import PlanRequest
from magicplan.planning.result import (
    Candidate,
    Latencies,
    MemoryBars,
    Quantiles,
    StepBreakdown,
    TreeRule,
    TreeUsed,
)
from magicplan.planning.search import Configuration
from magicplan.planning.sizing import SPLIT, Sized
from magicplan.prediction.thresholds import Planned, pinned, thresholds
from magicplan.roofline.deployment import Array
from magicplan.roofline.memory import footprint, kv_sequence_bytes
from magicplan.roofline.timing import BOUNDS, StepCost, bound_shares, step_cost, step_interval
from magicplan.roofline.traffic import FULL, Op, Pass, forward
from magicplan.roofline.tree import Tree
from magicplan.serving.load import Load
from magicplan.serving.replica import TREE_GAIN, at_loads, shapes_of
from magicplan.serving.tree_rounds import Shapes, table_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SizedChoice:
    """One configuration in one arrangement, before it is written out."""

    row: Configuration
    sized: Sized
    layout: str
    price: PriceUsed
    stock: int
    """GPUs of its type at hand, where the request says what is."""

    @property
    def gpus(self) -> int:
        """All GPUs."""
        return (self.sized.replicas + self.sized.prefill_replicas) * self.row.gpus_per_replica

    @property
    def cost(self) -> float:
        """USD an hour."""
        return self.gpus * self.price.usd_per_hour

    @property
    def watts(self) -> float:
        """Every GPU at its TDP."""
        return self.gpus * (self.row.resolved.machine.accelerator.tdp_watts or math.nan)

    def violations(self, ask: PlanRequest) -> dict[str, float]:
        """Broken limits, latencies and others, and by what factor."""
        found = {key: ratio for key, ratio in self.sized.ratios.items() if ratio > 1 + 1e-9}
        for name, value in (("max_gpus", self.gpus), ("budget_usd_per_hour", self.cost)):
            limit = getattr(ask.money, name)
            if limit is not None and value > limit * (1 + 1e-9):
                found[name] = value / limit
        if ask.money.available is not None and self.gpus > self.stock:
            found["available"] = self.gpus / max(self.stock, 0.5)
        return found

    def broken(self, ask: PlanRequest) -> float:
        """How far it misses the limit that it misses most; 1 where it meets them all."""
        return max(self.violations(ask).values(), default=1.0)

    def rank(self, ask: PlanRequest, near: float = 1.0) -> tuple[float, ...]:
        """Sorts choices best first: what meets the limits, or misses none by more than `near`, by
        the objective, the rest by how far it misses them; among equals, the simpler arrangement."""
        broken = max(self.broken(ask), near)
        goal = {"cost": self.cost, "gpus": float(self.gpus), "energy": self.watts}[
            ask.money.objective
        ]
        goal = math.inf if math.isnan(goal) else goal
        tpot = self.sized.figure("tpot_p95_seconds")
        return (broken, goal, self.gpus, float(self.layout == SPLIT), tpot)


def candidate(ask: PlanRequest, load: Load, choice: SizedChoice) -> Candidate:
    """Everything that the result says of a choice."""
    row, sized = choice.row, choice.sized
    kind, outcome = sized.kind, sized.trial.outcome
    gamma, batch = kind.gamma, max(sized.batch, 1.0)
    rate = sized.trial.rate * sized.replicas
    tokens = rate * float(load.lengths.output.mean())
    mean_tokens = tokens / load.peak_over_mean
    cost, ops, drafts = step_of(choice)
    violations = choice.violations(ask)
    peak = load.users if load.users is not None else load.requests_per_s
    plain = float(row.replica.verify[row.layout, :, 0][_nearest(row, batch)])
    tree = tree_of(row, gamma, kind.depth, batch)
    return Candidate(
        name=_name(choice, gamma, tree),
        gpu=row.resolved.machine.accelerator.name,
        gpus=choice.gpus,
        layout=choice.layout,
        replicas=sized.replicas,
        prefill_replicas=sized.prefill_replicas,
        tp=row.tp,
        pp=row.pp,
        ep=row.ep,
        attention_dp=row.attention_dp,
        dtype=row.replica.layout.dtype,
        kv_dtype=row.replica.layout.kv_dtype,
        stack=ask.engine.stack,
        calibration=row.resolved.machine.calibration.name,
        draft=row.draft if gamma else "none",
        gamma=gamma,
        tree=tree,
        tokens_per_round=kind.tokens_per_round,
        speedup=kind.tokens_per_round * plain / sized.round_seconds if gamma else 1.0,
        batch_per_replica=sized.batch,
        max_batch_per_replica=int(kind.most),
        ctx_tokens=float(row.replica.contexts.mean()),
        step=_breakdown(choice, cost, drafts),
        latency=_latencies(sized),
        tokens_per_s=tokens,
        tokens_per_s_per_gpu=tokens / choice.gpus,
        capacity_requests_per_s=sized.capacity / peak * rate,
        headroom=sized.capacity / peak - 1,
        utilisation=sized.utilisation,
        preemption_probability=outcome.preempted_share,
        kv_cache_share=outcome.cache_mean_tokens / kind.setup.server.capacity_tokens,
        cost_usd_per_hour=choice.cost,
        usd_per_million_tokens=choice.cost / 3600 / mean_tokens * 1e6,
        energy_joules_per_token=choice.watts / mean_tokens,
        memory=_memory(ask, load, choice),
        bound=_bound(choice, cost, ops),
        meets=not violations,
        binding=max(violations, key=violations.__getitem__) if violations else sized.stopped_by,
        violations=violations,
    )


def explained(best: Candidate, other: Candidate, objective: str) -> Candidate:
    """A candidate with a sentence on why the best one is better."""
    if other.violations:
        worst = max(other.violations, key=other.violations.__getitem__)
        why = f"breaks {worst} by {other.violations[worst]:.2f} times"
    elif objective == "cost" and other.cost_usd_per_hour > best.cost_usd_per_hour * 1.0005:
        why = f"costs {other.cost_usd_per_hour / best.cost_usd_per_hour:.2f} times the best"
        if other.gpus != best.gpus:
            why += f", with {other.gpus} GPU{'s' if other.gpus > 1 else ''}"
    elif other.gpus > best.gpus:
        why = f"needs {other.gpus} GPUs, the best {best.gpus}"
    elif objective == "energy" and other.energy_joules_per_token > best.energy_joules_per_token:
        why = f"draws {other.energy_joules_per_token / best.energy_joules_per_token:.2f} times"
    elif other.layout != best.layout:
        why = "costs the same, and takes replicas of two kinds"
    elif other.ep != best.ep and (other.tp, other.pp) == (best.tp, best.pp):
        why = "does the same in this model, which knows no difference between experts that are "
        why += "kept whole and split ones"
    else:
        slower = other.latency.tpot.p95_seconds / best.latency.tpot.p95_seconds
        why = f"costs the same, its p95 time per token is {slower:.2f} times the best's"
    return replace(other, why_not=why)


def step_of(choice: SizedChoice) -> tuple[StepCost, tuple[Op, ...], float]:
    """The target's pass at the planned batch with its ops, and seconds of drafting in a round."""
    row, gamma = choice.row, choice.sized.kind.gamma
    batch = max(choice.sized.batch, 1.0)
    work = Pass(batch=batch, ctx=float(row.replica.contexts.mean()), query_tokens=gamma + 1)
    ops = forward(row.resolved.model, row.one_layout, work)
    host = row.resolved.machine.calibration.host.pass_seconds(batch, batch * (gamma + 1))
    cost = step_cost(ops, row.resolved.machine, host)
    host_fit = row.resolved.machine.calibration.host
    overhead = host_fit.between_passes_seconds(batch) if gamma else 0.0
    drafting = choice.sized.round_seconds - float(cost.seconds) - overhead
    return cost, ops, max(drafting, 0.0) if gamma else 0.0


def step_ends(choice: SizedChoice) -> tuple[float, float]:
    """Measured over predicted seconds of its step, low and high end of 80 %."""
    cost, _, _ = step_of(choice)
    low, high = step_interval(cost, choice.row.resolved.machine.calibration)
    return float(low), float(high)


def _breakdown(choice: SizedChoice, cost: StepCost, drafting: float) -> StepBreakdown:
    sized, host = choice.sized, choice.row.resolved.machine.calibration.host
    batch = max(sized.batch, 1.0)
    overhead = float(host.between_passes_seconds(batch)) if sized.kind.gamma else 0.0
    parts = {
        f"{kind}_seconds": float(getattr(cost, f"{kind}_seconds"))
        for kind in ("linear", "attention", "collective", "elementwise", "host")
    }
    alone = sum(parts.values()) + drafting + overhead
    step = alone if choice.layout == SPLIT else max(sized.trial.outcome.step_seconds, alone)
    return StepBreakdown(
        step_seconds=step, **parts, draft_seconds=drafting, overhead_seconds=overhead,
        prefill_seconds=step - alone,
    )  # fmt: skip


def _nearest(row: Configuration, batch: float) -> int:
    return int(np.abs(row.replica.batch - batch).argmin())


def _name(choice: SizedChoice, gamma: int, tree: TreeUsed | None) -> str:
    row, sized = choice.row, choice.sized
    gpu = row.resolved.machine.accelerator.name
    more = (("pp", row.pp), ("ep", row.ep), ("dp", row.attention_dp))
    shape = " ".join([f"tp{row.tp}", *(f"{name}{n}" for name, n in more if n > 1)])
    counts = f"{sized.replicas} replica{'s' if sized.replicas != 1 else ''} of {shape}"
    if choice.layout == SPLIT:
        counts = f"{sized.prefill_replicas} prefill + {sized.replicas} decode of {shape}"
    formats = row.replica.layout.dtype
    if row.replica.layout.kv_dtype != formats:
        formats += f", {row.replica.layout.kv_dtype} KV"
    drafted = f", {row.draft} gamma {gamma}" if gamma else ""
    if tree:
        drafted = f", {row.draft} {tree_words(tree)}"
    return f"{choice.gpus} x {gpu}: {counts}, {formats}{drafted}"


def _latencies(sized: Sized) -> Latencies:
    def of(metric: str) -> Quantiles:
        names = ("mean_seconds", "p50_seconds", "p95_seconds", "p99_seconds")
        return Quantiles(**{n: sized.figure(f"{metric}_{n}") for n in names})

    gaps = sized.trial.outcome.itl
    return Latencies(
        ttft=of("ttft"), tpot=of("tpot"), itl=of("itl"), e2e=of("e2e"),
        itl_cv=float(gaps.std() / gaps.mean()) if gaps.size else 0.0,
    )  # fmt: skip


def _memory(ask: PlanRequest, load: Load, choice: SizedChoice) -> MemoryBars:
    """Bytes of one GPU of a decoding replica at the planned batch; a shared prefix counts once."""
    row = choice.row
    batch = max(choice.sized.batch, 1.0)
    drafted = float(choice.sized.kind.gamma)
    available = ask.engine.memory_fraction * row.resolved.machine.accelerator.memory_bytes
    own = np.maximum(row.replica.contexts - load.shared_prefix_tokens, 1.0)
    held = footprint(
        row.resolved.model, row.one_layout, batch, own, available,
        row.spec.draft.residents if row.spec.draft else (),
        query_tokens=max(row.replica.longest, drafted) + 1.0 if row.spec.draft else 1.0,
    )  # fmt: skip
    gpus = float(row.gpus_per_replica)
    shared = row.attention_dp * kv_sequence_bytes(
        row.resolved.model, row.one_layout, load.shared_prefix_tokens, FULL
    )
    parts = {
        "weights_bytes": held.weights_bytes / gpus,
        "kv_bytes": (float(np.mean(held.kv_bytes)) + float(shared)) / gpus,
        "draft_bytes": float(np.mean(held.draft_bytes)) / gpus,
        "workspace_bytes": float(np.mean(held.workspace_bytes)),
    }
    free = max(available - sum(parts.values()), 0.0)
    return MemoryBars(**parts, free_bytes=free, available_bytes=available)


def _bound(choice: SizedChoice, cost: StepCost, ops: tuple[Op, ...]) -> str:
    shares: Mapping[str, float] = bound_shares(
        ops, choice.row.resolved.machine, float(cost.host_seconds)
    )
    return max(BOUNDS, key=lambda name: float(shares[name]))


def tree_words(tree: TreeUsed | TreeRule) -> str:
    """A tree's size in words."""
    return f"tree of {tree.size} nodes in {tree.depth} levels"


def tree_of(row: Configuration, gamma: int, depth: int, batch: float) -> TreeUsed | None:
    """The tree of `gamma` drafted tokens in `depth` levels that a row drafts at a batch; None for
    a chain."""
    if gamma <= depth:
        return None
    found = _shapes(row, np.asarray([batch]))
    rate = found.tokens_per_round / found.round_seconds[0, 0]
    chain = int(np.where(found.trees, 0.0, rate).argmax())
    chosen = int(((found.gamma == gamma) & (found.depth == depth)).argmax())
    tree = _topology(row, gamma + 1, depth + 1, float(row.replica.contexts.mean()))
    return TreeUsed(
        size=tree.size,
        depth=tree.depth,
        beam=tree.beam,
        parents=tree.parents,
        chain_gamma=int(found.gamma[chain]),
        gain=float(rate[chosen] / rate[chain]),
    )


def trees_left_out(row: Configuration, gamma: int, batch: float) -> str:
    """One sentence on what a tree would gain at the planned load, and which engine runs it, where
    the plan drafts a chain for want of an engine's trees; "" where no tree is in question."""
    draft = row.spec.draft
    if not gamma or row.spec.trees or draft is None or not draft.grows_trees:
        return ""
    engines = running_trees(draft)
    found = _shapes(replace(row, spec=replace(row.spec, trees="beam")), np.asarray([batch]))
    rate = found.tokens_per_round / found.round_seconds[0, 0]
    best = int(np.where(found.trees, rate, 0.0).argmax())
    gain = float(rate[best] / np.where(found.trees, 0.0, rate).max())
    chain = f"{draft.name} is planned as a chain"
    if not found.trees.any() or gain < TREE_GAIN:
        return f"{chain}: at the planned load no tree decodes {TREE_GAIN - 1:.0%} faster"
    shape = f"a tree of {found.gamma[best] + 1:.0f} nodes in {found.depth[best] + 1:.0f} levels"
    who = f"{' and '.join(engines)} can run it (stack, trees)" if engines else "no engine runs it"
    return f"{chain}: at the planned load {shape} would decode {gain:.2f} times as fast; {who}"


def tree_rules(
    row: Configuration,
    batches: Array,
    contexts: Array,
    fits: NDArray[np.bool_],
    planned: Planned | None,
    own: tuple[int, int],
) -> tuple[TreeRule, ...]:
    """The fewest ranges of batch and context, each with one tree or chain or none, as
    `thresholds` of draft lengths; () where the engine runs no tree.

    Trees count `TREE_GAIN` less than they emit, as in the search; losses are those of what is
    emitted. `own`, the tokens and levels that the plan itself drafts, stays where it is.
    """
    if not row.spec.trees:
        return ()
    found = [_shapes(row, batches, np.asarray([ctx])) for ctx in contexts]
    keys = sorted({key for shapes in found for key in _keys(shapes)})
    rate = np.zeros((batches.size, contexts.size, len(keys)))
    for column, shapes in enumerate(found):
        at = [keys.index(key) for key in _keys(shapes)]
        rate[:, column, at] = shapes.tokens_per_round / shapes.round_seconds[0]
    lost = _lost(rate, fits)
    branches = np.asarray([gamma > depth for gamma, depth in keys])
    wanted = _lost(np.where(branches, rate / TREE_GAIN, rate), fits)
    if planned is not None and own in keys:
        wanted = pinned(wanted, planned, batches, contexts, keys.index(own))
    rules = []
    for t in thresholds(wanted, batches, contexts):
        rows = (t.batch_lo <= batches) & (batches <= t.batch_hi)
        columns = (t.ctx_lo <= contexts) & (contexts <= t.ctx_hi)
        tree = _rule_tree(row, keys[t.gamma], float(contexts[columns].mean()))
        rules.append(
            TreeRule(
                batch_lo=t.batch_lo,
                batch_hi=t.batch_hi,
                ctx_lo=t.ctx_lo,
                ctx_hi=t.ctx_hi,
                size=tree.size,
                depth=tree.depth,
                beam=tree.beam,
                parents=tree.parents,
                loss=float(lost[rows][:, columns, t.gamma].max()),
            )
        )
    return tuple(rules)


def _lost(rate: Array, fits: NDArray[np.bool_]) -> Array:
    """Throughput lost against the best, 0 where nothing fits, so that it decides nothing."""
    return np.where(fits[..., None], 1 - rate / rate.max(axis=-1, keepdims=True), 0.0)


def _rule_tree(row: Configuration, key: tuple[int, int], ctx: float) -> Tree:
    gamma, depth = key
    return _topology(row, gamma + 1, depth + 1, ctx) if gamma > depth else Tree.chain(gamma)


def _keys(shapes: Shapes) -> list[tuple[int, int]]:
    return [(int(g), int(d)) for g, d in zip(shapes.gamma, shapes.depth, strict=True)]


def _shapes(row: Configuration, batch: Array, contexts: Array | None = None) -> Shapes:
    return shapes_of(at_loads(row.replica, row.layout, np.maximum(batch, 1.0), contexts), row.spec)


def _topology(row: Configuration, size: int, depth: int, ctx: float) -> Tree:
    """The best tree of that size and as many levels at a context."""
    assert row.spec.draft is not None
    assert row.spec.acceptance is not None
    return table_of(row.spec.draft, row.spec.acceptance, ctx, row.replica.longest).tree(size, depth)
