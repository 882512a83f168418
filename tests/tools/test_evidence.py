"""What constants rest on: counted from the rows that fitted them, kept in TOML, shown to users."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import magicplan as mp
from magicplan.errors import SpecError, UsageError
from magicplan.hardware_specs.calibration import HostFit
from magicplan.hardware_specs.calibration_files import CALIBRATIONS, as_toml, read
from magicplan.prediction.closed_forms import closed_forms
from magicplan.replay.published import Case
from magicplan.replay.published import read as read_published
from magicplan.report.document.page import Bullets
from magicplan.report.formulas import explain
from magicplan.report.formulas.evidence import evidence_line
from magicplan.report.pages import page_of
from tests.tools.test_request_fit import runs
from tools.stack_constants.evidence import borrowed, evidence
from tools.stack_constants.magicdec_fit import held_out, magicdec_calibration, magicdec_evidence
from tools.stack_constants.relative_fit import fit_slowdown
from tools.stack_constants.request_fit import fit_request
from tools.stack_constants.round_fit import fit_rounds
from tools.stack_constants.round_tables import FORGOTTEN
from tools.stack_constants.stack_fit import fit_host

ROWS = Path(__file__).parents[1] / "data" / "published.csv"
H100 = "h100-sxm_vllm_0.19.0"


def steps(models: tuple[str, ...], factor: float = 1.0) -> list[Case]:
    """Six steps a model, as long as predicted times `factor` and a known scatter of 10 %."""
    found = []
    for model in models:
        for i, batch in enumerate((1, 4, 16, 32, 64, 128)):
            ask: dict[str, Any] = {
                "gpu": "h100", "model": model, "batch": batch, "ctx": 1000, "tp": 1, "gpus": 1,
                "dtype": None, "stack": "vllm", "draft": "none", "memory_fraction": 1.0,
            }  # fmt: skip
            seconds = mp.predict(**ask).baseline.step_seconds * factor * (1.1 if i % 2 else 1 / 1.1)
            found.append(
                Case(id=f"{model} {batch}", source="made: up", engine="vLLM 1", grade="A", ask=ask,
                     step_seconds=seconds)
            )  # fmt: skip
    return found


def test_evidence_counts_rows_sources_and_sets() -> None:
    ratios = np.asarray([1.1, 0.9, 1.0, 1.2])
    found = evidence("p", ("a",), ["x", "y", "x", "x"], ["1", "1", "2", "2"], ratios, held_out=True)
    assert found == {
        "part": "p", "constants": ["a"], "from": ["x, 3 rows", "y, 1 rows"], "rows": 4, "sets": 2,
        "held_out": True, "median_percent": 10.0, "p95_percent": 18.5,
    }  # fmt: skip


def test_constants_of_a_stack_say_which_rows_and_sets_fitted_them() -> None:
    fit = fit_host("vllm", steps(("llama-3.1-8b", "llama-2-7b", "qwen2.5-7b")))
    told = fit.evidence
    assert (told["rows"], told["sets"], told["held_out"]) == (18, 3, True)
    assert told["from"] == ["made: up, 18 rows"]
    assert {"host.step_seconds", "prefill_share"} <= set(told["constants"])
    assert "fp4" not in told["constants"]
    assert told["median_percent"] == pytest.approx(10, abs=4)
    errors = 100 * np.abs(1 / fit.held_out - 1)
    assert told["p95_percent"] == pytest.approx(np.percentile(errors, 95), abs=0.01)


def test_constants_from_one_set_say_in_sample() -> None:
    fit = fit_host("vllm", [*steps(("llama-3.1-8b",)), *steps(("llama-3.1-8b",))])
    assert (fit.evidence["sets"], fit.evidence["held_out"]) == (1, False)
    assert "in sample" in evidence_line(fit.evidence)


def test_rounds_are_held_out_and_slowdowns_say_in_sample() -> None:
    cases = []
    for case in steps(("llama-3.1-8b", "qwen2.5-7b")):
        ask = case.ask | {"draft": "eagle3", "gamma": 3, "max_gamma": 3, "acceptance": "0.7"}
        speedup = mp.predict(**ask).best.speedup
        source = f"made: {ask['model']}"
        cases.append(replace(case, ask=ask, speedup=speedup, step_seconds=None, source=source))
    host = read(CALIBRATIONS / f"{H100}.toml").host
    bare = HostFit(**(asdict(host) | FORGOTTEN))
    fit = fit_rounds("vllm", cases, bare)
    found, told = fit.host, fit.evidence
    for batch in (case.ask["batch"] for case in cases):
        pays, paid = (
            one.between_passes_seconds(batch) + 3 * one.draft_launch_seconds(True)
            for one in (found, host)
        )
        assert pays == pytest.approx(paid, rel=0.02)
    assert fit.told == ("round_batch_seconds",)  # all rows draft three tokens of a mapped head
    assert (told["rows"], told["held_out"]) == (12, True)
    assert told["median_percent"] < 1
    assert found.round_batch_spread < 0.1  # made by one constant, which no sweep disputes
    slow = steps(("llama-3.1-8b", "llama-2-7b"), 1.5)
    factor, _, told = fit_slowdown(slow, read(CALIBRATIONS / f"{H100}.toml"))
    assert 1.2 < factor < 1.8
    assert (told["rows"], told["sets"], told["held_out"]) == (12, 2, False)


def test_first_tokens_say_whether_they_were_held_out() -> None:
    rows = runs(0.03, 6.0, noise=0.1)
    assert fit_request("vllm", rows).evidence["held_out"]
    alone = fit_request("vllm", [r for r in rows if r.case.ask["model"] == "a"] * 2).evidence
    assert not alone["held_out"]
    assert alone["rows"] == 16
    assert alone["median_percent"] > 0


def test_magicdec_says_what_each_part_misses_and_how_verification_reads() -> None:
    cases = [c for c in read_published([ROWS]).cases if c.ask["gpu"] == "a100-sxm-80gb"]
    base = read(CALIBRATIONS / "a100-sxm-80gb_vllm_0.14.0.toml")
    with pytest.raises(UsageError, match="none to hold out"):
        list(held_out(cases[:1], base))
    fitted = magicdec_calibration(base, np.asarray([3700, 3.9, 1500, 2400, 0.84, 0.1]))
    folds = [([c], fitted) for c in cases]
    told = {e["part"]: e for e in magicdec_evidence(folds, fitted)}
    assert told["magicdec speedup"]["rows"] == sum(c.speedup is not None for c in cases)
    assert told["magicdec step"]["held_out"]
    assert "verification" not in told  # a handful of rows tells nothing of passes


def test_evidence_is_read_back_and_shown(tmp_path: Path) -> None:
    shipped = read(CALIBRATIONS / f"{H100}.toml")
    assert {"linear.bf16", "attention.bf16", "collective"} <= {e["part"] for e in shipped.evidence}
    prediction = mp.predict(gpu="h100", ctx=16384)
    document = prediction.to_dict()["calibration"]
    assert document["name"] == H100
    assert document["evidence"] == list(map(dict, shipped.evidence))
    explained = explain.as_dict(closed_forms(prediction))
    assert explained["calibration"] == document
    last = page_of(explained, "explain").sections[-1]
    assert last.title == f"Constants of calibration {H100}"
    assert isinstance(last.blocks[0], Bullets)
    shown = " ".join(last.blocks[0].lines)
    assert "attention.bf16: " in shown
    assert "held out" in shown


def test_evidence_that_is_no_list_of_parts_is_refused() -> None:
    data: dict[str, Any] = {
        "name": "x", "origin": "y",
        "step_residual": {"low": 0.9, "high": 1.1, "basis": "z"},
        "speedup_residual": {"low": 0.9, "high": 1.1, "basis": "z"},
    }  # fmt: skip
    assert as_toml(data).evidence == ()
    for bad in ({"part": "a"}, [{"rows": 3}], ["linear"]):
        with pytest.raises(SpecError, match=r"evidence.*(list of tables|part is missing)"):
            as_toml(data | {"evidence": bad})


def test_a_line_of_borrowed_constants_names_the_owner() -> None:
    line = evidence_line(borrowed("stack rounds", ("host.round_seconds",), "vllm's"))
    assert line == "stack rounds: 0 rows of vllm's for round_seconds"
