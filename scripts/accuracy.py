"""Rewrite docs/accuracy.md: how far predictions are from measurements they were not fitted on.

    python scripts/accuracy.py KERNELS PUBLISHED

KERNELS and PUBLISHED are as for scripts/calibrations.py. Every figure of the page is printed here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from accuracy_checks import element_wise, query_rows
from accuracy_goals import goals
from accuracy_kernels import crossings, halves, siblings, strangers, versions
from accuracy_layout import ERRORS, table
from accuracy_published import (
    first_tokens,
    magicdec_held_out,
    published_tables,
    transferred,
    unseen,
)
from accuracy_speculation import TITLE as SPECULATION
from accuracy_speculation import section as speculation

from magicplan.calibrate import kernel_tables
from magicplan.calibrate.expert_tables import with_experts_and_prompts
from magicplan.calibrate.groups import fit_groups
from magicplan.hardware_specs.transfer import STRANGER_SPREAD, TRANSFER_SPREAD
from magicplan.replay import published
from magicplan.replay.outcomes import Outcome, replay
from tools.stack_constants.request_fit import Told

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
NAMES = ("plain_decode", "speculation", "serving", "magicdec")


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    kernels, results = Path(sys.argv[1]), Path(sys.argv[2])
    tables = with_experts_and_prompts(kernel_tables.read(kernels), kernels)
    groups = fit_groups(tables)
    older = crossings(tables, groups, versions(groups))
    beside = crossings(tables, groups, siblings(groups))
    foreign = crossings(tables, groups, strangers(groups))
    cases = published.read([results / f"{name}.csv" for name in NAMES]).cases
    cases += published.read([results / "bench_runs.csv"]).cases
    outcomes, _ = replay(cases)
    magic, magicdec = magicdec_held_out(cases)
    held_out = unseen(outcomes, cases)
    summary = goals(outcomes, groups, older, held_out, magic)
    sections = {
        "Goals": summary,
        "Kernels, held-out halves": table(f"calibration | {ERRORS}", halves(groups)),
        "A version by the calibration of the version before": table(
            f"GPU, stack, versions | {ERRORS}", [c.line for c in older]
        ),
        "H200 by the calibrations of H100": SIBLINGS
        + table(f"GPU, stack, version | {ERRORS}", [c.line for c in beside]),
        "A GPU by the calibration of another family": STRANGERS
        + table(f"GPU and stack | {ERRORS}", [c.line for c in foreign]),
        "Published results of GPUs without a calibration of their own": TRANSFERS
        + table(
            "GPU | of | n | MAPE | bias | in 80 % | naive MAPE | worst row", transferred(outcomes)
        ),
        "Query rows a KV head": QUERY_ROWS
        + table("calibration | 8 | 16 | 32 | 64", query_rows(tables, groups)),
        "Element-wise ops of a layer": ELEMENT_WISE
        + table("GPU and model | 1 | 64 | 256 | 1024",
                element_wise(kernels / "vidur_layer_ops.parquet")),
        "Published steps and speedups, held out": HELD_OUT
        + table(
            "stack | of | fitted without | n | median | MAPE | naive median | "
            "80 % interval, % inside", [u.line for u in held_out]
        ),
        "MagicDec's speedups, each set of rows held out": MAGICDEC
        + table(
            "GPU | n | MAPE | p95 | bias | naive MAPE | % of steps inside | % of speedups inside",
            magicdec,
        ),
        "Time to first token of serving runs": FIRST_TOKENS
        + table("stack | n | host, rounds | steps alone | shipped | held out",
                first_tokens(load_tests(outcomes))),
        "Published results, shipped calibrations": SHIPPED + published_tables(outcomes),
        SPECULATION: speculation(results),
    }  # fmt: skip
    pages = [f"\n## {title}\n\n{text}" for title, text in sections.items()]
    PAGE.write_text(INTRO + "".join(pages), encoding="utf-8")
    print(summary)
    print(f"written: {PAGE.name}, {len(outcomes)} published values")


def load_tests(outcomes: list[Outcome]) -> list[Told]:
    """Load tests of the serving tables as they were replayed."""
    found: dict[str, Told] = {}
    for o in outcomes:
        if o.case.run and "serving" in o.case.source:
            told = found.setdefault(o.case.id, Told(o.case, {}, {}))
            told.measured[o.kind], told.predicted[o.kind] = o.measured, o.predicted
    return list(found.values())


INTRO = """\
# Accuracy

Written by `python scripts/accuracy.py KERNELS PUBLISHED`; errors are predicted over measured minus
1, in percent. Tables of kernel times come from aiconfigurator (NVIDIA, Apache-2.0, commit 095f58a,
without the newest version of each GPU and stack), published results from the sources that their
rows name. Mismatches are explained, or left open, in [residuals.md](residuals.md).
"""
SIBLINGS = """\
What a part of a known family gets: launch times and efficiencies are kept, rates are the
datasheet's.

"""
STRANGERS = """\
What an accelerator of an unknown family gets. Launch times are kept, rates are the
datasheet's.

"""
WITHIN, BETWEEN = (round(100 * spread - 100) for spread in (TRANSFER_SPREAD, STRANGER_SPREAD))
TRANSFERS = f"""\
The rule: the calibrated part of the same architecture family (A100 for Ampere, H100 for Hopper,
B200 for Blackwell, L40S for Ada); without one, MI300X for AMD, H100 for other HBM, L40S for GDDR.
Launch times and efficiencies are kept, rates are the datasheet's, all-reduces are those of a part
that meets its peers in the same way, and the interval widens by {WITHIN} % within a family,
{BETWEEN} % between families. SGLang's chains on H200 took part in a fit of two constants; the
others are llama.cpp's, whose own kernels are slow on A100 and H100.

"""
QUERY_ROWS = """\
Verification packs query tokens with query heads. The tables' nearest proxy: time with
many query heads a KV head over that with four, cold; seen / predicted (rows).

"""
ELEMENT_WISE = """\
Microseconds by tokens of a pass: Vidur's profiles (microsoft/vidur, MIT, commit
7d47513; an older stack, nothing fused) / ours, which engines fuse.

"""
HELD_OUT = """\
Constants of a stack fitted without what is named; the 80 % interval, and the share of rows inside
one that was chosen and set by the other folds (`shipped`: inside the one that ships). The chains of
SGLang are of one model and GPU but for one row; its dense rows are of one model, so that none can
be held out. Experts fit no constant: their kernels are those of tables, their host is that of dense
models.

"""
MAGICDEC = """\
H100 is drawn towards A100's constants, L40 towards H100's; for L40, this and whose kernels stand in
were chosen on its three rows (R13).

"""
FIRST_TOKENS = """\
Median errors. Beside its steps a first token waits at the host, and for the tokens sent
with it, of which published runs do not say how many: plans leave those out.

"""
SHIPPED = """\
Constants were fitted on parts of these rows: this shows where the model bends, not how
it predicts. Of load tests, times per token (tpot) and to the first one (ttft) come from the path
that plans use; no constant was fitted on times per token of experts, nor on `bench_runs`.
"""

if __name__ == "__main__":
    main()
