"""One small document of every schema, made by the package itself where it can."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from magicplan.calibrate.device_fit import DeviceFit
from magicplan.calibrate.kernel_fit import Errors
from magicplan.engines.nearest import settings as settings_of
from magicplan.hardware_specs import load
from magicplan.planning.result import FleetPart, MixedFleet
from magicplan.prediction.adaptive_trees import adaptive_trees, value_trees
from magicplan.prediction.choose import choose_everywhere
from magicplan.prediction.compare_drafts import compare
from magicplan.prediction.predict import answer
from magicplan.prediction.regimes import regimes
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import resolve
from magicplan.replay import published
from magicplan.replay.account import as_dict as replay_as_dict
from magicplan.replay.outcomes import replay as run_replay
from magicplan.report import calibrations, settings, sweep
from magicplan.roofline.trees import Tree
from magicplan.serving.bench import bench
from tests.report.capacity.a_plan import NASTY, a_plan, hopeless

STORED = Path(__file__).parents[1] / "validate" / "data" / "run.jsonl"
"""A run of a tiny model, as `validate` wrote it."""
ROWS = Path(__file__).parents[1] / "data" / "published.csv"


def asked(**options: Any) -> Request:
    chosen: dict[str, Any] = {"gpu": "h100", "acceptance": "0.8", "max_gamma": 4, "draft": "self"}
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
        feasible=True, verdict="Rent 8 x h100-sxm and 4 x l40s for $63.80 an hour.",
        parts=(plain, drafts), gpus={"h100-sxm": 8, "l40s": 4}, cost_usd_per_hour=63.8,
        alone_usd_per_hour=80.0, cost_low_usd_per_hour=51.0, cost_high_usd_per_hour=float("inf"),
    )  # fmt: skip


def a_device_fit() -> DeviceFit:
    """Constants of a device as a calibration run would have fitted them."""
    return DeviceFit(
        calibration={
            "name": "mine", "origin": "24 steps of this device",
            "linear": {"bf16": {"compute_efficiency": 0.8, "launch_seconds": 2e-6}},
            "attention": {"bf16": {"memory_efficiency": 0.7}},
            "host": {"step_seconds": 1e-4},
        },
        errors=Errors(rows=24, mape=7.1, p80=12.0, p95=19.0, bias=0.3, worst="decode, batch 8"),
        kv_passes={1: 1.0, 4: 1.2},
    )  # fmt: skip


def explained() -> dict[str, Any]:
    """A closed form with a value, and one without."""
    first = {
        "name": "Context where KV bytes equal weight bytes", "formula": "Eq(S, W/B)",
        "latex": "S = W / B", "drawn": "    W\nS = ─\n    B", "derivation": "Bytes set equal.",
        "inputs": {"B": 8.0}, "value": 13_400.0, "unit": "tokens", "says": "Beyond it KV is more.",
    }  # fmt: skip
    return {
        "schema": "magicplan.explain/1", "accelerator": "h100-sxm", "model": NASTY,
        "verdict": {"speculate": "no", "draft": "none", "gamma": 0, "text": "Do not speculate."},
        "calibration": {"name": "mine", "origin": "here", "evidence": []},
        "evidence": ["attention.bf16: 40 rows"],
        "formulas": [first, first | {"inputs": {"B": None}, "value": None, "unit": ""}],
    }  # fmt: skip


def calibrated() -> dict[str, Any]:
    """Two parts fitted, one refused."""
    errors = {"rows": 48, "mape": 1.5, "p80": 2.0, "p95": 3.8, "bias": 0.3, "worst": 5.0}
    fit = {"constants": {"compute_efficiency": 0.8}, "held_out_percent": errors,
           "naive_percent": errors | {"mape": 46.0}, "rejected_rows": 0}  # fmt: skip
    group = {
        "name": "h100-sxm_vllm_1.2.3", "accelerator": "h100-sxm", "stack": "vllm",
        "version": "1.2.3", "parts": {"linear.bf16": fit, "collective": fit},
        "refused": {"eager": "too few rows"},
    }  # fmt: skip
    return {"schema": "magicplan.calibration/1", "groups": [group]}


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
        "bench": bench(gpu="h100", concurrency=4, num_prompts=24, prompt=512, output=64).to_dict(),
        "prediction": cell.to_dict(),
        "grid": cells.to_dict(),
        "sweep": sweep.as_dict([cells, answer(resolve(asked(gpu="a100", **grid)))]),
        "choice": choose_everywhere(asked(**grid), max_size=8).to_dict(),
        "regimes": regimes(asked(**grid)).to_dict(),
        "settings": settings.as_dict(
            settings_of(answer(resolve(asked(draft="eagle3", **grid))), "vllm")
        ),
        "tree": adaptive_trees(asked(**grid), max_size=16, max_depth=4).to_dict(),
        "tree_worth": value_trees(asked(), [Tree.chain(3), Tree(parents=(-1, 0, 0))]).to_dict(),
        "drafts": compare(asked(batch=8, ctx=8192, acceptance="auto"), max_size=16).to_dict(),
        "explain": explained(),
        "replay": replay_as_dict(*_replayed()),
        "calibration": calibrated(),
        "device": calibrations.device_as_dict(load("a100-sxm-80gb"), a_device_fit()),
        "validation": validation(),
    }
    return {name: json.dumps(document) for name, document in found.items()} | {
        "run": STORED.read_text(encoding="utf-8")
    }


def _replayed() -> Any:
    rows = published.read([ROWS])
    outcomes, skipped = run_replay(rows.cases)
    return outcomes, [*rows.skipped, *skipped]
