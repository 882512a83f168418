"""The answer: what `predict` returns, in the names and units of its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any

import numpy as np

from magicplan.hardware_specs.calibration import Calibration
from magicplan.prediction.break_even import BreakEven, break_even
from magicplan.prediction.placement import Placement
from magicplan.prediction.resolve import Resolved
from magicplan.prediction.verdict import Verdict, at_words, grid_verdict, workload_verdict
from magicplan.roofline.speculation import Rounds, Scene
from magicplan.roofline.timing import StepCost
from magicplan.roofline.traffic import Op

Cells = Any
"""A number for one workload, an array [batch, ctx] over a grid."""
SCHEMA = "magicplan.prediction/1"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AcceleratorUsed:
    """The accelerator by its exact name, the name asked for, and how many."""

    name: str
    asked: str
    count: Any


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelUsed:
    """The model and its parameters."""

    name: str
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeploymentUsed:
    """GPUs, degrees and formats; arrays over a grid on which `--gpus auto` chose."""

    gpus: Cells
    tp: Cells
    replicas: Cells
    pp: Cells
    ep: float
    attention_dp: float
    dtype: str
    kv_dtype: str
    formats: Mapping[str, str]
    """Number format of each part: experts, linear, head, embeddings, kv."""
    stack: str
    calibration: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorkloadUsed:
    """Sequences and tokens; `ctx_tokens` is the context asked for, before any output."""

    batch: Cells
    batch_per_replica: Cells
    ctx_tokens: Cells
    output_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MemoryUsed:
    """Bytes that one replica holds, and needs and has on each GPU."""

    weights_bytes: Cells
    kv_bytes: Cells
    draft_bytes: Cells
    workspace_bytes: Cells
    needed_bytes_per_gpu: Cells
    available_bytes_per_gpu: float
    fits: Cells
    max_batch: Cells


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One plain decode step of a replica; bytes and FLOP of one of its GPUs."""

    step_seconds: Cells
    low_seconds: Cells
    high_seconds: Cells
    linear_seconds: Cells
    attention_seconds: Cells
    collective_seconds: Cells
    elementwise_seconds: Cells
    host_seconds: Cells
    weight_bytes: Cells
    kv_bytes: Cells
    activation_bytes: Cells
    flops: Cells
    tokens_per_s: Cells
    bound: Any


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Round:
    """One draft length; `draft_seconds` is all its draft steps."""

    draft: Any
    gamma: Any
    tokens_per_round: Cells
    draft_seconds: Cells
    verify_seconds: Cells
    overhead_seconds: Cells
    round_seconds: Cells
    tokens_per_s: Cells
    speedup: Cells
    speedup_low: Cells
    speedup_high: Cells
    runs_on_stack: Any = True
    exists_for_model: Any = True
    head: Any = None
    """Hugging Face id of the head that it drafts with, where it needs one."""
    size: Any = None
    """Nodes of a tree, its root counted; None for a chain. A tree's `gamma` is its depth below the
    root."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ideal:
    """The naive roofline's answer to the same question, at the draft length asked for, or at the
    best."""

    step_seconds: Cells
    speedup: Cells


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """A whole answer. Arrays are [batch, ctx], single numbers where one workload was asked."""

    accelerator: AcceleratorUsed
    model: ModelUsed
    deployment: DeploymentUsed
    workload: WorkloadUsed
    memory: MemoryUsed
    baseline: Step
    best: Round
    gammas: tuple[Round, ...]
    alternative: Round | None
    """The fastest round that exists for the model and that another stack runs, not this one."""
    ideal: Ideal
    assumptions: tuple[str, ...]
    beside: str = field(repr=False)
    """A sentence on the alternative, where it is better."""
    resolved: Resolved = field(repr=False)
    placement: Placement = field(repr=False)
    scene: Scene = field(repr=False)
    rounds: Rounds = field(repr=False)
    ops: tuple[Op, ...] = field(repr=False)
    step: StepCost = field(repr=False)

    @cached_property
    def break_even(self) -> BreakEven:
        """Contexts, batches and acceptance at which regimes change, computed once, when needed."""
        return break_even(self.resolved, self.placement, self.rounds)

    @property
    def judged(self) -> tuple[Round, ...]:
        """The rounds that the verdict is on: all, or the one whose length was asked for beside
        plain decoding. It is in `gammas` also where `best` is not to speculate."""
        asked = self.resolved.request.gamma
        if asked == "auto" or len(self.gammas) == 1:
            return self.gammas
        return tuple(dict.fromkeys((self.gammas[0], self.gammas[int(asked)])))

    @cached_property
    def verdict(self) -> Verdict:
        """Whether to speculate, for one workload or for every cell of a grid."""
        if not np.ndim(self.workload.batch):
            where = at_words(self.deployment.stack, float(self.workload.ctx_tokens))
            return workload_verdict(
                str(self.baseline.bound), self.best, self.judged, where, self.beside
            )
        cells = (self.memory.fits, self.workload.batch, self.workload.ctx_tokens)
        return grid_verdict(f"on {self.accelerator.name}", cells, self.best, self.judged)

    def to_dict(self) -> dict[str, Any]:
        """The prediction's JSON: plain numbers, lists over a grid, null for what is absent."""
        document: dict[str, Any] = {"schema": SCHEMA}
        for name in ("accelerator", "model", "deployment", "workload", "memory"):
            document[name] = self._plain(getattr(self, name))
        document["verdict"] = self.verdict.to_dict()
        document["baseline"] = self._plain(self.baseline)
        document["best"] = self._plain(self.best)
        document["alternative"] = self.alternative and self._plain(self.alternative)
        document["gammas"] = [self._plain(entry) for entry in self.gammas]
        document["break_even"] = self._plain(self.break_even)
        document["wanted_speedup"] = self.resolved.request.want_speedup
        document["ideal"] = self._plain(self.ideal)
        document["calibration"] = provenance(self.scene.machine.calibration)
        document["assumptions"] = list(self.assumptions)
        return document

    def _plain(self, value: Any) -> Any:
        if is_dataclass(value):
            return {f.name: self._plain(getattr(value, f.name)) for f in fields(value)}
        return plain(value)


def provenance(calibration: Calibration) -> dict[str, Any]:
    """A calibration's name, where it is from, and what each part of it rests on."""
    return {
        "name": calibration.name,
        "origin": calibration.origin,
        "evidence": [dict(entry) for entry in calibration.evidence],
    }


def plain(value: Any) -> Any:
    """NumPy to Python, NaN and infinity to None, integers where a count is whole."""
    if isinstance(value, np.ndarray):
        return [plain(entry) for entry in value] if value.ndim else plain(value.item())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
