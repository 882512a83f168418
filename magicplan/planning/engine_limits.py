"""What an engine's version refuses to start: formats, layouts, and drafts beside either."""

from __future__ import annotations

from dataclasses import dataclass

from magicplan.model_specs.shape import ModelShape
from magicplan.planning.engine_table import Engine, load
from magicplan.planning.settings import ENGINES, cannot
from magicplan.roofline.drafts import Draft

SIXTEEN_BITS = ("bf16", "fp16")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wanted:
    """A kind of replica: what of it an engine may have no way to run."""

    model: ModelShape
    kv_dtype: str
    pp: int = 1
    tp: int = 1
    ep: int = 1
    attention_dp: int = 1
    split: bool = False
    """Whether some replicas only prefill."""
    draft: Draft | None = None


def refusal(engine: Engine, wanted: Wanted) -> str:
    """Why an engine cannot start such a replica, as a sentence; "" if it can.

    A draft that the engine cannot run at all is no reason: another one takes its place.
    """
    return (
        kv_refusal(engine, wanted.model, wanted.kv_dtype)
        or _layout_refusal(engine, wanted)
        or _draft_refusal(engine, wanted)
    )


def kv_refusal(engine: Engine, model: ModelShape, kv_dtype: str) -> str:
    """Why an engine cannot hold a KV cache in a format, and which can; "" if it can."""
    why = _kv_reason(engine, model, kv_dtype)
    if not why:
        return ""
    others = [
        name for name in ENGINES
        if name != engine.name and not _kv_reason(load(name), model, kv_dtype)
    ]  # fmt: skip
    who = f"{' and '.join(others)} can" if others else "no other engine known can"
    if not engine.lacks(f"kv_{kv_dtype}") or others:
        why += f"; {who}"
    return why


def _kv_reason(engine: Engine, model: ModelShape, kv_dtype: str) -> str:
    if kv_dtype in SIXTEEN_BITS:
        return ""
    what = f"kv_{kv_dtype}"
    if not engine.has(what):
        return f"{engine.asked} holds no {kv_dtype} KV cache{engine.lacks(what)}"
    if model.latent is not None and kv_dtype.startswith("int"):
        return (
            f"{engine.asked} holds no {kv_dtype} KV cache of latent attention: its integer "
            "formats have a scale for every head"
        )
    return ""


def _layout_refusal(engine: Engine, wanted: Wanted) -> str:
    if wanted.split and not engine.has("disaggregation"):
        return f"{engine.asked} has no replicas that only prefill{engine.lacks('disaggregation')}"
    if engine.name != "vllm":
        return ""
    ranks = wanted.tp * wanted.attention_dp
    if wanted.ep not in (1, ranks):
        return (
            f"{engine.asked} spreads whole experts over all {ranks} GPUs of a stage or over none, "
            f"not over {wanted.ep}"
        )
    if wanted.attention_dp > 1 and wanted.model.experts is None:
        return (
            f"{engine.asked} starts whole copies of a dense model under data parallelism, not "
            "attention of its own beside a shared rest; sglang can, for some models"
        )
    return ""


def _draft_refusal(engine: Engine, wanted: Wanted) -> str:
    draft = wanted.draft
    if draft is None or cannot(draft, engine):
        return ""
    beside = crowded(engine, wanted, draft.method)
    return f"{engine.asked} cannot draft with {draft.name} beside {beside}" if beside else ""


def crowded(engine: Engine, wanted: Wanted, method: str) -> str:
    """What of a layout a draft method does not run beside, with the versions that differ."""
    for what, degree, name in (
        ("pipeline_drafts", wanted.pp, "pipeline stages"),
        ("data_parallel_drafts", wanted.attention_dp, "data-parallel attention"),
    ):
        if degree > 1 and not engine.has(what, method):
            return name + engine.lacks(what, method)
    return ""
