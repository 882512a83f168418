"""Every configuration a plan may choose, GPU type x layout x formats x draft, and its bounds.

Loops run over GPU types, formats and drafts; layouts, batches and draft lengths are array axes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from magicplan.engine_specs.capabilities import engine_of, kv_refusal, tree_kind
from magicplan.errors import UsageError
from magicplan.model_specs.shape import ModelShape
from magicplan.planning.request import PlanRequest
from magicplan.prediction.choice.contenders import launchable_drafts
from magicplan.prediction.draft_names import every_budget
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import Resolved, passes_of, resolve
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.memory import (
    candidate_layouts,
    footprint,
    splits_evenly,
    tensor_parallel_degrees,
)
from magicplan.serving.load import Load
from magicplan.serving.replica import (
    DEGREES,
    PLAIN,
    EngineLimits,
    Replica,
    ReplicaRounds,
    Speculation,
    one_of,
    replica,
    rounds_of,
)
from magicplan.serving.screen import Screen, screen


@dataclass(frozen=True, kw_only=True, eq=False)
class Configuration:
    """One row of the search: a replica's kind and where its numbers come from."""

    resolved: Resolved
    replica: Replica
    layout: int
    """Index of its degrees in the replica's layout arrays."""
    spec: Speculation
    draft: str
    """The draft as the request names it; `none` for plain decoding."""
    rounds: ReplicaRounds
    bounds: Screen
    """Bounds of all layouts, as `rounds`."""

    @cached_property
    def one_layout(self) -> Deployment:
        """The deployment of this row alone, with plain degrees."""
        one = one_of(self.replica.layout, self.layout)
        plain: dict[str, Any] = {name: float(getattr(one, name)[0]) for name in DEGREES}
        return replace(one, **plain)

    @property
    def tp(self) -> int:
        """Tensor parallel degree."""
        return int(self.one_layout.tp)

    @property
    def pp(self) -> int:
        """Pipeline stages."""
        return int(self.one_layout.pp)

    @property
    def ep(self) -> int:
        """GPUs that whole experts are spread over."""
        return int(self.one_layout.ep)

    @property
    def attention_dp(self) -> int:
        """Groups of GPUs with attention and sequences of their own."""
        return int(self.one_layout.attention_dp)

    @property
    def gpus_per_replica(self) -> int:
        """GPUs that hold one copy of the model."""
        return int(self.one_layout.gpus_per_replica)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Search:
    """All rows, and what was left out."""

    rows: tuple[Configuration, ...]
    rejected: Mapping[str, int]
    cells: int = field(default=0)
    """Configurations x batches x draft lengths and trees that were evaluated."""


def limits_of(ask: PlanRequest) -> EngineLimits:
    """The engine as configured."""
    return EngineLimits(
        batched_tokens=float(ask.engine.batched_tokens),
        max_sequences=float(ask.engine.max_sequences),
        memory_fraction=ask.engine.memory_fraction,
        kv_passes=passes_of(ask.engine.verify_kv_passes),
    )


def fleet(ask: PlanRequest, load: Load) -> Search:
    """Every configuration and its bounds. Raises UsageError if there is none."""
    rows: list[Configuration] = []
    rejected: Counter[str] = Counter()
    cells = 0
    for base in _bases(ask, load, rejected):
        layouts = layouts_of(ask, base)
        if not layouts:
            rejected["no tensor parallel degree asked for splits its heads or fits its node"] += 1
            continue
        longest = ask.choices.max_gamma if set(ask.choices.drafts) != {"none"} else 0
        drafts = list(_drafts(ask, base, rejected))
        for layout in layouts:
            shared = replica(base.model, base.machine, layout, load, limits_of(ask), longest)
            for draft, spec, resolved in drafts:
                rounds = rounds_of(shared, spec)
                bounds = screen(shared, spec, rounds, ask.slo)
                cells += rounds.round_seconds.size * rounds.looked_at
                rows += [
                    Configuration(
                        resolved=resolved, replica=shared, layout=i, spec=spec, draft=draft,
                        rounds=rounds, bounds=bounds,
                    )
                    for i in range(shared.layouts)
                ]  # fmt: skip
    if not rows:
        reasons = "; ".join(rejected) or "no GPU, format and draft were given"
        raise UsageError(f"nothing can be planned: {reasons}")
    return Search(rows=tuple(rows), rejected=rejected, cells=cells)


def _bases(ask: PlanRequest, load: Load, rejected: Counter[str]) -> Iterator[Resolved]:
    """One resolved question for each GPU type and pair of formats."""
    ctx = max(int(load.contexts().mean()), 1)
    choices, engine = ask.choices, ask.engine
    for gpu in choices.gpus:
        for dtype in choices.dtypes:
            for kv_dtype in choices.kv_dtypes:
                question = Request(
                    gpu=gpu, model=ask.model, ctx=ctx, dtype=_plain(dtype),
                    kv_dtype=_plain(kv_dtype), stack=engine.stack, draft="none",
                    ep=choices.ep or 1, attention_dp=choices.attention_dp or 1,
                    memory_fraction=engine.memory_fraction,
                    verify_kv_passes=engine.verify_kv_passes,
                )  # fmt: skip
                try:
                    found = resolve(question)
                    _refuse_format(ask.engine.stack, found)
                    yield found
                except UsageError as problem:
                    if len(choices.gpus) * len(choices.dtypes) * len(choices.kv_dtypes) == 1:
                        raise
                    rejected[str(problem)] += 1


def _refuse_format(stack: str, base: Resolved) -> None:
    """Raises UsageError for a KV format that the stack's engine has no way to hold."""
    engine = engine_of(stack)
    if engine and (why := kv_refusal(engine, base.model, base.layout.kv_dtype)):
        raise UsageError(f"kv_dtypes {base.layout.kv_dtype}: {why}")


def _plain(dtype: str) -> str | None:
    """bf16 asks for the part's own 16-bit format."""
    return None if dtype == "bf16" else dtype


def _drafts(
    ask: PlanRequest, base: Resolved, rejected: Counter[str]
) -> Iterator[tuple[str, Speculation, Resolved]]:
    """Plain decoding, and every draft that applies and whose acceptance is known."""
    for text in dict.fromkeys(drafts_of(ask, base.model)):
        if text == "none":
            yield "none", PLAIN, base
            continue
        name, _, view = text.partition(" ")
        question = replace(
            base.request, draft=name, draft_kv=view or None,
            acceptance=acceptance_of(ask, text), task=ask.choices.task,
            max_gamma=ask.choices.max_gamma,
        )  # fmt: skip
        try:
            resolved = resolve(question)
        except UsageError as problem:
            if ask.choices.drafts == (text,):
                raise
            rejected[f"draft {text}: {problem}"] += 1
            continue
        spec = Speculation(
            draft=resolved.draft,
            acceptance=resolved.acceptance,
            trees=tree_kind(ask.engine.stack, resolved.draft, ask.choices.trees),
        )
        yield text, spec, resolved


def acceptance_of(ask: PlanRequest, text: str) -> str:
    """What is stated for a draft: for its view and budget, for its view, or for all its views."""
    stated = ask.choices.acceptance
    if isinstance(stated, str):
        return stated
    name, (kind, _, _) = text.partition(" ")[0], text.partition(":")
    keys = (text, kind, name)
    return next((stated[key] for key in keys if key in stated), "auto")


def drafts_of(ask: PlanRequest, model: ModelShape) -> Iterator[str]:
    """Every draft asked for, `auto` and views without a budget written out."""
    for text in ask.choices.drafts:
        if text != "auto":
            yield from every_budget(text)
            continue
        yield from launchable_drafts(model, ask.engine.stack)


Degrees = tuple[int, int, int, int]
"""Tensor parallel, pipeline, expert parallel, attention data parallel."""


def layouts_of(ask: PlanRequest, base: Resolved) -> tuple[Deployment, ...]:
    """Layouts worth trying for a replica, as degrees [layout]; none where nothing splits evenly.

    Experts may be split over the tensor-parallel GPUs or spread whole over them (ep = tp): vLLM's
    --enable-expert-parallel, SGLang's --ep-size. And every GPU may run the attention of its own
    sequences while experts are spread over all of them (tp = 1, ep = attention_dp = N): vLLM's
    --data-parallel-size, SGLang's --enable-dp-attention; it pays where tensor parallelism would
    hold the same KV cache on every GPU, as under latent attention. Layouts whose experts exchange
    tokens stand apart, for that is another collective.
    """
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
    if ask.choices.tp is not None:
        degrees = [(tp, 1) for tp in ask.choices.tp if splits_evenly(model, tp)]
    pp = ask.choices.pp
    if pp is not None:
        degrees = sorted({(tp, pp) for tp, _ in degrees if pp <= model.layers})
    return degrees


def _with_experts(
    ask: PlanRequest, model: ModelShape, ranks: Sequence[tuple[int, int]]
) -> list[Degrees]:
    """Each of them with its experts split, then with its experts whole; or as asked for."""
    dp = ask.choices.attention_dp or 1
    if ask.choices.ep is not None or model.experts is None:
        ep = ask.choices.ep or 1
        return [(tp, pp, ep, dp) for tp, pp in ranks if tp * dp % ep == 0]
    whole = [(tp, pp) for tp, pp in ranks if tp * dp > 1 and model.experts.count % (tp * dp) == 0]
    split = [(tp, pp, 1, dp) for tp, pp in ranks]
    return split if dp > 1 else [*split, *((tp, pp, tp, 1) for tp, pp in whole)]


def _data_parallel(ask: PlanRequest, base: Resolved) -> list[Degrees]:
    """Layouts with as many groups of one GPU each as tensor parallelism would take in a node."""
    model, experts = base.model, base.model.experts
    if experts is None and model.latent is None:
        return []
    if 1 not in (ask.choices.tp or (1,)) or 1 not in (ask.choices.pp or 1, 1):
        return []
    found: list[Degrees] = []
    for dp in tensor_parallel_degrees(model, base.machine.accelerator):
        ep = dp if experts else 1
        even = experts is None or experts.count % ep == 0
        wanted = ask.choices.attention_dp in (None, dp) and ask.choices.ep in (None, ep)
        if dp > 1 and even and wanted:
            found.append((1, 1, ep, dp))
    return found


def _holds(ask: PlanRequest, base: Resolved, tp: int) -> bool:
    """Whether that many GPUs hold the weights and one request of the length planned for."""
    layout = replace(base.layout, tp=float(tp), pp=1.0)
    available = base.machine.accelerator.memory_bytes * ask.engine.memory_fraction
    ctx = float(np.max(base.final_ctx))
    return bool(np.all(footprint(base.model, layout, 1.0, ctx, available).fits))
