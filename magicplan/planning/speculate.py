"""Python's face of the speculation planner: the same fields as `predict` takes."""

from __future__ import annotations

from typing import Any

from magicplan.planning.adaptive import TreePlan, adaptive_trees
from magicplan.planning.choice import Choice, choose_everywhere
from magicplan.planning.compare import Comparison, compare
from magicplan.planning.request import request


def drafts(gpu: str, *, max_size: int = 64, max_depth: int = 12, **options: Any) -> Comparison:
    """Every draft of the catalogue on one workload, chains and trees, best first.

    Takes the fields of `Request`. Raises UsageError, DoesNotFit.
    """
    return compare(request(gpu, options), max_size=max_size, max_depth=max_depth)


def trees(gpu: str, *, max_size: int = 64, max_depth: int = 12, **options: Any) -> TreePlan:
    """The best tree of one draft in every cell [batch, ctx]. Raises UsageError, DoesNotFit."""
    return adaptive_trees(request(gpu, options), max_size=max_size, max_depth=max_depth)


def choose(gpu: str, *, max_size: int = 64, max_depth: int = 12, **options: Any) -> Choice:
    """The best draft, chain or tree of every cell [batch, ctx]. Raises UsageError, DoesNotFit."""
    return choose_everywhere(request(gpu, options), max_size=max_size, max_depth=max_depth)
