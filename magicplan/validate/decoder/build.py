"""From a plan to a decoder: which draft, on which cache, of what size, and how many bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from magicplan.errors import UsageError
from magicplan.kernels.backend import Backend, Window
from magicplan.validate.decoder.draft_shape import DraftShape
from magicplan.validate.decoder.drafts import (
    PROMPT_CHUNK,
    SHORTEST_PROMPT,
    Drafter,
    ModelDrafter,
    NgramDrafter,
    OwnCacheDrafter,
)
from magicplan.validate.decoder.kv_cache import PAGE, KVCache, full_bytes, ring_bytes
from magicplan.validate.decoder.loop import Decoder
from magicplan.validate.decoder.sampling import Sampling
from magicplan.validate.decoder.simulated import SimulatedLaw
from magicplan.validate.decoder.snapkv import SnapKVDrafter
from magicplan.validate.decoder.transformer import Transformer
from magicplan.validate.decoder.triforce import TriForceDrafter
from magicplan.validate.decoder.weights import Shard

KINDS = ("self", "streaming", "snapkv", "model", "ngram", "triforce")


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftPlan:
    """How to draft.

    kind      self: the target on a window of its own cache. streaming: the target on a ring of its
              own (MagicDec). snapkv: the target on a selection of its cache. model: a smaller model
              on a ring. ngram: what followed in the text. triforce: `inner_rounds` times a smaller
              model's `inner_gamma` tokens, verified by the target on a part of its cache.
    parents   the tree drafted, `tree_files` order; a chain of gamma is (-1, 0, 1, ..., gamma - 1).
    budget    tokens the draft sees, of which `sinks` are the first.
    middle    triforce: the part of the cache, a window ("self") or a selection ("snapkv") of
              `budget` tokens; the smaller model sees a window of `inner_budget`.
    ngram     the longest match that is looked for.
    """

    kind: str = "self"
    parents: tuple[int, ...] = (-1, 0, 1, 2, 3)
    budget: int = 512
    sinks: int = 4
    inner_gamma: int = 4
    inner_rounds: int = 2
    inner_budget: int = 256
    middle: str = "self"
    ngram: int = 3

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"draft {self.kind!r}: expected one of {', '.join(KINDS)}")
        if self.middle not in ("self", "snapkv"):
            raise UsageError(f"middle {self.middle!r}: expected self or snapkv")
        for budget in (self.budget, self.inner_budget):
            if not 0 <= self.sinks < budget:
                raise UsageError(f"a budget of {budget} tokens cannot hold {self.sinks} sinks")

    @classmethod
    def chain(cls, gamma: int, **others: object) -> DraftPlan:
        """A plan that drafts `gamma` tokens one behind the other."""
        return cls(parents=tuple(range(-1, gamma)), **others)  # type: ignore[arg-type]

    @property
    def is_chain(self) -> bool:
        """Whether every node has one child."""
        return self.parents == tuple(range(-1, len(self.parents) - 1))

    @property
    def view(self) -> Window:
        """The part of the target's cache that drafts read: sinks and a window, `budget` tokens in
        all."""
        return Window(sinks=self.sinks, window=self.budget - self.sinks)

    @property
    def ring_view(self) -> Window:
        """The part of its cache that a draft with a ring buffer of its own reads: sinks and a
        window."""
        budget = self.inner_budget if self.kind == "triforce" else self.budget
        return Window(sinks=self.sinks, window=budget - self.sinks)

    @property
    def selects(self) -> bool:
        """Whether drafts read a SnapKV selection of the cache."""
        return self.kind == "snapkv" or (self.kind == "triforce" and self.middle == "snapkv")

    @property
    def reach(self) -> int:
        """Tokens a round may write behind the last committed one."""
        inner = self.inner_gamma + 1 if self.kind == "triforce" else 0
        return len(self.parents) - 1 + inner

    def shape(self, device: torch.device | str) -> DraftShape:
        """The plan's tree or chain as tensors on a device."""
        drafted = len(self.parents) - 1
        return (
            DraftShape.chain(drafted, device)
            if self.is_chain
            else DraftShape.tree(self.parents, device)
        )


def build_decoder(
    model: Transformer,
    backend: Backend,
    *,
    batch: int,
    tokens: int,
    plan: DraftPlan | None = None,
    small: Transformer | None = None,
    sampling: Sampling | None = None,
    end_tokens: Sequence[int] = (),
    simulated: Sequence[float] | None = None,
    cache: KVCache | None = None,
    page_size: int | None = None,
) -> Decoder:
    """A decoder for sequences of up to `tokens` tokens, prompt and answer.

    page_size: of the target's cache; by default 64 slots, on a CPU one page a sequence.
    small: the draft model of kinds model and triforce. simulated: rates of a law that decides how
    much is accepted (timing only). cache: the target's, where several decoders share one.
    Raises UsageError where the plan lacks its draft model, or the models' vocabularies differ.
    """
    sampling = sampling or Sampling()
    slots = tokens + (plan.reach if plan else 0)
    cache = cache or KVCache.full(
        model.shard,
        batch,
        slots,
        device=model.device,
        dtype=model.dtype,
        page_size=page_size or _page(model.device, slots),
    )
    draft = None if plan is None else _draft(model, backend, cache, plan, small, sampling)
    law = None
    if simulated is not None:
        if draft is None:
            raise UsageError("a simulated acceptance needs a draft")
        law = SimulatedLaw(draft.shape, simulated, backend, model.device)
    return Decoder(
        model, cache, backend, draft=draft, sampling=sampling, end_tokens=end_tokens, law=law
    )


def decoder_bytes(
    shard: Shard,
    *,
    batch: int,
    tokens: int,
    dtype: torch.dtype,
    plan: DraftPlan | None = None,
    small: Shard | None = None,
    page_size: int | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, int]:
    """Bytes of `build_decoder` before it is built: `kv_bytes`, `draft_kv_bytes`, and at most
    `activation_bytes` for the widest pass and its logits. Weights are not counted."""
    drafted = len(plan.parents) if plan else 1
    slots = tokens + (plan.reach if plan else 0)
    where = torch.device(device)
    own = 0
    if plan and plan.kind in ("streaming", "model", "triforce"):
        of = shard if plan.kind == "streaming" else small or shard
        scratch = max(PROMPT_CHUNK, plan.reach + SHORTEST_PROMPT)
        own = ring_bytes(of, batch, dtype, view=plan.ring_view, scratch=scratch)
    if plan and plan.selects:
        page = page_size or _page(where, slots)
        kept = _selected_slots(plan, -(-slots // page) * page)
        own += full_bytes(shard, batch, kept, dtype, _page(where, kept))
    shape, rows = shard.shape, batch * max(drafted, 1)
    widths = 2 * shape.ffn // shard.ranks + 4 * shape.hidden
    return {
        "kv_bytes": full_bytes(shard, batch, slots, dtype, page_size or _page(where, slots)),
        "draft_kv_bytes": own,
        "activation_bytes": rows * (widths * dtype.itemsize + shape.vocab * (dtype.itemsize + 4)),
    }


def _page(device: torch.device, slots: int) -> int:
    """A CPU reads a sequence fastest in one piece; a GPU's tile lies in one page of any place."""
    return slots if device.type == "cpu" else PAGE


def _selected_slots(plan: DraftPlan, slots: int) -> int:
    """Room for the budget, what is generated behind it and what a round drafts."""
    return plan.budget + min(slots, GENERATED) + plan.reach


GENERATED = 4096
"""Tokens that may be generated behind a SnapKV selection."""


def _draft(
    model: Transformer,
    backend: Backend,
    cache: KVCache,
    plan: DraftPlan,
    small: Transformer | None,
    sampling: Sampling,
) -> Drafter:
    shape = plan.shape(model.device)
    if plan.kind == "ngram":
        return NgramDrafter(shape, longest=plan.ngram)
    if plan.kind in ("self", "snapkv"):
        return _self_draft(model, backend, cache, plan, shape, sampling)
    if plan.kind == "streaming":
        return _ring_draft(model, backend, cache, plan, shape, sampling)
    if small is None:
        raise UsageError(f"a {plan.kind} draft needs a draft model")
    if small.shape.vocab != model.shape.vocab:
        raise UsageError(
            f"{small.shape.name} has a vocabulary of {small.shape.vocab}, {model.shape.name} one "
            f"of {model.shape.vocab}: a draft model shares its target's tokens"
        )
    if plan.kind == "model":
        return _ring_draft(small, backend, cache, plan, shape, sampling)
    inner_shape = DraftShape.chain(plan.inner_gamma, model.device)
    inner = _ring_draft(small, backend, cache, plan, inner_shape, sampling, again=3)
    middle = _self_draft(model, backend, cache, plan, shape, sampling)
    return TriForceDrafter(middle, inner, rounds=plan.inner_rounds)


def _self_draft(
    model: Transformer,
    backend: Backend,
    cache: KVCache,
    plan: DraftPlan,
    shape: DraftShape,
    sampling: Sampling,
) -> ModelDrafter:
    """The target's own weights on a window or a selection of its cache."""
    if not plan.selects:
        return ModelDrafter(model, cache, backend, shape, view=plan.view, sampling=sampling)
    own = KVCache.full(
        model.shard,
        cache.batch,
        slots := _selected_slots(plan, cache.capacity),
        device=model.device,
        dtype=model.dtype,
        page_size=_page(model.device, slots),
        positions=cache.capacity,
    )
    return SnapKVDrafter(
        model, own, backend, shape, budget=plan.budget, source=cache, sampling=sampling
    )


def _ring_draft(
    model: Transformer,
    backend: Backend,
    cache: KVCache,
    plan: DraftPlan,
    shape: DraftShape,
    sampling: Sampling,
    again: int = 2,
) -> OwnCacheDrafter:
    """A draft on a ring as large as its view, for the contexts of `cache`."""
    ring = KVCache.ring(
        model.shard,
        cache.batch,
        cache.capacity,
        view=plan.ring_view,
        scratch=max(PROMPT_CHUNK, plan.reach + SHORTEST_PROMPT),
        device=model.device,
        dtype=model.dtype,
    )
    return OwnCacheDrafter(
        model, ring, backend, shape, view=plan.ring_view, sampling=sampling, again=again
    )
