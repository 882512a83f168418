"""What must be resident on a GPU, what fits, and the smallest deployment that holds a workload.

Needed bytes are affine in the sequences of a replica, so the largest batch is a division.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.model_specs.layers import Attention, Dense
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.deployment import Array, Deployment, Num
from magicplan.roofline.layers import cache_bytes, state_bytes
from magicplan.roofline.traffic import KvView

RESERVE_BYTES = 2.0**30
"""Library workspaces, captured graphs and communication buffers on one GPU; a convention, in the
range that vLLM reports at start-up. What lies outside the memory fraction comes on top."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resident:
    """What a replica holds beside the target: a draft's weights, its KV cache, or both."""

    model: ModelShape
    holds_weights: bool
    holds_cache: bool
    view: KvView
    weight_dtype: str | None = None
    """The draft's own weight format, where it differs from the deployment's."""
    extra_parameters: int = 0
    """Parameters of projections beside the model's own layers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Footprint:
    """Bytes. `weights`, `kv`, `draft` are what one replica holds; the rest is of one GPU."""

    weights_bytes: Num
    kv_bytes: Num
    draft_bytes: Num
    workspace_bytes: Num
    fixed_bytes_per_gpu: Num
    sequence_bytes_per_gpu: Num
    needed_bytes_per_gpu: Num
    available_bytes_per_gpu: float

    @property
    def fits(self) -> Num:
        """Whether the workload is held."""
        return self.needed_bytes_per_gpu <= self.available_bytes_per_gpu

    @property
    def max_batch_per_replica(self) -> Num:
        """Most sequences of this context that one replica holds."""
        room = self.available_bytes_per_gpu - self.fixed_bytes_per_gpu
        return np.maximum(np.floor(room / self.sequence_bytes_per_gpu), 0.0)


def weights_bytes(model: ModelShape, layout: Deployment) -> Num:
    """All weights of one replica, each part in its format; norms and encoders in 16 bits.

    Each group of data-parallel attention holds its own mixers, embedding and LM head.
    """
    held = {
        name: count * (layout.wide_bytes if name == "vectors" else layout.part(name).bytes)
        for name, count in model.part_parameters.items()
    }
    copied = held["attention"] + held["head"] + held["embeddings"]
    towers = model.tower_parameters * layout.wide_bytes
    return sum(held.values()) + (layout.attention_dp - 1) * copied + towers


def kv_sequence_bytes(model: ModelShape, layout: Deployment, tokens: Num, view: KvView) -> Num:
    """Cache of one sequence of `tokens`, over all layers and all ranks of one attention group: what
    grows with its tokens, and the states of recurrent layers, which do not."""
    grown = sum(count * cache_bytes(mixer, layout, tokens, view) for count, mixer in model.mixers)
    return grown + state_sequence_bytes(model, layout)


def state_sequence_bytes(model: ModelShape, layout: Deployment) -> Num:
    """States of one sequence's recurrent layers, whatever its length."""
    return sum(count * state_bytes(mixer, layout) for count, mixer in model.mixers)


def footprint(
    model: ModelShape,
    layout: Deployment,
    batch_per_replica: Num,
    tokens: Num,
    available_bytes: float,
    residents: tuple[Resident, ...] = (),
    query_tokens: float = 1.0,
) -> Footprint:
    """Memory of a replica that serves `batch_per_replica` sequences of up to `tokens` tokens.

    `query_tokens` is the widest pass: its logits, activations, cache slots and saved states are
    held too.
    """
    gpus = layout.gpus_per_replica
    weights = weights_bytes(model, layout)
    kv = kv_sequence_bytes(model, layout, tokens, KvView())
    draft_weights, draft_kv = 0.0, 0.0
    for extra in residents:
        if extra.holds_weights:
            own = layout
            if extra.weight_dtype:
                own = replace(layout, dtype=extra.weight_dtype, formats=None)
            elif layout.formats is not None:
                own = replace(layout, formats=extra.model.formats)
            extras = extra.extra_parameters * own.part("attention").bytes
            draft_weights = draft_weights + weights_bytes(extra.model, own) + extras
        if extra.holds_cache:
            draft_kv = draft_kv + kv_sequence_bytes(extra.model, layout, tokens, extra.view)
    saved = (query_tokens - 1) * state_sequence_bytes(model, layout) / gpus
    scratch = query_tokens * slot_bytes(model, layout) + saved
    sequence = (kv + draft_kv) / gpus + scratch
    fixed = (weights + draft_weights) / gpus + RESERVE_BYTES
    return Footprint(
        weights_bytes=weights,
        kv_bytes=batch_per_replica * kv,
        draft_bytes=draft_weights + batch_per_replica * draft_kv,
        workspace_bytes=RESERVE_BYTES + batch_per_replica * scratch,
        fixed_bytes_per_gpu=fixed,
        sequence_bytes_per_gpu=sequence,
        needed_bytes_per_gpu=fixed + batch_per_replica * sequence,
        available_bytes_per_gpu=available_bytes,
    )


def slot_bytes(model: ModelShape, layout: Deployment) -> Num:
    """Bytes of a GPU for one query token: its cache slot, and what it needs while it passes."""
    slot = slot_bytes_of_cache(model, layout)
    return slot / layout.gpus_per_replica + workspace_row_bytes(model, layout)


def slot_bytes_of_cache(model: ModelShape, layout: Deployment | None = None) -> Num:
    """Bytes of cache of a sequence's first token, over all ranks of one attention group; of one
    rank and 16 bits where no layout is given."""
    where = layout or Deployment()
    return sum(count * cache_bytes(mixer, where, 1.0) for count, mixer in model.mixers)


def workspace_row_bytes(model: ModelShape, layout: Deployment) -> Num:
    """Bytes one query token needs on a GPU while it passes: logits twice (16 and 32 bits), the
    widest feed-forward activation, and four hidden states."""
    width = max(
        (
            part.ffn if isinstance(part, Dense) else part.ffn * part.per_token + part.shared_ffn
            for _, part in model.feed_forwards
        ),
        default=0,
    )
    logits = model.vocab / layout.tp * (layout.wide_bytes + 4)
    activations = (4 * model.hidden + 3 * width / layout.ffn_ranks) * layout.wide_bytes
    return (logits + activations) / (layout.pp * layout.attention_dp)


def tensor_parallel_degrees(model: ModelShape, accelerator: Accelerator) -> tuple[int, ...]:
    """Degrees inside one node at which heads split evenly, preferred first.

    The widest that holds no KV head twice comes first; degrees past the KV heads come last.
    """
    room = max(accelerator.node_size, accelerator.link_domain)
    even = [tp for tp in range(1, room + 1) if splits_evenly(model, tp)]
    whole = [tp for tp in even if tp <= _whole_heads(model)]
    return (*reversed(whole), *(tp for tp in even if tp not in whole))


def _whole_heads(model: ModelShape) -> float:
    """Ranks up to which no cache is held twice that could be split."""
    return min((m.kv_heads for _, m in model.mixers if isinstance(m, Attention)), default=math.inf)


def splits_evenly(model: ModelShape, tp: int) -> bool:
    """Whether every rank gets as many query heads, and whole KV heads or copies of one."""
    return all(
        mixer.heads % tp == 0 and (mixer.key_heads % tp == 0 or tp % mixer.key_heads == 0)
        for _, mixer in model.mixers
    )


def largest_draft_degree(draft: ModelShape, tp: Num) -> Num:
    """The largest degree, at most `tp`, that divides a draft model's heads; arrays welcome."""
    degrees = np.array([d for d in range(1, 129) if splits_evenly(draft, d)], dtype=np.float64)
    tp = np.asarray(tp, dtype=np.float64)
    allowed = np.where(degrees <= tp[..., None], degrees, 1.0)
    return allowed.max(axis=-1)


def candidate_layouts(model: ModelShape, accelerator: Accelerator) -> Iterator[tuple[int, int]]:
    """Degrees (tensor parallel, pipeline) of one replica, preferred first.

    Pipeline stages across nodes come last, for models that no node holds.
    """
    degrees = tensor_parallel_degrees(model, accelerator)
    for tp in degrees:
        yield tp, 1
    for pp in (2, 4, 8, 16):
        if pp <= model.layers:
            yield max(degrees), pp


def replicas_needed(batch: Array, one: Footprint) -> Array:
    """Replicas that share `batch` so that each fits; infinite where one sequence does not."""
    most = np.asarray(one.max_batch_per_replica, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.where(most >= 1, np.ceil(batch / most), np.inf)
