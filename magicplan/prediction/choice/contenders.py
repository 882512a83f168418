"""The one choice of a draft: every draft over a workload or a grid, and which comes first.

A draft that can be launched comes before one that cannot (`Standing`); of those that can, one that
gains at an acceptance measured with this very target comes before borrowed rates; then the faster
comes first. `predict`, `drafts`, `sweep` and `choose` all rank here, so they agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from magicplan.errors import UsageError
from magicplan.model_specs.shape import ModelShape
from magicplan.prediction.choice.candidates import LeftOut, Named, candidate_drafts
from magicplan.prediction.choice.standing import Standing, as_tree, standing, who_runs
from magicplan.prediction.draft_names import acceptance_for
from magicplan.prediction.placement import Placement, held_by, most_nodes, place, scene_of
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import Resolved, resolve
from magicplan.roofline.acceptance import Acceptance
from magicplan.roofline.deployment import Array, Indices
from magicplan.roofline.drafts import STREAMING_512, Draft
from magicplan.roofline.memory import Footprint
from magicplan.roofline.speculation import Rounds, Scene, rounds, verify_seconds
from magicplan.roofline.traffic import FULL
from magicplan.roofline.tree_grid import Limits, TreeCells, tree_cells

WORTH_A_TREE = 1.001
"""A tree has to beat its draft's best chain by this factor, for a chain is simpler."""
LIMITS = Limits(size=64, depth=12)
"""How large trees are compared."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contender:
    """One draft over the whole grid: its chains, its trees, and the cells that hold it."""

    asked: Named
    draft: Draft
    acceptance: Acceptance
    standing: Standing
    table: Rounds
    trees: TreeCells | None
    held: Footprint

    @property
    def fits(self) -> Array:
        """Whether a cell holds it beside the target."""
        return np.asarray(self.held.fits)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Way:
    """The chains of a draft over the grid, or its trees. [batch, ctx]: `speedup` is -inf where
    there is none or it does not fit, `gamma` a chain's length, 0 for a tree."""

    contender: Contender
    kind: Literal["chain", "tree"]
    standing: Standing
    speedup: Array
    gamma: Indices

    @property
    def score(self) -> Array:
        """What ways are ranked by, the highest first."""
        gains = self.standing.measured & (self.speedup > 1)
        first = 2.0 + gains if self.standing.launchable else 0.0
        return np.asarray(first * APART + self.speedup)

    @property
    def elsewhere(self) -> bool:
        """Whether it exists for the target, and another stack runs it while this one cannot."""
        others = who_runs(self.contender.draft, tree=self.kind == "tree")
        return (
            self.standing.exists_for_model
            and not (self.standing.runs_on_stack or self.standing.ranks_trees)
            and not others.startswith("no ")
        )


APART = 1e6
"""Further apart than any two speedups."""
PLAIN_SCORE = 2 * APART + 1.0
"""The score of not speculating, which can always be launched and has a speedup of 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contest:
    """A question without a draft on its GPUs, everybody that contends, and who was left out."""

    ask: Resolved
    placement: Placement
    scene: Scene
    contenders: tuple[Contender, ...]
    ways: tuple[Way, ...]
    left_out: tuple[LeftOut, ...]


COMPARED_ON = (
    "drafts are compared on the same GPUs; --gpus auto leaves room for a head that can be launched"
)


def contest(request: Request, *, limits: Limits = LIMITS, everything: bool = True) -> Contest:
    """Every draft of the catalogue on the same GPUs: those asked for, or those that hold the target
    with a head that can be launched. Without `everything`, only drafts that exist for the target
    and that some stack runs, and trees only where some stack runs them.

    A draft that the same GPUs do not hold in any cell is left out, and so is one without acceptance
    data. Raises UsageError, DoesNotFit.
    """
    ask = resolve(replace(request, draft="self", draft_kv=None, draft_dtype=None))
    limits = replace(limits, ranks=request.tree_ranks)
    stated = request.acceptance != "auto"
    drafts, left_out = candidate_drafts(
        ask.model, own_pool=request.stack.startswith("magicdec"), stated=stated
    )
    placement = place(_with_a_head(ask, request, drafts.values(), stated=stated))
    scene = scene_of(ask, placement)
    longest = ask.max_gamma if request.gamma == "auto" else int(request.gamma)
    verified = verify_seconds(scene, np.arange(max(longest, 1) + 1.0) + 1)
    found: list[Contender] = []
    for asked, draft in drafts.items():
        stands = standing(draft, ask.model, request.stack, stated=stated)
        some = not who_runs(draft).startswith("no ")
        if not everything and not (stands.exists_for_model and (stands.runs_on_stack or some)):
            continue
        trees = everything or not who_runs(draft, tree=True).startswith("no ")
        try:
            acceptance = acceptance_for(request.acceptance, ask.model, draft, ask.ctx, request.task)
            held = _held(request, ask, placement, draft)
        except UsageError as problem:
            left_out.append(LeftOut(method=draft.name, reason=str(problem)))
            continue
        most = acceptance.longest(max(request.max_gamma, 1)) if request.gamma == "auto" else longest
        room = most_nodes(ask, placement, draft.residents)
        found.append(
            Contender(
                asked=asked,
                draft=draft,
                acceptance=acceptance,
                standing=stands,
                table=rounds(scene, draft, acceptance, most, verified),
                trees=tree_cells(scene, draft, acceptance, limits, room)
                if trees and draft.grows_trees
                else None,
                held=held,
            )
        )
    shape = np.broadcast_shapes(ask.batch.shape, ask.ctx.shape)
    ways = [way for one in found for way in _ways(one, request, shape)]
    return Contest(
        ask=ask,
        placement=placement,
        scene=scene,
        contenders=tuple(found),
        ways=tuple(ways),
        left_out=tuple(left_out),
    )


def _with_a_head(
    ask: Resolved, request: Request, drafts: Iterable[Draft], *, stated: bool
) -> Resolved:
    """The question of the GPUs: where their number is open, with the first head, published or in
    the checkpoint, that can be launched."""
    if request.gpus != "auto":
        return ask
    heads = (draft for draft in drafts if draft.shape and draft.projections)
    able = (d for d in heads if standing(d, ask.model, request.stack, stated=stated).launchable)
    return replace(ask, draft=next(able, ask.draft))


def _held(request: Request, ask: Resolved, placement: Placement, draft: Draft) -> Footprint:
    """What the GPUs hold with the draft. Raises UsageError where no cell holds it."""
    held = held_by(ask, placement, draft.residents, request.max_gamma + 1.0)
    if not np.any(held.fits):
        most = float(np.min(held.max_batch_per_replica * placement.layout.replicas))
        raise UsageError(
            f"does not fit beside the target: these GPUs hold a batch of {most:.0f}"
            if ask.scalar
            else "does not fit beside the target in any cell"
        )
    return held


def _ways(one: Contender, request: Request, shape: tuple[int, ...]) -> Iterable[Way]:
    """The chains of a draft, and its trees where one beats them."""
    fits = np.broadcast_to(one.fits, shape)
    chains = np.broadcast_to(one.table.speedup, (*shape, one.table.gammas.size))
    if request.gamma == "auto":
        gamma = 1 + chains[..., 1:].argmax(axis=-1)
    else:
        gamma = np.full(shape, int(request.gamma))
    best = np.take_along_axis(chains, gamma[..., None], axis=-1)[..., 0]
    yield Way(
        contender=one,
        kind="chain",
        standing=one.standing,
        speedup=np.where(fits, best, -np.inf),
        gamma=gamma,
    )
    if one.trees is None:
        return
    tree = one.trees.best
    worth = np.logical_and(tree.speedup > best * WORTH_A_TREE, tree.size > 1)
    wins = np.logical_and(worth, fits)
    if wins.any():
        yield Way(
            contender=one,
            kind="tree",
            standing=as_tree(one.standing, one.draft, request.stack),
            speedup=np.where(wins, tree.speedup, -np.inf),
            gamma=np.zeros(shape, dtype=np.int64),
        )


def first_of(ways: Sequence[Way], shape: tuple[int, ...]) -> Indices:
    """Which way each cell takes, [batch, ctx]; -1 where not to speculate comes first."""
    scores = np.stack([np.full(shape, PLAIN_SCORE), *(way.score for way in ways)])
    return np.asarray(scores.argmax(axis=0)) - 1


def rival_of(ways: Sequence[Way], at: tuple[int, ...]) -> Way | None:
    """The first way of a cell whether or not it gains; None where nothing can be launched."""
    able = [way for way in ways if way.standing.launchable and np.isfinite(way.speedup[at])]
    return max(able, key=lambda way: float(way.score[at]), default=None)


def alternative_of(ways: Sequence[Way], at: tuple[int, ...]) -> Way | None:
    """The fastest way of a cell that another stack runs and this one cannot."""
    others = [way for way in ways if way.elsewhere and np.isfinite(way.speedup[at])]
    return max(others, key=lambda way: float(way.speedup[at]), default=None)


def launchable_drafts(target: ModelShape, stack: str) -> tuple[str, ...]:
    """Drafts over their whole caches, as questions name them, that the stack runs and that exist
    for the target; of smaller models the first. MagicDec's drafts are its windowed ones."""
    own = stack.startswith("magicdec")
    drafts, _ = candidate_drafts(target, own_pool=own)
    found = [
        (f"{name} {view}" if view and view != "full" else name, draft.method)
        for (name, view, dtype), draft in drafts.items()
        if dtype is None
        and draft.middle is None
        and (draft.view.name == FULL.name or (own and draft.view.name == STREAMING_512.name))
        and standing(draft, target, stack, stated=False).launchable
    ]
    small = [name for name, method in found if method == "model"][:1]
    return (*(name for name, method in found if method != "model"), *small)


def settled(request: Request, *, trees: bool = False) -> Request:
    """The question with one draft named for all its cells, where its draft is `auto`: the one that
    can be launched and gains most on average. With `trees`, of those that grow trees, whether or
    not the stack runs them. Raises UsageError where there is none."""
    if request.draft != "auto":
        return request
    found = contest(request, everything=False)
    able = [
        way
        for way in found.ways
        if way.kind == "chain"
        and (
            way.standing.exists_for_model and way.contender.draft.grows_trees
            if trees
            else way.standing.launchable
        )
    ]
    if not able:
        return replace(request, draft="none")
    best = max(able, key=lambda way: float(np.maximum(way.score, PLAIN_SCORE).mean()))
    draft, view, dtype = best.contender.asked
    return replace(request, draft=draft, draft_kv=view, draft_dtype=dtype)
