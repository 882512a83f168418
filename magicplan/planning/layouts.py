"""Degrees of parallelism worth trying for a replica, dense models and mixtures of experts alike.

Experts may be split over the tensor-parallel GPUs or spread whole over them (ep = tp): vLLM's
--enable-expert-parallel, SGLang's --ep-size. And every GPU may run the attention of its own
sequences while experts are spread over all of them (tp = 1, ep = attention_dp = N): vLLM's
--data-parallel-size, SGLang's --enable-dp-attention; it pays where tensor parallelism would hold
the same KV cache on every GPU, as under latent attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from magicplan.model_specs.shape import ModelShape
from magicplan.planning.request import PlanRequest
from magicplan.prediction.resolve import Resolved
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.memory import (
    candidate_layouts,
    footprint,
    splits_evenly,
    tensor_parallel_degrees,
)

Degrees = tuple[int, int, int, int]
"""Tensor parallel, pipeline, expert parallel, attention data parallel."""


def layouts_of(ask: PlanRequest, base: Resolved) -> tuple[Deployment, ...]:
    """Layouts with degrees as arrays [layout]; those apart whose experts exchange tokens, which is
    another collective. None at all where nothing splits evenly."""
    ranks = _ranks(ask, base)
    degrees = dict.fromkeys([*_with_experts(ask, base.model, ranks), *_data_parallel(ask, base)])
    exchanging = [(tp, pp, ep, dp) for tp, pp, ep, dp in degrees if ep > 1 and dp > 1]
    others = [one for one in degrees if one not in exchanging]
    return tuple(_deployment(base, some) for some in (others, exchanging) if some)


def _deployment(base: Resolved, degrees: Sequence[Degrees]) -> Deployment:
    tp, pp, ep, dp = np.asarray(degrees, dtype=np.float64).T
    return replace(base.layout, tp=tp, pp=pp, ep=ep, attention_dp=dp)


def _ranks(ask: PlanRequest, base: Resolved) -> list[tuple[int, int]]:
    """Tensor parallel degrees inside a node, and pipeline stages where none of them is enough."""
    model, accelerator = base.model, base.machine.accelerator
    degrees = list(candidate_layouts(model, accelerator))
    one_node = [(tp, pp) for tp, pp in degrees if pp == 1]
    if any(_holds(ask, base, tp) for tp, _ in one_node):
        degrees = one_node
    if ask.tp is not None:
        degrees = [(tp, 1) for tp in ask.tp if splits_evenly(model, tp)]
    if ask.pp is not None:
        degrees = sorted({(tp, ask.pp) for tp, _ in degrees if ask.pp <= model.layers})
    return degrees


def _with_experts(
    ask: PlanRequest, model: ModelShape, ranks: Sequence[tuple[int, int]]
) -> list[Degrees]:
    """Each of them with its experts split, then with its experts whole; or as asked for."""
    dp = ask.attention_dp or 1
    if ask.ep is not None or model.experts is None:
        ep = ask.ep or 1
        return [(tp, pp, ep, dp) for tp, pp in ranks if tp * dp % ep == 0]
    whole = [(tp, pp) for tp, pp in ranks if tp * dp > 1 and model.experts.count % (tp * dp) == 0]
    split = [(tp, pp, 1, dp) for tp, pp in ranks]
    return split if dp > 1 else [*split, *((tp, pp, tp, 1) for tp, pp in whole)]


def _data_parallel(ask: PlanRequest, base: Resolved) -> list[Degrees]:
    """As many groups of one GPU each as tensor parallelism would take, inside a node."""
    model, experts = base.model, base.model.experts
    if experts is None and model.latent is None:
        return []
    if 1 not in (ask.tp or (1,)) or 1 not in (ask.pp or 1, 1):
        return []
    found: list[Degrees] = []
    for dp in tensor_parallel_degrees(model, base.machine.accelerator):
        ep = dp if experts else 1
        even = experts is None or experts.count % ep == 0
        wanted = ask.attention_dp in (None, dp) and ask.ep in (None, ep)
        if dp > 1 and even and wanted:
            found.append((1, 1, ep, dp))
    return found


def _holds(ask: PlanRequest, base: Resolved, tp: int) -> bool:
    """Whether that many GPUs hold the weights and one request of the length planned for."""
    layout = replace(base.layout, tp=float(tp), pp=1.0)
    available = base.machine.accelerator.memory_bytes * ask.memory_fraction
    ctx = float(np.max(base.final_ctx))
    return bool(np.all(footprint(base.model, layout, 1.0, ctx, available).fits))
