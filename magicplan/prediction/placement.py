"""Which GPUs hold the workload: degrees of parallelism and replicas, for every cell of a grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from magicplan.errors import DoesNotFit, FieldError
from magicplan.prediction.resolve import Resolved, passes_of
from magicplan.roofline.deployment import Array, Deployment
from magicplan.roofline.memory import (
    Footprint,
    Resident,
    candidate_layouts,
    footprint,
    replicas_needed,
    splits_evenly,
)
from magicplan.roofline.speculation import Scene
from magicplan.units import human_bytes, human_tokens

MAX_GPUS = 2**20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placement:
    """A deployment for every cell [batch, ctx], what it holds, and whether that fits."""

    layout: Deployment
    batch_per_replica: Array
    memory: Footprint
    max_batch: Array
    """Largest number of sequences of this context that the whole deployment holds."""
    fits: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayoutOption:
    """Degrees of one replica, and its replicas where they are given."""

    tp: int
    pp: int
    replicas: int | None


def place(ask: Resolved) -> Placement:
    """The smallest number of GPUs that holds each cell, or exactly those asked for.

    A cell that fits nowhere keeps the preferred candidate and says `fits` False. A single
    workload that does not fit is refused. Raises UsageError, DoesNotFit.
    """
    candidates = _candidates(ask)
    options = [_replicas(ask, candidate) for candidate in candidates]
    shape = np.broadcast_shapes(ask.batch.shape, ask.ctx.shape)
    gpus = np.stack([np.broadcast_to(_gpus(ask, c, r), shape) for c, r in options])
    chosen = gpus.argmin(axis=0)

    def pick(values: list[Array]) -> Array:
        stacked = np.stack([np.broadcast_to(v, shape) for v in values])
        picked: Array = np.take_along_axis(stacked, chosen[None], axis=0)[0]
        return picked

    replicas = pick([r for _, r in options])
    layout = replace(
        ask.layout,
        tp=_shrink(pick([np.asarray(float(c.tp)) for c, _ in options])),
        pp=_shrink(pick([np.asarray(float(c.pp)) for c, _ in options])),
        replicas=_shrink(np.where(np.isfinite(replicas), replicas, 1.0)),
    )
    batch = np.ceil(ask.batch / layout.replicas)
    memory = _footprint(ask, layout, batch)
    fits = np.broadcast_to(memory.fits, shape)
    most = np.broadcast_to(memory.max_batch_per_replica * layout.replicas, shape)
    if ask.scalar and not fits.all():
        _refuse(ask, layout, memory, most)
    return Placement(
        layout=layout, batch_per_replica=batch, memory=memory, max_batch=most, fits=fits
    )


def scene_of(ask: Resolved, placement: Placement) -> Scene:
    """What a round depends on, on the deployment that was chosen."""
    return Scene(
        target=ask.model,
        layout=placement.layout,
        machine=ask.machine,
        batch=placement.batch_per_replica,
        sequences=ask.batch,
        ctx=ask.ctx,
        kv_passes=passes_of(ask.request.verify_kv_passes),
        output_tokens=float(ask.request.output),
        static=ask.request.batching == "static",
    )


def held_by(
    ask: Resolved, placement: Placement, residents: tuple[Resident, ...], query_tokens: float
) -> Footprint:
    """Memory of the chosen deployment with a draft beside the target, for passes that wide."""
    return footprint(
        ask.model,
        placement.layout,
        placement.batch_per_replica,
        ask.final_ctx,
        placement.memory.available_bytes_per_gpu,
        residents,
        query_tokens=query_tokens,
    )


def most_nodes(ask: Resolved, placement: Placement, residents: tuple[Resident, ...]) -> Array:
    """Largest tree, the root counted, whose cache slots, logits and activations still fit beside
    everything else, [batch, ctx]; 1 where nothing does."""
    one, two = (held_by(ask, placement, residents, tokens) for tokens in (1.0, 2.0))
    node = two.needed_bytes_per_gpu - one.needed_bytes_per_gpu
    room = np.maximum(one.available_bytes_per_gpu - one.needed_bytes_per_gpu, 0.0)
    return np.broadcast_to(1 + np.floor(room / node), placement.fits.shape)


def _shrink(values: Array) -> Array:
    """A constant over the grid as [1, 1], so that nothing is computed twice."""
    return values[:1, :1] if (values == values.flat[0]).all() else values


def _footprint(ask: Resolved, layout: Deployment, batch: Array) -> Footprint:
    available = ask.request.memory_fraction * ask.machine.accelerator.memory_bytes
    return footprint(
        ask.model,
        layout,
        batch,
        ask.final_ctx,
        available,
        ask.draft.residents if ask.draft else (),
        query_tokens=ask.max_gamma + 1.0 if ask.draft else 1.0,
    )


def _replicas(ask: Resolved, candidate: LayoutOption) -> tuple[LayoutOption, Array]:
    """Replicas of a candidate that hold each cell: infinite where none do."""
    layout = replace(ask.layout, tp=float(candidate.tp), pp=float(candidate.pp))
    one = _footprint(ask, layout, np.ones((1, 1)))
    needed = replicas_needed(ask.batch, one)
    if candidate.replicas is None:
        return candidate, needed
    held = needed <= candidate.replicas
    return candidate, np.where(held, float(candidate.replicas), np.inf)


def _gpus(ask: Resolved, candidate: LayoutOption, replicas: Array) -> Array:
    return candidate.tp * candidate.pp * ask.request.attention_dp * replicas


def _candidates(ask: Resolved) -> list[LayoutOption]:
    """Every layout the options leave open, preferred first."""
    request, model, accelerator = ask.request, ask.model, ask.machine.accelerator
    layouts = list(candidate_layouts(model, accelerator))
    if request.pp is not None:
        if not 1 <= request.pp <= model.layers:
            raise FieldError(
                "pp",
                f"{request.pp}: {model.name} has {model.layers} layers; "
                f"expected 1 to {model.layers}",
            )
        layouts = [(tp, request.pp) for tp, pp in layouts if pp == 1]
    if request.tp != "auto":
        tp = asked_degree(ask)
        layouts = sorted({(tp, pp) for _, pp in layouts}, key=lambda layout: layout[1])
    dp = request.attention_dp
    layouts = [(tp, pp) for tp, pp in layouts if (tp * dp) % request.ep == 0]
    if not layouts:
        raise FieldError(
            "ep",
            f"{request.ep}: no tensor parallel degree of {model.name} times $attention_dp "
            f"{dp} is a multiple of it; give $tp or $attention_dp",
        )
    if request.gpus == "auto":
        return [LayoutOption(tp=tp, pp=pp, replicas=None) for tp, pp in layouts]
    return _exactly(ask, layouts)


def _exactly(ask: Resolved, layouts: list[tuple[int, int]]) -> list[LayoutOption]:
    """Layouts of which a whole number of replicas makes up the GPUs asked for."""
    asked = ask.request.gpus
    if not isinstance(asked, int) or isinstance(asked, bool) or not 1 <= asked <= MAX_GPUS:
        raise FieldError("gpus", f"{asked}: expected auto or a whole number from 1 to {MAX_GPUS}")
    dp = ask.request.attention_dp
    found = [
        LayoutOption(tp=tp, pp=pp, replicas=asked // (tp * pp * dp))
        for tp, pp in layouts
        if asked % (tp * pp * dp) == 0
    ]
    if not found:
        sizes = sorted({tp * pp * dp for tp, pp in layouts})
        raise FieldError(
            "gpus",
            f"{asked} is not a multiple of any replica size possible here: "
            f"{', '.join(map(str, sizes))}",
        )
    return found


def asked_degree(ask: Resolved) -> int:
    """The tensor parallel degree asked for. Raises UsageError where heads do not split."""
    asked, model = ask.request.tp, ask.model
    good = [d for d in range(1, model.q_heads + 1) if splits_evenly(model, d)]
    if not isinstance(asked, int) or isinstance(asked, bool) or asked not in good:
        raise FieldError(
            "tp",
            f"{asked} does not split the {model.q_heads} query and {model.kv_heads} KV heads "
            f"of {model.name}; it can be {', '.join(map(str, good))}",
        )
    return asked


def _refuse(ask: Resolved, layout: Deployment, memory: Footprint, most: Array) -> None:
    """Say what is needed, what is there, and what would fit."""
    needed = human_bytes(float(np.max(memory.needed_bytes_per_gpu)))
    gpus, name = float(np.max(layout.gpus)), ask.machine.accelerator.name
    largest = float(np.min(most))
    advice = (
        f"the largest batch that fits at this context is {largest:.0f}"
        if largest >= 1
        else "not even one sequence of this context fits"
    )
    others = "" if ask.request.gpus == "auto" else ", or let --gpus auto choose"
    raise DoesNotFit(
        f"batch {float(ask.batch.max()):.0f} at {human_tokens(int(ask.final_ctx.max()))} tokens "
        f"needs {needed} on each of {gpus:.0f} {name}, and "
        f"{human_bytes(memory.available_bytes_per_gpu)} are available; {advice}{others}"
    )
