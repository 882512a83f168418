"""The numbers behind the closed forms of one prediction: walls, the best length's line, trees."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from magicplan.prediction.choice.candidates import family_drafts
from magicplan.prediction.draft_names import draft_of
from magicplan.prediction.regimes import GROWTH
from magicplan.prediction.result import Prediction, Round
from magicplan.roofline.acceptance import accept_length_variance, tokens_per_round
from magicplan.roofline.drafts import Draft
from magicplan.roofline.layers.costs import LayerCost, layer_costs
from magicplan.roofline.speculation import optimal_gamma, rounds, static_efficiency
from magicplan.roofline.symbolic import View
from magicplan.roofline.tree_grid import Limits, tree_cells

TREE = Limits(size=64, depth=12)
GROWTH_CONTEXTS = (4096, 16384, 65536, 262144)
FAMILY_CONTEXTS = {"4k": 4096.0, "64k": 65536.0}
USUAL_OUTPUT_TOKENS = 256.0
"""Output of a static batch where none was asked about."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreeNumbers:
    """The best tree of the workload and its round."""

    size: float
    depth: float
    tokens_per_round: float
    speedup: float
    draft_seconds: float
    verify_seconds: float
    round_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpeculationNumbers:
    """Numbers of a workload with a draft."""

    draft: Draft
    best: Round
    """The draft length chosen, or the first where none pays."""
    first_acceptance: float
    fixed_seconds: float
    """Seconds of a round that no drafted token adds to."""
    slope_seconds: float
    """Seconds that each drafted token adds to a round."""
    best_gamma: float
    """The best draft length of that line, as a closed form has it."""
    fastest_gamma: int
    """The draft length that is fastest when every length is evaluated."""
    best_gammas: dict[int, float]
    """The best draft length by context, as a closed form has it."""
    survival: tuple[float, ...]
    """Probability that the first 1 to 4 drafted tokens are accepted."""
    survival_tokens: float
    """Tokens a round of 4 drafted."""
    family_ratios: dict[str, float]
    """Fixed over slope seconds, by kind of drafter and context."""
    tree: TreeNumbers | None
    """Numbers of a draft in trees; None for a draft that grows none."""
    static_output_tokens: float
    static_mean_tokens: float
    static_variance: float
    static_share: float
    """Throughput of a static batch over that of continuous batching."""


VERIFIED_TOKENS = 5.0
"""Query tokens of the verification that layers are compared by: four drafted, and one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClosedForms:
    """One prediction with the numbers of its closed forms."""

    prediction: Prediction
    batch: float
    """Sequences of a replica."""
    kv_equals_weights: Any
    """The context at which KV bytes equal weight bytes as an expression in B; None without one."""
    linear_wall: Any
    """Query tokens at which linear layers turn compute-bound, an expression; None for experts."""
    linear_wall_tokens: float | None
    """Query tokens a sequence at which linear layers turn compute-bound."""
    attention: tuple[float, float] | None
    """FLOP a byte at which attention turns compute-bound, and FLOP a byte of one query token; None
    for a model without attention."""
    speculation: SpeculationNumbers | None
    """Forms of speculation; None where no draft was asked for."""
    layers: tuple[LayerCost, ...]
    """Every kind of layer, with a verification of `VERIFIED_TOKENS` beside a step."""

    @property
    def attention_wall_tokens(self) -> float | None:
        """Query tokens at which attention turns compute-bound."""
        return None if self.attention is None else self.attention[0] / self.attention[1]


def closed_forms(p: Prediction) -> ClosedForms:
    """The numbers of all closed forms of one workload's prediction."""
    layout = p.scene.layout
    one = replace(layout, tp=_one(layout.tp), pp=_one(layout.pp), replicas=_one(layout.replicas))
    view = View(model=p.scene.target, layout=one, machine=p.scene.machine)
    batch, wall = float(p.workload.batch_per_replica), view.linear_wall()
    ridge = view.attention_ridge()
    return ClosedForms(
        prediction=p,
        batch=batch,
        kv_equals_weights=view.kv_equals_weights(),
        linear_wall=wall,
        linear_wall_tokens=None if wall is None else float(wall) / batch,
        attention=None if ridge is None else (ridge, float(view.attention_intensity())),
        speculation=_speculation(p, batch) if len(p.gammas) > 1 else None,
        layers=layer_costs(
            p.scene.target,
            one,
            max(batch / float(np.max(layout.pp)) / layout.attention_dp, 1.0),
            float(np.max(p.scene.ctx)),
            VERIFIED_TOKENS,
            float(np.max(p.baseline.weight_bytes)),
        ),
    )


def _one(value: Any) -> float:
    """The largest of degrees that a grid may hold."""
    return float(np.max(value))


def _speculation(p: Prediction, batch: float) -> SpeculationNumbers | None:
    draft = p.resolved.draft
    if draft is None:
        return None
    best = p.best if p.best.gamma else p.gammas[1]
    times = np.array([float(entry.round_seconds) for entry in p.gammas])
    slope = float(np.diff(times[:5]).mean())
    alpha, fixed = float(p.gammas[1].tokens_per_round) - 1, float(times[1] - slope)
    law = p.resolved.acceptance
    four = law.survival(4, p.scene.ctx, draft.budget_tokens)[0, 0]
    survival = law.survival(int(best.gamma), p.scene.ctx, draft.budget_tokens)
    mean = float(tokens_per_round(survival)[0, 0, -1])
    variance = float(accept_length_variance(survival)[0, 0, -1])
    output = float(p.workload.output_tokens) or USUAL_OUTPUT_TOKENS
    return SpeculationNumbers(
        draft=draft,
        best=best,
        first_acceptance=alpha,
        fixed_seconds=fixed,
        slope_seconds=slope,
        best_gamma=float(optimal_gamma(alpha, fixed, slope)),
        fastest_gamma=int(max(p.gammas, key=lambda entry: float(entry.tokens_per_s)).gamma),
        best_gammas=_growth(p, draft, alpha),
        survival=tuple(float(value) for value in four),
        survival_tokens=float(tokens_per_round(four)[-1]),
        family_ratios=_families(p),
        tree=_tree(p, draft) if draft.grows_trees else None,
        static_output_tokens=output,
        static_mean_tokens=mean,
        static_variance=variance,
        static_share=float(static_efficiency(mean, variance, output, batch)),
    )


def _growth(p: Prediction, draft: Draft, alpha: float) -> dict[int, float]:
    """The best draft length over contexts that quadruple, with this draft."""
    contexts = np.array([float(ctx) for ctx in GROWTH_CONTEXTS])
    scene = replace(p.scene, ctx=contexts[None, :])
    table = rounds(scene, draft, p.resolved.acceptance, 4)
    times = np.broadcast_to(table.round_seconds, (1, contexts.size, 5))[0]
    slope = np.diff(times, axis=-1).mean(axis=-1)
    lengths = optimal_gamma(alpha, times[:, 1] - slope, slope)
    return {ctx: float(length) for ctx, length in zip(GROWTH_CONTEXTS, lengths, strict=True)}


def _families(p: Prediction) -> dict[str, float]:
    """Fixed over slope seconds of each kind of drafter at two contexts: the best draft length
    rises with it."""
    contexts = np.array([list(FAMILY_CONTEXTS.values())])
    scene = replace(p.scene, ctx=contexts, output_tokens=0.0)
    found = {}
    for choice in family_drafts(p.resolved.model.name):
        ask = replace(p.resolved.request, draft_dtype=None, **choice)  # type: ignore[arg-type]
        draft = draft_of(ask, p.resolved.model)
        if draft is None:
            continue
        table = rounds(scene, draft, p.resolved.acceptance, 4)
        times = np.broadcast_to(table.round_seconds, (1, contexts.size, 5))[0]
        slope = np.diff(times, axis=-1).mean(axis=-1)
        for name, ratio in zip(FAMILY_CONTEXTS, (times[:, 1] - slope) / slope, strict=True):
            found[f"{GROWTH[draft.kv_growth]} at {name}"] = float(ratio)
    return found


def _tree(p: Prediction, draft: Draft) -> TreeNumbers:
    best = tree_cells(p.scene, draft, p.resolved.acceptance, TREE).best
    names = TreeNumbers.__dataclass_fields__
    return TreeNumbers(**{name: float(getattr(best, name)[0, 0]) for name in names})
