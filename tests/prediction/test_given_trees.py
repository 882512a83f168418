"""Topologies from a file valued on a workload, and Python's face of the planner."""

from __future__ import annotations

import pytest

import magicplan as mp
from magicplan.errors import UsageError
from magicplan.prediction.adaptive_trees import value_trees
from magicplan.prediction.request import Request
from magicplan.roofline.trees import Tree

WORKLOAD = {"gpu": "h100", "batch": 8, "ctx": 32768, "draft": "eagle3", "stack": "ideal"}


def test_the_best_tree_loses_nothing_and_a_chain_is_a_chain() -> None:
    best = mp.trees(**WORKLOAD).points[0]  # type: ignore[arg-type]
    chain = Tree.chain(best.chain_gamma)
    found = value_trees(Request(**WORKLOAD), [best.tree, chain, Tree.chain(0)])  # type: ignore[arg-type]
    tree, as_chain, nothing = found.worths
    assert tree.speedup == pytest.approx(best.speedup, rel=1e-9)
    assert tree.loss == pytest.approx(0, abs=1e-9)
    assert as_chain.speedup == pytest.approx(best.chain_speedup, rel=1e-9)
    assert as_chain.loss > 0
    assert nothing.speedup == pytest.approx(1)


def test_what_cannot_be_valued() -> None:
    with pytest.raises(UsageError, match="one workload"):
        value_trees(Request(gpu="h100", batch=[1, 2]), [Tree.chain(1)])
    with pytest.raises(UsageError, match="cannot draft a tree"):
        value_trees(Request(gpu="h100", draft="ngram"), [Tree.chain(1)])
    with pytest.raises(UsageError, match="at most 4096"):
        value_trees(Request(gpu="h100", draft="eagle3"), [Tree.chain(5000)])


def test_python_s_face_is_the_planner() -> None:
    plans = mp.drafts(gpu="h100", batch=8, ctx=8192, acceptance="0.8").plans
    cell = mp.choose(gpu="h100", batch=[8], ctx=[8192], acceptance="0.8").cells[0]
    assert cell.draft == plans[0].draft
    assert cell.speedup == pytest.approx(plans[0].speedup)
    for face in (mp.drafts, mp.trees, mp.choose):
        with pytest.raises(UsageError, match="takes no colour"):
            face(gpu="h100", colour="red")
