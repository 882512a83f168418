"""Every configuration a plan may choose: GPU type x layout x formats x draft, as steady states.

Loops run over GPU types, formats and drafts; layouts, batches and draft lengths are array axes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from magicplan import model_specs
from magicplan.engine_specs.capabilities import engine_of, kv_refusal, tree_kind
from magicplan.errors import UsageError
from magicplan.model_specs.shape import ModelShape
from magicplan.planning.layouts import layouts_of
from magicplan.planning.request import PlanRequest
from magicplan.prediction.draft_names import every_budget
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import Resolved, passes_of, resolve
from magicplan.roofline.deployment import Deployment
from magicplan.serving.load import Load
from magicplan.serving.replica import (
    DEGREES,
    PLAIN,
    EngineLimits,
    Replica,
    Speculation,
    one_of,
    pool,
    prompts_of,
    replica,
    rounds_of,
    states,
)
from magicplan.serving.steady_state import Steady, join

SMALL_DRAFTS = {
    128256: "llama-3.2-1b", 151936: "qwen3-0.6b", 152064: "qwen2.5-0.5b", 32000: "tinyllama-1.1b",
}  # fmt: skip
"""A shipped small model of the same vocabulary."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Configuration:
    """One row of the search: a replica's kind and where its numbers come from."""

    resolved: Resolved
    replica: Replica
    layout: int
    """Index of its degrees in the replica's layout arrays."""
    spec: Speculation
    draft: str
    """As asked for; `none` for plain decoding."""

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
class Fleet:
    """All rows, their joint steady states (config axis = rows), and what was left out."""

    rows: tuple[Configuration, ...]
    states: Steady
    pools: Steady
    """The same replicas where they only prefill, over utilisations; one row each."""
    rejected: Mapping[str, int]
    cells: int = field(default=0)
    """Configurations x batches x draft lengths and trees that were evaluated."""


def limits_of(ask: PlanRequest) -> EngineLimits:
    """The engine as configured."""
    return EngineLimits(
        batched_tokens=float(ask.batched_tokens),
        max_sequences=float(ask.max_sequences),
        memory_fraction=ask.memory_fraction,
        kv_passes=passes_of(ask.verify_kv_passes),
    )


def fleet(ask: PlanRequest, load: Load) -> Fleet:
    """Evaluate every configuration. Raises UsageError if none can be."""
    rows: list[Configuration] = []
    parts: list[Steady] = []
    pools: list[Steady] = []
    rejected: Counter[str] = Counter()
    cells = 0
    for base in _bases(ask, load, rejected):
        layouts = layouts_of(ask, base)
        if not layouts:
            rejected["no tensor parallel degree asked for splits its heads or fits its node"] += 1
            continue
        longest = ask.max_gamma if set(ask.drafts) != {"none"} else 0
        drafts = list(_drafts(ask, base, rejected))
        for layout in layouts:
            shared = replica(base.model, base.machine, layout, load, limits_of(ask), longest)
            alone = None
            for draft, spec, resolved in drafts:
                prompts = prompts_of(shared, spec)
                rounds = rounds_of(shared, spec)
                found = states(shared, spec, prompts, rounds)
                if alone is None or prompts.draft_seconds.any():
                    alone = pool(shared, prompts)
                    cells += alone.rate.size
                cells += found.rate.size * rounds.looked_at
                parts.append(found)
                pools.append(alone)
                rows += [
                    Configuration(
                        resolved=resolved, replica=shared, layout=i, spec=spec, draft=draft
                    )
                    for i in range(shared.layouts)
                ]  # fmt: skip
    if not parts:
        reasons = "; ".join(rejected) or "no GPU, format and draft were given"
        raise UsageError(f"nothing can be planned: {reasons}")
    return Fleet(rows=tuple(rows), states=join(parts), pools=join(pools), rejected=rejected,
                 cells=cells)  # fmt: skip


def _bases(ask: PlanRequest, load: Load, rejected: Counter[str]) -> Iterator[Resolved]:
    """One resolved question for each GPU type and pair of formats."""
    ctx = max(int(load.contexts().mean()), 1)
    for gpu in ask.gpus:
        for dtype in ask.dtypes:
            for kv_dtype in ask.kv_dtypes:
                question = Request(
                    gpu=gpu, model=ask.model, ctx=ctx, dtype=_plain(dtype),
                    kv_dtype=_plain(kv_dtype), stack=ask.stack, draft="none", ep=ask.ep or 1,
                    attention_dp=ask.attention_dp or 1, memory_fraction=ask.memory_fraction,
                    verify_kv_passes=ask.verify_kv_passes,
                )  # fmt: skip
                try:
                    found = resolve(question)
                    _refuse_format(ask.stack, found)
                    yield found
                except UsageError as problem:
                    if len(ask.gpus) * len(ask.dtypes) * len(ask.kv_dtypes) == 1:
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
            acceptance=acceptance_of(ask, text), task=ask.task,
            max_gamma=ask.max_gamma,
        )  # fmt: skip
        try:
            resolved = resolve(question)
        except UsageError as problem:
            if ask.drafts == (text,):
                raise
            rejected[f"draft {text}: {problem}"] += 1
            continue
        spec = Speculation(
            draft=resolved.draft,
            acceptance=resolved.acceptance,
            trees=tree_kind(ask.stack, resolved.draft, ask.trees),
        )
        yield text, spec, resolved


def acceptance_of(ask: PlanRequest, text: str) -> str:
    """What is stated for a draft: for its view and budget, for its view, or for all its views."""
    if isinstance(ask.acceptance, str):
        return ask.acceptance
    name, (kind, _, _) = text.partition(" ")[0], text.partition(":")
    keys = (text, kind, name)
    return next((ask.acceptance[key] for key in keys if key in ask.acceptance), "auto")


def drafts_of(ask: PlanRequest, model: ModelShape) -> Iterator[str]:
    """Every draft asked for, `auto` and views without a budget written out."""
    for text in ask.drafts:
        if text != "auto":
            yield from every_budget(text)
            continue
        yield from ("eagle3", "ngram")
        if model.mtp_layers:
            yield "mtp"
        small = SMALL_DRAFTS.get(model.vocab)
        if small and 3 * model_specs.load(small).parameters <= model.parameters:
            yield small
