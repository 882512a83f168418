"""What each kind of layer of a model moves in a step and a verification, and where that turns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magicplan.model_specs.layers import Attention, Compressed, Indexer, Latent, Mixer, Recurrent
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.deployment import BYTES_PER_KV_NUMBER, Deployment, Num
from magicplan.roofline.layers import context_ops
from magicplan.roofline.passes import Pass


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerCost:
    """One kind of mixer in a model: its layers, and the cache or state bytes they move on one GPU.

    `turn` is where its cost changes its nature, None where it does not: the context beyond which a
    window's bytes stay the same, or an indexer's keys outweigh what it picks, in tokens; the batch
    at which the states that a step moves outweigh the weights it reads, in sequences.
    """

    kind: str
    layers: int
    step_bytes: Num
    verify_bytes: Num
    turn: float | None
    turn_unit: str

    @property
    def verify_over_step(self) -> Num:
        """What a verification moves over what a step does."""
        return self.verify_bytes / self.step_bytes


def layer_costs(
    model: ModelShape,
    layout: Deployment,
    batch: Num,
    ctx: Num,
    query_tokens: float,
    weight_bytes: float,
) -> tuple[LayerCost, ...]:
    """Every kind of mixer of the model, for `batch` sequences of one data-parallel group; a step
    reads `weight_bytes` of weights."""
    found = []
    for count, mixer in model.mixers:
        step, verify = (
            _moved(mixer, count, layout, batch, ctx, tokens) for tokens in (1.0, query_tokens)
        )
        turn, unit = _turn(mixer, count, layout, weight_bytes)
        found.append(
            LayerCost(
                kind=kind_of(mixer),
                layers=count,
                step_bytes=step,
                verify_bytes=verify,
                turn=turn,
                turn_unit=unit,
            )
        )
    return tuple(found)


def kind_of(mixer: Mixer) -> str:
    """A kind of mixer in words."""
    if isinstance(mixer, Recurrent):
        return RECURRENCES[mixer.kind]
    if isinstance(mixer, Compressed):
        return f"compressed by {mixer.ratio}" if mixer.ratio else "window of a compressed model"
    if isinstance(mixer, Latent):
        return "latent, indexed" if mixer.indexer else "latent"
    if mixer.indexer:
        return "block sparse"
    kind = f"window of {mixer.window_tokens}" if mixer.window_tokens else "full attention"
    return kind if mixer.owns_cache else f"{kind}, another layer's cache"


RECURRENCES = {
    "gated_delta": "Gated DeltaNet",
    "kda": "Kimi delta attention",
    "mamba2": "Mamba-2",
    "mamba": "Mamba",
    "lightning": "lightning attention",
    "short_conv": "short convolution",
    "rg_lru": "gated linear recurrent unit",
}


def _moved(
    mixer: Mixer, count: int, layout: Deployment, batch: Num, ctx: Num, tokens: float
) -> Num:
    work = Pass(batch=batch, ctx=ctx, query_tokens=tokens)
    ops = context_ops(mixer, count, layout, work, batch)
    return np.asarray(sum(op.count * op.kv_bytes for op in ops), dtype=np.float64)


def _turn(
    mixer: Mixer, count: int, layout: Deployment, weight_bytes: float
) -> tuple[float | None, str]:
    number = BYTES_PER_KV_NUMBER[layout.kv_dtype]
    if isinstance(mixer, Recurrent):
        share = float(np.max(np.maximum(1 / np.asarray(layout.tp), 1 / mixer.heads)))
        return weight_bytes / (2 * count * share * mixer.state_bytes), "sequences"
    if mixer.indexer is not None:
        return _keys_outweigh(mixer, mixer.indexer, number), "tokens"
    if isinstance(mixer, Attention) and mixer.window_tokens:
        return float(mixer.window_tokens), "tokens"
    return None, ""


def _keys_outweigh(
    mixer: Attention | Latent | Compressed, indexer: Indexer, number: float
) -> float | None:
    """Context at which the index keys that a step reads outweigh the tokens that it picks."""
    if not indexer.selects:
        return None
    ratio = mixer.ratio if isinstance(mixer, Compressed) else 1
    return indexer.selected_tokens * mixer.cached_numbers * number / indexer.key_bytes * ratio
