"""What the model says of every point, before any of them is measured: calibrated and ideal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magicplan.calibrate.device_fit import Subject, drafting_seconds, target_seconds
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.calibration import Calibration
from magicplan.hardware_specs.transfer import ideal
from magicplan.roofline.acceptance import Acceptance, tokens_per_round
from magicplan.roofline.deployment import Array
from magicplan.roofline.draft_cost import catch_up_seconds, draft_step
from magicplan.roofline.timing import Machine, memory_seconds
from magicplan.roofline.traffic import Op, Pass, forward
from magicplan.validate.measure.grid import Point

CACHED = 2.0
"""Times the last-level cache: a step that moves less may be served from it, so memory bandwidth is
no floor under it."""
TIMES = ("decode_seconds", "draft_seconds", "verify_seconds", "round_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecaster:
    """Predictions of every point of one run."""

    subject: Subject
    accelerator: Accelerator
    calibration: Calibration
    acceptance: Acceptance

    def points(self, points: Sequence[Point]) -> list[dict[str, Any]]:
        """One JSON object a point: what it is, `predicted`, `ideal` and `floor`."""
        predicted = self._times(points, self.calibration)
        bare = self._times(points, ideal())
        emitted = [self.tokens(point) for point in points]
        floors = self._floors(points, bare)
        return [
            {"id": point.id, "batch": point.batch, "ctx_tokens": point.ctx}
            | name_of(point)
            | {
                "predicted": rates(point.batch, {k: v[i] for k, v in predicted.items()}, tokens),
                "ideal": rates(point.batch, {k: v[i] for k, v in bare.items()}, tokens),
                "floor": {k: v[i] for k, v in floors.items() if v[i] > 0},
            }
            for i, (point, tokens) in enumerate(zip(points, emitted, strict=True))
        ]

    def tokens(self, point: Point) -> float:
        """The expected number of tokens emitted a round and sequence."""
        budget = self.subject.draft.budget_tokens if self.subject.draft else None
        ctx = np.asarray(float(point.ctx))
        if point.tree is None:
            survival = self.acceptance.survival(point.gamma, ctx, budget)
            return float(tokens_per_round(survival)[..., -1])
        width = max(point.tree.ranks) + 1
        return point.tree.expected_tokens(self.acceptance.ranks(width, ctx, budget))

    def _times(self, points: Sequence[Point], calibration: Calibration) -> dict[str, list[float]]:
        machine = Machine(accelerator=self.accelerator, calibration=calibration)
        batch, ctx, query = _columns(points)
        one = np.ones_like(query)
        drafting = np.asarray([self._drafting(machine, point) for point in points])
        verify = target_seconds(self.subject, machine, batch, ctx, query)
        between = calibration.host.between_passes_seconds(batch)
        return {
            "decode_seconds": target_seconds(self.subject, machine, batch, ctx, one).tolist(),
            "draft_seconds": drafting.tolist(),
            "verify_seconds": verify.tolist(),
            "round_seconds": (drafting + verify + between).tolist(),
        }

    def _drafting(self, machine: Machine, point: Point) -> float:
        """All draft passes of a round: over one token each in a chain, over a level of a tree."""
        batch, ctx = np.asarray(float(point.batch)), np.asarray(float(point.ctx))
        draft, layout = self.subject.draft, self.subject.layout
        if draft is None:
            return 0.0
        first = float(catch_up_seconds(draft, layout, machine, batch, ctx))
        if point.tree is None:
            return first + point.gamma * float(drafting_seconds(self.subject, machine, batch, ctx))
        widths = np.asarray(point.tree.level_widths[:-1], dtype=np.float64)
        cost = draft_step(draft, layout, machine, batch, ctx, width=widths)
        return first + float(np.sum(np.broadcast_to(cost.seconds, widths.shape)))

    def _floors(
        self, points: Sequence[Point], bare: dict[str, list[float]]
    ) -> dict[str, list[float]]:
        """Ideal times that no measurement may beat; 0 where the cache may serve the step."""
        batch, ctx, query = _columns(points)
        machine = Machine(accelerator=self.accelerator, calibration=ideal())
        cache = CACHED * (self.accelerator.l2_bytes or 0.0)

        def cold(ops: tuple[Op, ...]) -> NDArray[np.bool_]:
            moved = sum(op.count * memory_seconds(op, machine) for op in ops) * machine.bytes_per_s
            return np.asarray(moved >= cache) & np.ones(len(points), dtype=np.bool_)

        def target(tokens: Array) -> NDArray[np.bool_]:
            work = Pass(batch=batch, ctx=ctx, query_tokens=tokens)
            return cold(forward(self.subject.model, self.subject.layout, work))

        decode = np.where(target(np.ones_like(query)), bare["decode_seconds"], 0.0)
        verify = np.where(target(query), bare["verify_seconds"], 0.0)
        draft = np.zeros(len(points))
        if self.subject.draft is not None and self.subject.draft.shape is not None:
            shape = self.subject.draft.shape
            work = Pass(batch=batch, ctx=ctx, view=self.subject.draft.view)
            own = cold(forward(shape, self.subject.layout, work))
            draft = np.where(own, bare["draft_seconds"], 0.0)
        return {
            "decode_seconds": decode.tolist(),
            "draft_seconds": draft.tolist(),
            "verify_seconds": verify.tolist(),
            "round_seconds": np.where(verify > 0, draft + verify, 0.0).tolist(),
        }


def _columns(points: Sequence[Point]) -> tuple[Array, Array, Array]:
    table = [(p.batch, p.ctx, p.query_tokens) for p in points]
    batch, ctx, query = np.asarray(table, dtype=np.float64).T
    return batch, ctx, query


def name_of(point: Point) -> dict[str, Any]:
    """What a round of the point drafts: `gamma`, or the `tree`."""
    if point.tree is None:
        return {"gamma": point.gamma}
    return {"tree": {"size": point.tree.size, "depth": point.tree.depth,
                     "parents": list(point.tree.parents)}}  # fmt: skip


def rates(batch: int, times: dict[str, float], tokens: float) -> dict[str, float]:
    """Times with what follows from them: tokens a second with and without speculation."""
    speculative = batch * tokens / times["round_seconds"]
    plain = batch / times["decode_seconds"]
    return times | {
        "tokens_per_round": tokens,
        "tokens_per_s": speculative,
        "baseline_tokens_per_s": plain,
        "speedup": speculative / plain,
    }
