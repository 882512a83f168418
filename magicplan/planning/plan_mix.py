"""A plan within the GPUs at hand: several kinds of replicas, where they cost less than one."""

from __future__ import annotations

from dataclasses import replace

from magicplan.planning.mixed_fleet import mixed_fleet
from magicplan.planning.plan_result import Plan

SAME = 1 - 1e-6
"""Of a cost: what is nearer is no saving."""


def with_mix(found: Plan) -> Plan:
    """The plan with the cheapest mix, which is the answer where no single kind of replica meets
    the limits, or where cost is the objective and the mix costs less."""
    mixed, best = mixed_fleet([found]), found.best
    cheaper = mixed.cost_usd_per_hour < best.cost_usd_per_hour * SAME
    if not mixed.feasible or (best.meets and not (cheaper and found.request.objective == "cost")):
        return replace(found, mixed=mixed)
    alone = f"{best.name}, costs {best.cost_usd_per_hour:.2f}"
    if not best.meets:
        worst = max(best.violations, key=best.violations.__getitem__)
        alone = f"{best.name}, breaks {worst} by {best.violations[worst]:.2f} times"
    return replace(
        found,
        answer="mixed",
        feasible=True,
        verdict=f"a mix: {mixed.verdict}; the best of one kind alone, {alone}",
        launch=tuple(one for part in mixed.parts for one in part.launch),
        mixed=mixed,
    )
