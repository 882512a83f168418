"""A plan beside a benchmark of one of its servers: the public `plan` and `with_observed`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from magicplan.errors import UsageError
from magicplan.observed.observe import observe
from magicplan.planning.plan import plan as planned
from magicplan.planning.question import CapacityQuestion
from magicplan.planning.request import PlanRequest
from magicplan.planning.result import Plan


def plan(
    asked: CapacityQuestion | PlanRequest | Path | str | None = None,
    *,
    observed: Path | str | None = None,
    stated: Mapping[str, float] | None = None,
    **options: Any,
) -> Plan:
    """The cheapest fleet that serves a workload within its limits, and why the others lose.

    Takes a question from `read_plan`, the path of a plan file with fields that win over its own, or
    fields alone: `plan(model="llama-3.1-70b", requests_per_s=5, prompt=8192, output=400,
    slo={"ttft_p95_seconds": 2, "tpot_p95_seconds": 0.05})`. Where nothing meets the limits, the
    answer says so (`feasible`) and shows the nearest. `observed` is the result file of a benchmark
    to lay beside, `stated` what that file leaves out, as in `with_observed`. Raises UsageError for
    names, numbers and options that make no sense, SpecError for files.
    """
    if stated is not None and observed is None:
        raise UsageError("stated goes with observed")
    found = planned(asked, **options)
    return found if observed is None else with_observed(found, observed, stated)


def with_observed(found: Plan, path: Path | str, stated: Mapping[str, float] | None = None) -> Plan:
    """A plan beside a benchmark of one replica of its best candidate.

    `path` is a result file of vllm bench, SGLang bench_serving, AIPerf or GenAI-Perf, `stated` what
    it leaves out, such as {"prompt": 1024} (names: `observed.run.STATABLE`). Name one GPU and one
    `tp` in the question to say which server was observed. Raises SpecError.
    """
    return replace(found, observed=observe(path, found.request, found.best, stated))
