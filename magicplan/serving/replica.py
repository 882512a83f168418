"""Replicas of one kind of GPU, in every layout at once: their rounds, their room."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.acceptance import Acceptance, tokens_per_round
from magicplan.roofline.deployment import Array, Deployment
from magicplan.roofline.drafts import Draft
from magicplan.roofline.memory import footprint, kv_sequence_bytes
from magicplan.roofline.timing import Machine
from magicplan.roofline.traffic import FULL
from magicplan.roofline.tree_speculation import TreeKind
from magicplan.serving.load import Load
from magicplan.serving.step_time import (
    PrefillCost,
    RowTable,
    catching_up_seconds,
    chain_passes,
    decode_seconds,
    draft_prefill,
    drafting_passes,
    prefill_cost,
    row_table,
    with_axes,
)
from magicplan.serving.tree_rounds import SIZES, WIDTHS, Shapes, side_by_side, table_of, tree_shapes

DEGREES = ("tp", "pp", "ep", "attention_dp")
"""Names of a layout's degrees, each an array [layout] or one number for all layouts."""
STEPS_PER_OCTAVE = 6
TREE_GAIN = 1.02
"""Tokens a second of the best tree over the best chain from which the tree is chosen: what it
gains less is within the error of a step, and trees cost engines their overlap of host and GPU."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EngineLimits:
    """What the engine is configured to do."""

    batched_tokens: float
    max_sequences: float
    memory_fraction: float
    kv_passes: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Replica:
    """One model on one kind of GPU in one pair of formats; `layout` holds degrees [layout].

    Passes that do not depend on the draft are computed once, for all drafts.
    """

    model: ModelShape
    machine: Machine
    layout: Deployment
    load: Load
    limits: EngineLimits
    longest: int
    """Largest draft length considered."""
    batch: Array
    """Batches seen, [b]."""
    verify: Array = field(repr=False)
    """[layout, b, gamma] seconds of the target's pass over gamma + 1 tokens a request."""
    table: RowTable = field(repr=False)
    overhead: Array = field(repr=False)
    """[layout] seconds of a step besides `table` and attention: sampling, launches, the host."""
    prefill: PrefillCost = field(repr=False)
    """Cost of prompts in the target alone."""
    contexts: Array = field(repr=False)

    @property
    def layouts(self) -> int:
        """How many layouts are described."""
        return int(np.size(self.layout.tp))

    @cached_property
    def tree_verify(self) -> Array:
        """[layout, b, size] seconds of the target's pass over trees of `SIZES` nodes."""
        return _passes(self, SIZES)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Speculation:
    """A draft and what is accepted of it; neither for plain decoding. `trees` says how the engine
    expands trees, "" that it runs none; `gamma` fixes the tokens drafted, in a chain, or in a tree
    of `depth` drafted levels."""

    draft: Draft | None = None
    acceptance: Acceptance | None = None
    gamma: int | None = None
    depth: int | None = None
    trees: TreeKind = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReplicaRounds:
    """Decoding alone, [layout, b]: `gamma` tokens are drafted in `depth` levels."""

    batch: Array
    """Batches, [b]."""
    gamma: Array
    depth: Array
    round_seconds: Array
    draft_seconds: Array
    """Seconds of a round's drafting and of its bookkeeping."""
    tokens_per_round: Array
    looked_at: int = 1
    """Chains and trees that these are the best of."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Room:
    """KV memory of every layout, [layout]."""

    free_bytes: Array
    """Bytes free on one GPU beside weights, draft, workspace and what all requests share."""
    request_bytes: Array
    """KV bytes on one GPU of a request that is decoding, drafted tokens included."""


PLAIN = Speculation()


def batch_grid(most: float) -> Array:
    """Whole batches from 1 to `most`, `STEPS_PER_OCTAVE` an octave where there are as many."""
    octaves = np.log2(max(most, 2.0))
    steps = np.linspace(0.0, octaves, int(np.ceil(octaves * STEPS_PER_OCTAVE)) + 1)
    return np.unique(np.rint(np.exp2(steps)))


def replica(
    model: ModelShape,
    machine: Machine,
    layout: Deployment,
    load: Load,
    limits: EngineLimits,
    longest: int,
) -> Replica:
    """Everything about a replica that no draft changes."""
    most = min(limits.max_sequences, limits.batched_tokens - 1)
    batch = batch_grid(most)
    contexts = load.contexts()
    nodes = contexts if model.sliding_layers else contexts.mean(keepdims=True)
    seen = _read_contexts(load, batch, nodes)
    query = np.arange(1.0, longest + 2.0)
    table = row_table(model, layout, machine, 2 * limits.batched_tokens + most * (longest + 1))
    one = np.ones(1)
    alone = decode_seconds(model, layout, machine, one, one[None, :], one)[:, 0, 0]
    return Replica(
        model=model,
        machine=machine,
        layout=layout,
        load=load,
        limits=limits,
        longest=longest,
        batch=batch,
        verify=decode_seconds(model, layout, machine, batch, seen, query, limits.kv_passes),
        table=table,
        prefill=prefill_cost(model, layout, machine),
        overhead=alone - table.at(np.ones((alone.size, 1)))[:, 0],
        contexts=contexts,
    )


def at_loads(r: Replica, layout: int, batch: Array, contexts: Array | None = None) -> Replica:
    """One layout at other batches and contexts, for `shapes_of`: what prompts cost stays as is."""
    one = one_of(r.layout, layout)
    there = replace(
        r, layout=one, batch=batch, contexts=r.contexts if contexts is None else contexts
    )
    return replace(there, verify=_passes(there, np.arange(1.0, r.longest + 2.0)))


def one_of(layouts: Deployment, index: int) -> Deployment:
    """One of several layouts, its degrees as arrays [1]."""
    degrees = {name: np.asarray(getattr(layouts, name)).reshape(-1) for name in DEGREES}
    picked: dict[str, Any] = {
        name: d[[index % d.size]].astype(np.float64) for name, d in degrees.items()
    }
    return replace(layouts, **picked)


def _passes(r: Replica, query: Array) -> Array:
    """Seconds of the target's passes over `query` tokens a request, [layout, b, query]."""
    nodes = r.contexts if r.model.sliding_layers else r.contexts.mean(keepdims=True)
    seen = _read_contexts(r.load, r.batch, nodes)
    passes = r.limits.kv_passes
    return decode_seconds(r.model, r.layout, r.machine, r.batch, seen, query, passes)


def _read_contexts(load: Load, batch: Array, nodes: Array) -> Array:
    """[b, node] tokens a request's attention reads: a prefix that all share is read once a step
    (cascade attention), so each of B requests answers for 1 / B of it."""
    saved = load.shared_prefix_tokens * (1 - 1 / np.maximum(batch, 1.0))
    return np.asarray(np.maximum(nodes[None, :] - saved[:, None], 1.0))


def rounds_of(r: Replica, spec: Speculation) -> ReplicaRounds:
    """Rounds of the chain or tree that emits most tokens a second, for every layout and batch."""
    if spec.draft is None or spec.acceptance is None:
        shape = (r.layouts, r.batch.size)
        return ReplicaRounds(
            batch=r.batch,
            gamma=np.zeros(shape),
            depth=np.zeros(shape),
            round_seconds=r.verify[..., 0],
            draft_seconds=np.zeros(shape),
            tokens_per_round=np.ones(shape),
        )
    shapes = shapes_of(r, spec)
    worth = shapes.tokens_per_round / shapes.round_seconds
    best = np.where(shapes.trees, worth / TREE_GAIN, worth).argmax(axis=-1)
    if spec.gamma is not None:
        depth = spec.gamma if spec.depth is None else spec.depth
        fixed = (shapes.gamma == spec.gamma) & (shapes.depth == depth)
        best = np.full(best.shape, fixed.argmax())

    def chosen(values: Array) -> Array:
        return np.asarray(np.take_along_axis(values, best[..., None], axis=-1)[..., 0])

    return ReplicaRounds(
        batch=r.batch,
        gamma=shapes.gamma[best],
        depth=shapes.depth[best],
        round_seconds=chosen(shapes.round_seconds),
        draft_seconds=chosen(shapes.draft_seconds),
        tokens_per_round=shapes.tokens_per_round[best],
        looked_at=shapes.gamma.size,
    )


def shapes_of(r: Replica, spec: Speculation) -> Shapes:
    """Chains of 0 to `longest` tokens and, where the engine runs them, trees of as many levels."""
    assert spec.draft is not None
    assert spec.acceptance is not None
    gammas = np.arange(r.longest + 1.0)
    nodes = r.contexts if spec.draft.budget_tokens else r.contexts.mean(keepdims=True)
    seen = np.broadcast_to(nodes, (r.batch.size, nodes.size))
    chain = spec.gamma is not None and spec.depth is None
    branching = bool(spec.trees) and r.longest > 1 and not chain
    widths = WIDTHS if branching else WIDTHS[:1]
    where = spec.draft, r.layout, r.machine, r.batch, seen
    passes = drafting_passes(*where, widths)
    first = catching_up_seconds(*where)
    once = first + r.machine.calibration.host.between_passes_seconds(r.batch)
    drafting = chain_passes(*where, gammas) + (gammas > 0) * once[..., None]
    ctx = np.asarray(r.contexts.mean())
    survival = spec.acceptance.survival(r.longest, ctx, spec.draft.budget_tokens)
    if spec.gamma is None:  # no length is chosen beyond those measured
        survival[spec.acceptance.longest(r.longest) :] = 0.0
    chains = Shapes(
        gamma=gammas,
        depth=gammas,
        draft_seconds=drafting,
        round_seconds=r.verify + drafting,
        tokens_per_round=tokens_per_round(survival),
    )
    if not branching:
        return chains
    table = table_of(spec.draft, spec.acceptance, float(ctx), r.longest)
    trees = tree_shapes(table, spec.trees, passes=passes, once=once, verify=r.tree_verify)
    return side_by_side(chains, trees)


def prompts_of(r: Replica, spec: Speculation) -> PrefillCost:
    """What prompts cost beside linear layers, the draft's own reading included."""
    return replace(r.prefill, draft_seconds=draft_prefill(r.layout, r.machine, spec.draft))


def room_of(r: Replica, spec: Speculation, drafted: float = 0.0) -> Room:
    """KV memory for requests beside weights, the draft, and the widest pass's workspace: that is a
    chain of `longest` tokens, or a larger tree of `drafted` ones. A prefix that all requests share
    is held once."""
    residents = spec.draft.residents if spec.draft else ()
    load, query = r.load, max(r.longest, drafted) + 1.0 if spec.draft else 1.0
    available = r.limits.memory_fraction * r.machine.accelerator.memory_bytes
    flat = with_axes(r.layout, 1)
    own = np.maximum(r.contexts - load.shared_prefix_tokens, 1.0)
    held = footprint(r.model, flat, 1.0, own, available, residents, query_tokens=query)
    shared = kv_sequence_bytes(r.model, flat, load.shared_prefix_tokens, FULL)
    fixed = held.fixed_bytes_per_gpu + shared * flat.attention_dp / flat.gpus_per_replica
    each = np.broadcast_to(held.sequence_bytes_per_gpu, (r.layouts, own.size))
    return Room(
        free_bytes=available - np.broadcast_to(fixed, (r.layouts, 1))[:, 0],
        request_bytes=each.mean(axis=1),
    )
