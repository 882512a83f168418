"""One small document of every schema, made by the package itself where it can."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from magicplan.planning.result import FleetPart, MixedFleet
from magicplan.prediction.adaptive_trees import adaptive_trees
from magicplan.prediction.compare_drafts import compare
from magicplan.prediction.predict import answer
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import resolve
from magicplan.replay import published
from magicplan.replay.outcomes import replay as run_replay
from magicplan.report import drafts, replay, sweep, trees
from tests.report.capacity.a_plan import NASTY, a_plan, hopeless

STORED = Path(__file__).parents[1] / "validate" / "data" / "run.jsonl"
"""A run of a tiny model, as `validate` wrote it."""
ROWS = Path(__file__).parents[1] / "data" / "published.csv"


def asked(**options: Any) -> Request:
    chosen: dict[str, Any] = {"gpu": "h100", "acceptance": "0.8", "max_gamma": 4}
    return Request(**(chosen | options))


def validation(**changes: Any) -> dict[str, Any]:
    """A run of two points, one of which fails."""
    measured = {
        "decode_seconds": 0.010, "draft_seconds": 0.002, "verify_seconds": 0.011,
        "round_seconds": 0.014, "speedup": 1.5,
    }  # fmt: skip
    measured |= {"decode_seconds_low": 0.0099, "decode_seconds_high": 0.0103}
    told = {key: 1.05 * value for key, value in measured.items()}
    floor = {key: 0.7 * value for key, value in measured.items()}
    good = {
        "id": "b1-c1024", "batch": 1, "ctx_tokens": 1024, "draft": "ngram", "gamma": 3,
        "measured": measured, "predicted": told, "ideal": floor, "verdict": "pass", "reason": "",
    }  # fmt: skip
    bad = good | {"id": "b8-c1024", "batch": 8, "verdict": "fail", "reason": "20 % off"}
    summary = {"decode_mape": 5.0, "speedup_mape": 5.0, "points": 2, "verdict": "fail"}
    return {
        "schema": "magicplan.validation/1",
        "device": {"name": "a small device", "memory_bytes": 8e9, "notes": ["x"]},
        "points": [good, bad],
        "summary": summary,
        "exactness": {"greedy_equal": True},
    } | changes


def a_fleet() -> MixedFleet:
    """Two kinds of replicas for one workload of a nasty name, one of which drafts."""
    plain = FleetPart(
        workload=NASTY, gpu="h100-sxm", replicas=2, gpus=8, tp=4, pp=1, dtype="bf16",
        kv_dtype="bf16", draft="none", gamma=0, requests_per_s=3.2, cost_usd_per_hour=31.9,
    )  # fmt: skip
    drafts = replace(plain, gpu="l40s", gpus=4, tp=1, pp=2, draft="ngram", gamma=4)
    return MixedFleet(
        feasible=True, verdict="8 x h100-sxm, 4 x l40s for 63.80 USD an hour",
        parts=(plain, drafts), gpus={"h100-sxm": 8, "l40s": 4}, cost_usd_per_hour=63.8,
        alone_usd_per_hour=80.0, cost_low_usd_per_hour=51.0, cost_high_usd_per_hour=float("inf"),
    )  # fmt: skip


@functools.cache
def documents() -> dict[str, str]:
    """Name -> JSON text."""
    grid = {"batch": [1, 16], "ctx": [4096, 65536]}
    cell = answer(resolve(asked(batch=32, ctx=32768)))
    cells = answer(resolve(asked(**grid)))
    found: dict[str, Any] = {
        "plan": a_plan().to_dict(),
        "hopeless": hopeless().to_dict(),
        "fleet": a_fleet().to_dict(),
        "prediction": cell.to_dict(),
        "grid": cells.to_dict(),
        "sweep": sweep.as_dict([cells, answer(resolve(asked(gpu="a100", **grid)))]),
        "tree": trees.as_dict(adaptive_trees(asked(**grid), max_size=16, max_depth=4)),
        "drafts": drafts.as_dict(compare(asked(batch=8, ctx=8192, acceptance="auto"), max_size=16)),
        "replay": replay.as_dict(*_replayed()),
        "validation": validation(),
    }
    return {name: json.dumps(document) for name, document in found.items()} | {
        "run": STORED.read_text(encoding="utf-8")
    }


def _replayed() -> Any:
    rows = published.read([ROWS])
    outcomes, skipped = run_replay(rows.cases)
    return outcomes, [*rows.skipped, *skipped]
