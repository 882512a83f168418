"""What a report shows of a plan that drafts trees: nodes, levels, and topologies to read."""

from __future__ import annotations

import dataclasses
import json

from magicplan.planning.result import Plan, TreeRule, TreeUsed
from magicplan.report.document import html, markdown
from magicplan.report.document.page import Code, Grid
from tests.report.capacity.a_plan import a_plan, schedule
from tests.report.capacity.golden_texts import on_a_terminal, page_of

TREE = TreeUsed(size=5, depth=3, beam=2, parents=(-1, 0, 0, 1, 1), chain_gamma=2, gain=1.0832)


def with_trees() -> Plan:
    """A plan whose engine runs trees."""
    rule = TreeRule(
        batch_lo=1, batch_hi=7, ctx_lo=1, ctx_hi=65536, size=5, depth=3, beam=2,
        parents=TREE.parents, loss=0.012,
    )  # fmt: skip
    rules = (
        rule,
        dataclasses.replace(
            rule, batch_lo=8, batch_hi=63, size=3, depth=3, beam=1, parents=(-1, 0, 1)
        ),
        dataclasses.replace(
            rule, batch_lo=64, batch_hi=256, size=1, depth=1, beam=1, parents=(-1,)
        ),
    )
    best = dataclasses.replace(a_plan().best, gamma=4, tree=TREE)
    return a_plan(best=best, schedule=dataclasses.replace(schedule(), tree_rules=rules))


def test_a_plan_with_trees_shows_nodes_levels_and_topologies() -> None:
    page = page_of(with_trees())
    facts = {fact.name: fact for fact in page.facts}
    assert facts["speculation"].value == "eagle3, a tree of 5 nodes in 3 levels"
    assert "1.08x its best chain (2 tokens)" in facts["speculation"].note
    section = next(s for s in page.sections if s.title == "Schedule")
    grid = next(b for b in section.blocks if isinstance(b, Grid) and "with trees" in b.columns)
    assert [row[0] for row in grid.rows] == ["1 - 7", "8 - 63", "64 - 256"]
    assert [row[2:4] for row in grid.rows] == [
        ("a tree of 5 nodes in 3 levels", "2"), ("2 tokens", "1"), ("off", "1"),
    ]  # fmt: skip
    code = next(b for b in section.blocks if isinstance(b, Code))
    rules = json.loads(code.text)
    assert rules["tree_columns"] == ["batch_lo", "batch_hi", "ctx_lo", "ctx_hi", "parents"]
    assert rules["tree_rules"][0] == [1, 7, 1, 65536, [-1, 0, 0, 1, 1]]
    assert len(rules["rules"]) == 3
    for text in (on_a_terminal(page, 100), markdown.render((page,)), html.render((page,))):
        assert "a tree of 5 nodes in 3 levels" in text
    plain = page_of(a_plan())
    assert "with trees" not in on_a_terminal(plain)
    listed = next(b for s in plain.sections for b in s.blocks
                  if isinstance(b, Code) and "rules" in b.text)  # fmt: skip
    assert "tree_rules" not in json.loads(listed.text)
