"""Write the calibrations that ship: kernels first, then what kernels leave out.

    python scripts/calibrations.py KERNELS PUBLISHED

KERNELS holds gemm, decode_attention and allreduce tables (aiconfigurator at commit 095f58a, newest
version of each GPU and stack left out); PUBLISHED holds plain_decode, speculation, serving and
magicdec CSV files. Rewrites magicplan/hardware_specs/stacks.toml and calibrations/*.toml.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from magicplan.calibrate import kernel_tables
from magicplan.calibrate.expert_tables import with_experts_and_prompts
from magicplan.calibrate.groups import Group, document, fit_groups, write
from magicplan.hardware_specs import load
from magicplan.hardware_specs.calibration import Calibration, Residual
from magicplan.hardware_specs.calibration_files import CALIBRATIONS
from magicplan.hardware_specs.stacks import stack_tables
from magicplan.hardware_specs.transfer import AMD, calibration_for, forget
from magicplan.replay import published
from magicplan.replay.harnesses import HARNESSES, harnesses
from magicplan.replay.published import Case
from tools.stack_constants.evidence import borrowed
from tools.stack_constants.magicdec_fit import (
    fit_each,
    magicdec_calibration,
    magicdec_evidence,
    magicdec_residuals,
)
from tools.stack_constants.relative_fit import fit_slowdown, slowed
from tools.stack_constants.request_fit import (
    RequestFit,
    Told,
    expert_evidence,
    fit_request,
    residuals,
    told,
)
from tools.stack_constants.round_tables import with_rounds
from tools.stack_constants.stack_fit import constants, fit_host, rounded

SOURCE = "aiconfigurator, commit 095f58a (NVIDIA, Apache-2.0)"
STACKS = CALIBRATIONS.parent / "stacks.toml"
UNEXPLAINED = {("trtllm", "1.2.0rc6.post3"), ("trtllm", "1.3.0rc1")}
"""Runs of experts that no stated input explains (docs/residuals.md, R6)."""
HEADER = """\
# What kernels leave out, by serving stack: written by scripts/calibrations.py, never by hand.
# low and high of a residual: 80 % of measured over predicted; its basis says of which rows.

"""
HARNESSES_HEADER = """\
# What published serving benchmarks show beside an engine's steps: written by
# scripts/calibrations.py, never by hand. Only replays of published rows read it.

"""


def stacks(cases: list[Case]) -> None:
    """Host constants of the serving stacks; a stack without published chains takes vLLM's."""
    tables: dict[str, Any] = {}
    shown: dict[str, dict[str, float]] = {}
    for stack in ("vllm", "sglang", "trtllm"):
        fit = fit_host(stack, cases)
        shown[stack] = {"prefill_share": round(fit.prefill_share, 3)}
        tables[stack] = {
            "fp4": {k: float(f"{v:.4g}") for k, v in fit.fp4.items()},
            "host": constants(fit.host),
            "step_residual": rounded(fit.residual),
            "evidence": [fit.evidence],
        }
        if len(fit.held_out):
            print(
                f"{stack:8} {len(fit.held_out)} steps, held out: median "
                f"{100 * np.median(np.abs(1 / fit.held_out - 1)):.1f} %, "
                f"{100 * fit.coverage:.0f} % inside {fit.residual.low:.2f} to "
                f"{fit.residual.high:.2f}"
            )
        else:
            print(f"{stack:8} {fit.residual.basis}")
    for table in tables.values():
        # 4-bit linear layers are the GPU's kernels more than the stack's
        if not table["fp4"]:
            table["fp4"] = tables["trtllm"]["fp4"]
            table["evidence"].append(borrowed("stack fp4", ("fp4",), "trtllm's"))
    write_stacks(with_rounds(tables, cases), shown)


def believed(case: Case) -> bool:
    """Whether a case is none that is `UNEXPLAINED`."""
    return (case.engine, case.version) not in UNEXPLAINED


def load_tests(cases: list[Case]) -> None:
    """What first tokens wait for beside their steps, then how far off load tests are: last, for it
    needs all of their times."""
    tables, shown = dict(stack_tables()), dict(harnesses())
    rows = told(c for c in cases if c.run and believed(c))
    for stack in tables:
        fit = fit_request(stack, rows)
        tables[stack]["host"]["request_seconds"] = round(fit.request_seconds, 4)
        shown[stack]["streamed_rounds"] = round(fit.streamed_rounds, 2)
        tables[stack]["evidence"] += [fit.evidence, expert_evidence(stack, rows)]
        print(
            f"{stack:8} first token + {1e3 * fit.request_seconds:.0f} ms and "
            f"{fit.streamed_rounds:.1f} rounds, "
            f"{'held out' if fit.evidence['held_out'] else 'in sample'}: median "
            f"{fit.evidence['median_percent']:.1f} %"
        )
        waited = [with_wait(row, fit) for row in rows if row.case.engine == stack]
        for name, residual in residuals(stack, waited).items():
            tables[stack][name] = rounded(residual)
            print(f"{stack:8} {name} {residual.low:.2f} to {residual.high:.2f}")
    write_stacks(tables, shown)


def with_wait(row: Told, fit: RequestFit) -> Told:
    """A load test predicted with the waits of its stack."""
    wait = fit.request_seconds + fit.streamed_rounds * row.predicted["tpot"]
    return replace(row, predicted=row.predicted | {"ttft": row.predicted["ttft"] + wait})


def write_stacks(tables: dict[str, Any], shown: dict[str, dict[str, float]]) -> None:
    """Write what engines add to kernels, and what their benchmarks show beside it."""
    STACKS.write_text(HEADER + tomli_w.dumps(tables), encoding="utf-8")
    HARNESSES.write_text(HARNESSES_HEADER + tomli_w.dumps(shown), encoding="utf-8")
    forget()
    harnesses.cache_clear()


def magicdec(cases: list[Case]) -> list[dict[str, object]]:
    """MagicDec on the GPUs it was published for."""
    documents = []
    for fit in fit_each(cases):
        step, speedup = magicdec_residuals(fit.folds)
        found = magicdec_calibration(fit.kernels, fit.numbers)
        data = {
            "name": f"{fit.gpu}_magicdec_1.0",
            "accelerator": fit.gpu,
            "origin": f"{', '.join(fit.own)} fitted on {fit.rows} published MagicDec rows "
            f"(arXiv 2408.11049, Tables 1-7) over the kernels of {fit.kernels.name}",
            "date": date.today().isoformat(),
            "linear": {d: numbers_of(f) for d, f in found.linear.items()},
            "attention": {d: numbers_of(f) for d, f in found.attention.items()},
            "collective": numbers_of(found.collective),
            "host": constants(found.host),
            "step_residual": rounded(step),
            "speedup_residual": rounded(speedup),
            "evidence": magicdec_evidence(fit.folds, found),
        }
        documents.append(data)
        print(f"magicdec {fit.gpu}: {fit.numbers.round(2)}")
    return documents


def relatives(cases: list[Case]) -> list[dict[str, object]]:
    """MI300X, which only published steps of vLLM know, by one slowdown against H100's kernels."""
    own = [c for c in cases if c.step_seconds and c.dense and c.ask["gpu"] == AMD]
    h100 = {stack: calibration_for(load("h100-sxm"), stack)[0] for stack in ("vllm", "sglang")}
    factor, residual, basis = fit_slowdown(own, h100["vllm"])
    print(f"{AMD}: kernels {factor:.2f} times those of {h100['vllm'].name}, {len(own)} steps")
    return [_slowed(h100[stack], stack, factor, residual, basis) for stack in h100]


def _slowed(
    base: Calibration, stack: str, factor: float, residual: Residual, basis: dict[str, Any]
) -> dict[str, object]:
    found = slowed(base, factor)
    return {
        "accelerator": AMD,
        "name": f"{AMD}_{stack}_{base.name.rpartition('_')[2]}",
        "origin": f"kernels of {base.name} made {factor:.2f} times as long, the one number fitted "
        f"on {basis['rows']} published steps of vLLM (ROCm/vllm docs/dev-docker/README.md)",
        "date": date.today().isoformat(),
        "linear": {d: numbers_of(f) for d, f in found.linear.items()},
        "attention": {d: numbers_of(f) for d, f in found.attention.items()},
        "collective": numbers_of(found.collective),
        "host": constants(found.host),
        "step_residual": rounded(residual),
        "speedup_residual": rounded(found.speedup_residual),
        "evidence": [basis],
    }


def ship(documents: list[dict[str, object]]) -> None:
    """Write calibrations where the package finds them."""
    write(CALIBRATIONS, documents)
    forget()


def numbers_of(form: object) -> dict[str, float]:
    return {k: float(f"{v:.4g}") for k, v in asdict(form).items()}


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    kernels, results = Path(sys.argv[1]), Path(sys.argv[2])
    tables = with_experts_and_prompts(kernel_tables.read(kernels), kernels)
    groups = fit_groups(tables, lambda name: print("fitted", name))
    write_all(groups, results)


def write_all(groups: list[Group], results: Path) -> None:
    """Every calibration and stack that ships, from fitted kernels and published results."""
    for old in CALIBRATIONS.glob("*.toml"):
        old.unlink()
    ship([document(group, groups, SOURCE) for group in groups])
    names = ("plain_decode", "speculation", "serving", "magicdec")
    cases = published.read([results / f"{name}.csv" for name in names]).cases
    stacks(cases)
    ship([document(group, groups, SOURCE) for group in groups])
    load_tests(cases)
    ship([document(group, groups, SOURCE) for group in groups])
    ship(magicdec(cases))
    ship(relatives(cases))


if __name__ == "__main__":
    main()
