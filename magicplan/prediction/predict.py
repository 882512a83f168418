"""`predict`: one question about decoding, answered for one workload or a whole grid at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from magicplan.hardware_specs.transfer import ideal
from magicplan.prediction.placement import Placement, place, scene_of
from magicplan.prediction.request import request
from magicplan.prediction.resolve import Resolved, resolve
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
from magicplan.roofline.deployment import Array, Indices
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


def predict(gpu: str, **options: Any) -> Prediction:
    """Decode step, best draft length, speedup and memory of a workload.

    Takes the fields of `Request`: `predict(gpu="h100", model="llama-3.1-8b", batch=[1, 8],
    ctx=[4096, 65536])` answers for the grid, with arrays [batch, ctx]. Times are seconds, sizes
    bytes. Raises UsageError for names and numbers that make no sense, DoesNotFit for a single
    workload that the GPUs asked for do not hold.
    """
    return answer(resolve(request(gpu, options)))


def answer(ask: Resolved) -> Prediction:
    """The prediction of a resolved question."""
    placement = place(ask)
    scene = scene_of(ask, placement)
    ops = forward(ask.model, placement.layout, Pass(batch=scene.batch, ctx=scene.ctx))
    host = ask.machine.calibration.host.pass_seconds(scene.batch, scene.batch)
    step = step_cost(ops, ask.machine, host)
    table = rounds(scene, ask.draft, ask.acceptance, ask.max_gamma)
    shape = np.broadcast_shapes(ask.batch.shape, ask.ctx.shape)
    view = _View(scalar=ask.scalar, shape=shape, fits=placement.fits)
    best = _chosen_gamma(ask, table)
    gammas = tuple(_round(ask, table, view, g) for g in range(table.gammas.size))
    return Prediction(
        accelerator=_accelerator(ask, placement, view),
        model=ModelUsed(name=ask.model.name, parameters=ask.model.parameters),
        deployment=_deployment(ask, placement, view),
        workload=_workload(ask, placement, view),
        memory=_memory(placement, view),
        baseline=_baseline(ask, scene, ops, step, view),
        best=_best_round(ask, table, view, best),
        gammas=gammas,
        ideal=_ideal(scene, ask, table, best, view),
        assumptions=_assumptions(ask, placement, scene, best),
        resolved=ask,
        placement=placement,
        scene=scene,
        rounds=table,
        ops=ops,
        step=step,
    )


class _View:
    """How internal [batch, ctx] arrays leave: broadcast, or as one number; rates only where fit."""

    def __init__(self, *, scalar: bool, shape: tuple[int, ...], fits: Array) -> None:
        self.scalar, self.shape, self.fits = scalar, shape, fits

    def __call__(self, value: Any) -> Any:
        full = np.broadcast_to(value, self.shape)
        return full[0, 0].item() if self.scalar else full

    def rate(self, value: Any) -> Any:
        """NaN where the cell does not fit."""
        return self(value) if self.fits.all() else self(np.where(self.fits, value, np.nan))

    def count(self, value: Any) -> Any:
        """A whole number."""
        full = self(np.asarray(value))
        return int(full) if self.scalar else full.astype(np.int64)


def _chosen_gamma(ask: Resolved, table: Rounds) -> Indices:
    """Index of the draft length: the fastest, or the one asked for."""
    if ask.request.gamma == "auto" or ask.draft is None:
        return table.best
    return np.full(table.best.shape, int(ask.request.gamma))


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


_ROUND_ARRAYS = tuple(f.name for f in fields(Round) if f.name not in ("draft", "gamma"))


def _draft_name(ask: Resolved) -> str:
    return ask.draft.name if ask.draft else "none"


def _round(ask: Resolved, table: Rounds, view: _View, gamma: int) -> Round:
    parts = {name: view.rate(_at(table, name, gamma)) for name in _ROUND_ARRAYS}
    return Round(draft=_draft_name(ask) if gamma else "none", gamma=gamma, **parts)


def _at(table: Rounds, name: str, gamma: int) -> Array:
    values = getattr(table, name)
    return np.asarray(values[..., min(gamma, values.shape[-1] - 1)])


def _best_round(ask: Resolved, table: Rounds, view: _View, best: Indices) -> Round:
    def take(name: str) -> Array:
        values = getattr(table, name)
        full = np.broadcast_to(values, (*best.shape, table.gammas.size))
        return np.take_along_axis(full, best[..., None], axis=-1)[..., 0]

    names = np.where(best > 0, _draft_name(ask), "none")
    parts = {name: view.rate(take(name)) for name in _ROUND_ARRAYS}
    return Round(draft=view(names), gamma=view.count(best), **parts)


def _ideal(scene: Scene, ask: Resolved, table: Rounds, best: Indices, view: _View) -> Ideal:
    """The naive roofline's answer: no calibration, KV read once a verification."""
    if ask.machine.calibration.name != "ideal" or ask.request.verify_kv_passes not in ("auto", 1):
        machine = Machine(accelerator=ask.machine.accelerator, calibration=ideal())
        bare = replace(scene, machine=machine, kv_passes=1.0)
        table = rounds(bare, ask.draft, ask.acceptance, ask.max_gamma)
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
