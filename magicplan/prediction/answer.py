"""A prediction from a resolved question, for one workload or a whole grid at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from magicplan.hardware_specs.transfer import ideal
from magicplan.prediction.choice.standing import Standing, standing
from magicplan.prediction.placement import Placement, place, scene_of
from magicplan.prediction.resolve import Resolved
from magicplan.prediction.result import (
    AcceleratorUsed,
    DeploymentUsed,
    Ideal,
    MemoryUsed,
    ModelUsed,
    Prediction,
    Round,
    Step,
    WorkloadUsed,
)
from magicplan.roofline.acceptance import Acceptance
from magicplan.roofline.deployment import Array, Indices
from magicplan.roofline.drafts import Draft
from magicplan.roofline.speculation import Rounds, Scene, rounds
from magicplan.roofline.timing import (
    BOUNDS,
    Machine,
    StepCost,
    bound_shares,
    step_cost,
    step_interval,
)
from magicplan.roofline.traffic import Op, Pass, forward


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Others:
    """What is beside the drafts chosen: trees that are chosen in place of chains, by cell, the best
    round that only another stack runs, a sentence on it, and notes."""

    trees: Mapping[tuple[int, ...], Round] = field(default_factory=dict)
    alternative: Round | None = None
    beside: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drafter:
    """A draft, its acceptance, the longest it drafts, and its standing; None for no draft."""

    draft: Draft | None
    acceptance: Acceptance
    max_gamma: int
    standing: Standing | None = None
    table: Rounds | None = None
    """Its rounds, where they are known."""

    @property
    def name(self) -> str:
        """Its name, `none` without a draft."""
        return self.draft.name if self.draft else "none"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drafters:
    """Who drafts where: `which` [batch, ctx] are places in `every`."""

    every: tuple[Drafter, ...]
    which: Indices

    def rounds(self, scene: Scene) -> Rounds:
        """The rounds of each cell's own drafter; one that drafts less far than others stays at its
        longest there."""
        tables = [
            one.table
            if one.table is not None
            else rounds(scene, one.draft, one.acceptance, one.max_gamma)
            for one in self.every
        ]
        return _merged(tables, self.which)

    def anew(self) -> Drafters:
        """These drafters without the rounds that are known, for another scene."""
        return replace(self, every=tuple(replace(one, table=None) for one in self.every))

    def each(self, value: Callable[[Drafter], Any]) -> Any:
        """What `value` says of each cell's drafter, [batch, ctx]."""
        return np.array([value(one) for one in self.every], dtype=object)[self.which]


def answer(
    ask: Resolved,
    placement: Placement | None = None,
    drafters: Drafters | None = None,
    others: Others | None = None,
) -> Prediction:
    """The prediction of a resolved question: its own draft on GPUs that hold it, or `drafters` on
    a given placement; `others` is what other ways to draft there would bring."""
    placement = placement or place(ask)
    scene = scene_of(ask, placement)
    shape = np.broadcast_shapes(ask.batch.shape, ask.ctx.shape)
    drafters = drafters or _own(ask, shape)
    others = others or Others()
    ops = forward(ask.model, placement.layout, Pass(batch=scene.batch, ctx=scene.ctx))
    host = ask.machine.calibration.host.pass_seconds(scene.batch, scene.batch)
    step = step_cost(ops, ask.machine, host)
    table = drafters.rounds(scene)
    view = _View(scalar=ask.scalar, shape=shape, fits=placement.fits)
    asked = _asked_gamma(ask, table)
    best = _unless_a_loss(table, asked)
    gammas = tuple(_round(drafters, table, view, g) for g in range(table.gammas.size))
    return Prediction(
        accelerator=_accelerator(ask, placement, view),
        model=ModelUsed(name=ask.model.name, parameters=ask.model.parameters),
        deployment=_deployment(ask, placement, view),
        workload=_workload(ask, placement, view),
        memory=_memory(placement, view),
        baseline=_baseline(ask, scene, ops, step, view),
        best=_with_trees(_best_round(drafters, table, view, best), others.trees, view),
        gammas=gammas,
        alternative=others.alternative,
        ideal=_ideal(scene, ask, drafters, table, asked, view),
        assumptions=(*_assumptions(ask, placement, scene, best), *others.notes),
        beside=others.beside,
        resolved=ask,
        placement=placement,
        scene=scene,
        rounds=table,
        ops=ops,
        step=step,
    )


def _own(ask: Resolved, shape: tuple[int, ...]) -> Drafters:
    """The draft of the question, in every cell."""
    stands = None
    if ask.draft is not None:
        stated = ask.request.acceptance != "auto"
        stands = standing(ask.draft, ask.model, ask.request.stack, stated=stated)
    one = Drafter(
        draft=ask.draft, acceptance=ask.acceptance, max_gamma=ask.max_gamma, standing=stands
    )
    return Drafters(every=(one,), which=np.zeros(shape, dtype=np.int64))


def _merged(tables: Sequence[Rounds], which: Indices) -> Rounds:
    """Each cell's rounds from its own table."""
    if len(tables) == 1:
        return tables[0]
    longest = max(table.gammas.size for table in tables)
    gammas = np.arange(float(longest))

    def pick(name: str) -> Array:
        wide = []
        for table in tables:
            values = np.broadcast_to(getattr(table, name), (*which.shape, table.gammas.size))
            wide.append(values[..., np.minimum(np.arange(longest), table.gammas.size - 1)])
        found: Array = np.take_along_axis(np.stack(wide), which[None, ..., None], axis=0)[0]
        return found

    names = [entry.name for entry in fields(Rounds) if entry.name != "gammas"]
    return Rounds(gammas=gammas, **{name: pick(name) for name in names})


class _View:
    """How internal [batch, ctx] arrays leave: broadcast, or as one number; rates only where fit."""

    def __init__(self, *, scalar: bool, shape: tuple[int, ...], fits: Array) -> None:
        self.scalar, self.shape, self.fits = scalar, shape, fits

    def __call__(self, value: Any) -> Any:
        full = np.broadcast_to(value, self.shape)
        if not self.scalar:
            return full
        one = full[0, 0]
        return one.item() if isinstance(one, np.generic) else one

    def rate(self, value: Any) -> Any:
        """NaN where the cell does not fit."""
        return self(value) if self.fits.all() else self(np.where(self.fits, value, np.nan))

    def count(self, value: Any) -> Any:
        """A whole number."""
        full = self(np.asarray(value))
        return int(full) if self.scalar else full.astype(np.int64)


def _asked_gamma(ask: Resolved, table: Rounds) -> Indices:
    """Index of the draft length: the fastest, or the one asked for."""
    if ask.request.gamma == "auto" or ask.draft is None:
        return table.best
    return np.full(table.best.shape, int(ask.request.gamma))


def _unless_a_loss(table: Rounds, asked: Indices) -> Indices:
    """The draft length asked for; 0 where its whole interval is a loss."""
    high = np.take_along_axis(
        np.broadcast_to(table.speedup_high, (*asked.shape, table.gammas.size)),
        asked[..., None],
        axis=-1,
    )[..., 0]
    return np.where(high < 1, 0, asked)


def _accelerator(ask: Resolved, placement: Placement, view: _View) -> AcceleratorUsed:
    return AcceleratorUsed(
        name=ask.machine.accelerator.name,
        asked=ask.request.gpu,
        count=view.count(placement.layout.gpus),
    )


def _deployment(ask: Resolved, placement: Placement, view: _View) -> DeploymentUsed:
    layout = placement.layout
    formats = layout.formats or ask.layout.uniform_formats
    return DeploymentUsed(
        gpus=view.count(layout.gpus),
        tp=view.count(layout.tp),
        replicas=view.count(layout.replicas),
        pp=view.count(layout.pp),
        ep=int(layout.ep),
        attention_dp=int(layout.attention_dp),
        dtype=layout.dtype,
        kv_dtype=layout.kv_dtype,
        formats=formats.as_dict() | {"kv": layout.kv_dtype},
        stack=ask.request.stack,
        calibration=ask.machine.calibration.name,
    )


def _workload(ask: Resolved, placement: Placement, view: _View) -> WorkloadUsed:
    return WorkloadUsed(
        batch=view.count(ask.batch),
        batch_per_replica=view.count(placement.batch_per_replica),
        ctx_tokens=view.count(ask.final_ctx - ask.request.output),
        output_tokens=int(ask.request.output),
    )


def _memory(placement: Placement, view: _View) -> MemoryUsed:
    m = placement.memory
    return MemoryUsed(
        weights_bytes=view(m.weights_bytes),
        kv_bytes=view(m.kv_bytes),
        draft_bytes=view(m.draft_bytes),
        workspace_bytes=view(m.workspace_bytes),
        needed_bytes_per_gpu=view(m.needed_bytes_per_gpu),
        available_bytes_per_gpu=m.available_bytes_per_gpu,
        fits=view(placement.fits),
        max_batch=view.count(placement.max_batch),
    )


def _baseline(
    ask: Resolved, scene: Scene, ops: tuple[Op, ...], step: StepCost, view: _View
) -> Step:
    shares = bound_shares(ops, ask.machine, step.host_seconds)
    stacked = np.stack([np.broadcast_to(shares[name], view.shape) for name in BOUNDS])
    bound = np.asarray(BOUNDS)[stacked.argmax(axis=0)]
    low, high = step_interval(step, ask.machine.calibration)
    seconds = np.asarray(step.seconds)
    return Step(
        step_seconds=view.rate(seconds),
        low_seconds=view.rate(seconds * low),
        high_seconds=view.rate(seconds * high),
        linear_seconds=view.rate(step.linear_seconds),
        attention_seconds=view.rate(step.attention_seconds),
        collective_seconds=view.rate(step.collective_seconds),
        elementwise_seconds=view.rate(step.elementwise_seconds),
        host_seconds=view.rate(step.host_seconds),
        weight_bytes=view(step.weight_bytes),
        kv_bytes=view(step.kv_bytes),
        activation_bytes=view(step.activation_bytes),
        flops=view(step.flops),
        tokens_per_s=view.rate(scene.sequences / seconds),
        bound=view(bound),
    )


_ROUND_ARRAYS = (
    "tokens_per_round", "draft_seconds", "verify_seconds", "overhead_seconds", "round_seconds",
    "tokens_per_s", "speedup", "speedup_low", "speedup_high",
)  # fmt: skip


def _standings(drafters: Drafters, view: _View, drafts: Any) -> dict[str, Any]:
    """Whether each cell's round can be launched; not to speculate always can. `drafts` says where
    a round drafts."""
    stands = [one.standing for one in drafters.every]

    def cells(value: Callable[[Standing], Any], otherwise: Any) -> Any:
        said = np.array([value(s) if s else otherwise for s in stands], dtype=object)
        return view(np.where(drafts, said[drafters.which], otherwise))

    heads = cells(lambda s: s.head, None)
    return {
        "runs_on_stack": cells(lambda s: s.runs_on_stack, True),
        "exists_for_model": cells(lambda s: s.exists_for_model, True),
        "head": heads,
    }


def _round(drafters: Drafters, table: Rounds, view: _View, gamma: int) -> Round:
    parts = {name: view.rate(_at(table, name, gamma)) for name in _ROUND_ARRAYS}
    names = view(drafters.each(lambda one: one.name)) if gamma else "none"
    if gamma and len(drafters.every) == 1:
        names = drafters.every[0].name
    return Round(draft=names, gamma=gamma, **parts, **_standings(drafters, view, bool(gamma)))


def _at(table: Rounds, name: str, gamma: int) -> Array:
    values = getattr(table, name)
    return np.asarray(values[..., min(gamma, values.shape[-1] - 1)])


def _best_round(drafters: Drafters, table: Rounds, view: _View, best: Indices) -> Round:
    def take(name: str) -> Array:
        values = getattr(table, name)
        full = np.broadcast_to(values, (*best.shape, table.gammas.size))
        return np.take_along_axis(full, best[..., None], axis=-1)[..., 0]

    names = np.where(best > 0, drafters.each(lambda one: one.name), "none")
    parts = {name: view.rate(take(name)) for name in _ROUND_ARRAYS}
    return Round(
        draft=view(names), gamma=view.count(best), **parts, **_standings(drafters, view, best > 0)
    )


def _with_trees(best: Round, trees: Mapping[tuple[int, ...], Round], view: _View) -> Round:
    """The best rounds with those of trees in the cells that choose one."""
    if not trees:
        return best
    if view.scalar:
        return trees[0, 0]
    names = [entry.name for entry in fields(Round)]
    cells = {name: view(getattr(best, name)).astype(object) for name in names if name != "size"}
    cells["size"] = np.full(view.shape, None, dtype=object)
    for at, tree in trees.items():
        for name, values in cells.items():
            values[at] = getattr(tree, name)
    numbers = {name: cells[name].astype(np.float64) for name in _ROUND_ARRAYS}
    gammas = cells["gamma"].astype(np.int64)
    return Round(**(cells | numbers | {"gamma": gammas}))


def _ideal(
    scene: Scene, ask: Resolved, drafters: Drafters, table: Rounds, best: Indices, view: _View
) -> Ideal:
    """The naive roofline's answer: no calibration, KV read once a verification."""
    if ask.machine.calibration.name != "ideal" or ask.request.verify_kv_passes not in ("auto", 1):
        machine = Machine(accelerator=ask.machine.accelerator, calibration=ideal())
        bare = replace(scene, machine=machine, kv_passes=1.0)
        table = drafters.anew().rounds(bare)
    full = np.broadcast_to(table.speedup, (*best.shape, table.gammas.size))
    speedup = np.take_along_axis(full, best[..., None], axis=-1)[..., 0]
    return Ideal(step_seconds=view.rate(table.round_seconds[..., 0]), speedup=view.rate(speedup))


def _assumptions(
    ask: Resolved, placement: Placement, scene: Scene, best: Indices
) -> tuple[str, ...]:
    cal, request = ask.machine.calibration, ask.request
    lines = list(ask.notes)
    lines.append(f"step interval (80 %): {cal.step_residual.basis}")
    if ask.draft is not None:
        lines += _other_kernel(ask, scene, best)
        lines.append(f"acceptance: {ask.acceptance.origin}")
        lines.append(f"speedup interval (80 %): acceptance, and {cal.speedup_residual.basis}")
        lines.append(_passes_line(ask))
    lines.append("LM head, embeddings and routers stay in 16 bits; element-wise ops are fused")
    if request.gpus == "auto":
        lines.append("--gpus auto: the smallest number that holds weights, KV and draft")
    if np.max(placement.layout.ffn_ranks) > 1:
        lines.append(_launched(ask))
    wide = np.max(placement.layout.tp) > max(ask.machine.accelerator.link_domain, 1)
    if wide:
        lines.append("tensor parallelism leaves the fast-link domain: collectives run over PCIe")
    return tuple(lines)


def _other_kernel(ask: Resolved, scene: Scene, best: Indices) -> list[str]:
    """What the other extreme of KV passes would decide, where that is the opposite."""
    if not ask.scalar or ask.draft is None or not ask.max_gamma:
        return []
    packed = scene.kv_passes == 1 or (scene.kv_passes is None and not _reread_share(ask))
    other = replace(scene, kv_passes=ask.max_gamma + 1.0 if packed else 1.0)
    table = rounds(other, ask.draft, ask.acceptance, ask.max_gamma)
    there, here = int(table.best[0, 0]), int(best[0, 0])
    if (there > 0) == (here > 0):
        return []
    kernel = "re-reads KV for every query token (verify KV passes gamma+1)"
    if not packed:
        kernel = "packs query tokens and reads KV once (verify KV passes 1)"
    gain = float(table.speedup[0, 0, there])
    return [f"the verdict turns with a kernel that {kernel}: gamma {there}, {gain:.2f}x"]


def _launched(ask: Resolved) -> str:
    """How collectives are launched, and what that rests on."""
    name, least = ask.machine.calibration.name, ask.machine.calibration.collective.eager_seconds
    if not ask.machine.eager:
        return "collectives run inside CUDA graphs, as every other kernel does"
    if not least:
        return f"--eager changes nothing: calibration {name} holds no eager collectives"
    return (
        f"collectives are launched by the host (--eager): each takes at least {1e6 * least:.0f} us "
        f"by calibration {name}; other kernels run inside CUDA graphs"
    )


def _reread_share(ask: Resolved) -> float:
    return ask.machine.calibration.attention_fit(ask.layout.kv_dtype).reread_share


def _passes_line(ask: Resolved) -> str:
    """How often verification reads the KV cache, and who says so."""
    passes, calibration = ask.request.verify_kv_passes, ask.machine.calibration
    if passes != "auto":
        return f"verify KV passes {float(passes):g}, as asked, at most once a query token"
    share, kind = _reread_share(ask), ask.layout.kv_dtype
    if share:
        return (
            f"verify KV passes: calibration {calibration.name} reads {share:.2f} of a KV head's "
            "cache over again for every further query row, of heads and of tokens"
        )
    once = "verify KV passes 1: the kernel packs a sequence's query tokens and reads its KV once"
    known = (e for e in calibration.evidence if e["part"] in (f"attention.{kind}", "verification"))
    return once + next((f" ({said})" for e in known if (said := _said(e))), ", assumed")


def _said(evidence: Mapping[str, Any]) -> str:
    """What a calibration's evidence says of many query rows, if anything."""
    if "query_rows_ratio" in evidence:
        return (
            f"{evidence['query_rows']:g} query rows a KV head take "
            f"{evidence['query_rows_ratio']:.2f} times as long as {evidence['query_rows_few']:g} "
            f"in the tables of {evidence['from']}"
        )
    return str(evidence.get("says", ""))
