"""Trees of drafted tokens as Vega-Lite."""

from __future__ import annotations

import math

from magicplan.report.document.charts import TreePanel, Trees
from magicplan.report.document.vega.parts import BARE, Rows, Spec, layer, nominal, quantity, tooltip
from magicplan.units import show

FAINTEST = 0.01
"""Probability of being accepted below which all nodes of a tree share a colour."""


def draw_trees(figure: Trees) -> Spec:
    """Each tree in a square of its own: leaves side by side, parents above their middle."""
    across = max(1, figure.across)
    down = max(1, math.ceil(len(figure.panels) / across))
    nodes: Rows = []
    edges: Rows = []
    titles: Rows = []
    for index, panel in enumerate(figure.panels):
        column, row = index % across, index // across
        titles.append({"x": column + 0.5, "y": row + 0.04, "title": f"{panel.title}\n{panel.says}"})
        at = [(column + 0.06 + 0.88 * x, row + 0.3 + 0.62 * y) for x, y in _tree_places(panel)]
        for node, parent in enumerate(panel.parents):
            weight = panel.weights[node] if node < len(panel.weights) else None
            nodes.append({
                "x": at[node][0], "y": at[node][1], "weight": max(weight or 0.0, FAINTEST),
                "strength": 0.12 + 0.88 * _share(weight), "text": show(weight, "share"),
                "tree": panel.title, "size": max(24, 110 - 2 * len(panel.parents)),
            })  # fmt: skip
            if parent >= 0:
                (left, top), (right, bottom) = at[parent], at[node]
                edges.append({"x": left, "y": top, "x2": right, "y2": bottom})
    x = quantity("x", axis=None, scale={"domain": [0, across], "nice": False, "zero": False})
    y = quantity("y", axis=None, scale={"domain": [down, 0], "nice": False, "zero": False})
    told = tooltip(("tree", "tree"), ("text", "accepted"))
    look = {
        "opacity": quantity("strength", **BARE),
        "size": quantity("size", **BARE),
        "tooltip": told,
    }
    title = {
        "type": "text",
        "baseline": "top",
        "fontSize": 11,
        "lineBreak": "\n",
        "color": "var(--ink)",
    }
    rule = {"type": "rule", "color": "var(--ink-2)", "opacity": 0.6}
    point = {
        "type": "point",
        "filled": True,
        "color": "var(--s1)",
        "stroke": "var(--ink-2)",
        "strokeWidth": 0.5,
    }
    layers = [
        layer(rule, edges, {"x": x, "y": y, "x2": {"field": "x2"}, "y2": {"field": "y2"}}),
        layer(point, nodes, {"x": x, "y": y, **look}),
        layer(title, titles, {"x": x, "y": y, "text": nominal("title")}),
    ]
    return {"height": 210 * down, "layer": layers, "usermeta": {"least_width": 170 * across}}


def _share(weight: float | None) -> float:
    """The place of a probability between the faintest (0) and certainty (1), by logarithms."""
    return 1 - math.log(min(max(weight or 0.0, FAINTEST), 1.0)) / math.log(FAINTEST)


def _tree_places(panel: TreePanel) -> list[tuple[float, float]]:
    """The place of every node, across and down, both from 0 to 1."""
    count = len(panel.parents)
    children: list[list[int]] = [[] for _ in range(count)]
    levels = [0] * count
    for node, parent in enumerate(panel.parents):
        if parent >= 0:
            children[parent].append(node)
            levels[node] = levels[parent] + 1
    across = [0.0] * count
    leaves = 0
    order, stack = [], [0] if count else []
    while stack:
        node = stack.pop()
        order.append(node)
        stack += reversed(children[node])
    for node in order:
        if not children[node]:
            across[node], leaves = float(leaves), leaves + 1
    for node in sorted(order, key=lambda node: -levels[node]):
        if children[node]:
            across[node] = sum(across[child] for child in children[node]) / len(children[node])
    wide, deep = max(leaves - 1, 1), max([*levels, 1])
    middle = 0.5 if leaves <= 1 else 0.0
    return [(x / wide + middle, level / deep) for x, level in zip(across, levels, strict=True)]
