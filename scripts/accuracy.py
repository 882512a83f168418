"""Rewrite docs/accuracy.md: how far predictions are from measurements they were not fitted on.

    python scripts/accuracy.py KERNELS PUBLISHED

KERNELS and PUBLISHED are as for scripts/calibrations.py. Every figure of the page is printed here.
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from accuracy_checks import element_wise, query_rows
from kernel_steps import BUDGET, Bench, predicted_seconds

from magicplan import model_specs
from magicplan.errors import UsageError
from magicplan.hardware_specs.calibration import Calibration
from magicplan.hardware_specs.calibration_files import (
    CALIBRATIONS,
    as_toml,
    ideal,
    stack_constants,
    streamed_rounds,
)
from magicplan.hardware_specs.calibration_files import read as read_calibration
from magicplan.report.replay import summaries, worst
from magicplan.roofline.deployment import Array
from magicplan.roofline.timing import Machine
from magicplan.validate import kernel_tables, published
from magicplan.validate.calibrate import Group, document, fit_groups, rereads
from magicplan.validate.fit import Errors, attention_seconds_of, linear_seconds_of
from magicplan.validate.kernel_tables import Columns, KernelTables, accelerator_of, where
from magicplan.validate.magicdec_fit import held_out, magicdec_coverage
from magicplan.validate.published import Case
from magicplan.validate.replay import Outcome, Summary, regrets, replay, replay_with, sign_accuracy
from magicplan.validate.request_fit import fit_request
from magicplan.validate.serving_rows import Served, served
from magicplan.validate.stack_fit import fit_host

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
MODELS = ("llama-2-7b", "llama-3.1-8b", "mistral-7b-v0.3", "qwen3-32b", "llama-3.1-70b")
GPU_OF = {"a100-sxm-80gb": "a100_sxm", "h100-sxm": "h100_sxm", "b200-sxm": "b200_sxm",
          "l40s": "l40s"}  # fmt: skip


def cold(rows: Columns, gpu: str) -> Columns:
    """Attention rows whose bf16 cache is at least twice L2, of whole context."""
    size = rows["batch"] * rows["kv_len"] * rows["kv_heads"] * rows["head_dim"] * 4
    l2 = accelerator_of(gpu).l2_bytes or 0
    return where(rows, (size >= 2 * l2) & (rows["window"] == 0) & (rows["kv_dtype"] == "bf16"))


BATCHES, LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256), (4096, 8192, 16384, 32768, 65536, 131072)


def passes(bench: Bench, machine: Machine) -> dict[str, Errors]:
    """Errors of decode steps, of draft over decode, and of a round over decode."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, tp, batch, length in itertools.product(MODELS, (1, 8), BATCHES, LENGTHS):
        model = model_specs.load(name)
        if not bench.cold(model, tp, batch, length):
            continue

        def both(kv_len: int, tokens: int = 1, *, at=(model, tp, batch)) -> Array | None:  # type: ignore[no-untyped-def]
            seen = bench.pass_seconds(*at, kv_len, tokens)
            guess = predicted_seconds(machine, *at, kv_len, tokens)
            return None if seen is None else np.asarray([guess, seen])

        decode, draft = both(length), both(BUDGET)
        if decode is None:
            continue
        found[f"step, TP{tp}"].append(tuple(decode))
        if draft is None:
            continue
        found[f"draft / decode, TP{tp}"].append(tuple(draft / decode))
        for gamma in (1, 3):
            verify = both(length, gamma + 1)
            if verify is not None:
                found[f"round, gamma {gamma}, TP{tp}"].append(
                    tuple(decode / (gamma * draft + verify))
                )
    return {
        name: Errors.of(*np.asarray(pairs).T) for name, pairs in found.items() if len(pairs) >= 5
    }


def table(header: str, rows: list[str]) -> str:
    columns = header.count("|") + 1
    return "\n".join([f"| {header} |", "|---" * columns + "|", *(f"| {r} |" for r in rows)]) + "\n"


def cells(e: Errors | None) -> str:
    return f"{e.rows} | {e.mape:.1f} | {e.p95:.1f} | {e.bias:+.1f}" if e else "- | - | - | -"


def against(tables: KernelTables, gpu: str, calibration: Calibration) -> dict[str, Errors]:
    """Errors of a calibration on another group's rows: linear layers, cold attention, steps."""
    machine = Machine(accelerator=accelerator_of(gpu), calibration=calibration)
    linear = where(tables.linear, (tables.linear["dtype"] == "bf16") & ~_warm(tables.linear))
    found = {"linear": Errors.of(linear_seconds_of(linear, machine, "bf16"), linear["seconds"])}
    attention = cold(tables.attention, gpu)
    if len(attention["seconds"]) >= 20:
        guess = attention_seconds_of(attention, machine, "bf16")
        found["attention"] = Errors.of(guess, attention["seconds"])
    if tables.attention and len(tables.attention["seconds"]):
        bench = Bench(tables=tables, l2_bytes=accelerator_of(gpu).l2_bytes or 0.0)
        found |= passes(bench, machine)
    return found


def _warm(linear: Columns) -> Array:
    return np.asarray(linear.get("l2_risk", np.zeros(len(linear["seconds"]), np.bool_)), np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A part of one group's kernels by the calibration of another group."""

    label: str
    gpu: str
    part: str
    ours: Errors
    naive: Errors

    @property
    def line(self) -> str:
        return f"{self.label} | {self.part} | {cells(self.ours)} | {self.naive.mape:.1f}"


def crossings(
    tables: KernelTables, groups: list[Group], pairs: Iterator[tuple[Group, Group, str]]
) -> list[Crossing]:
    """`known`'s calibration on `unseen`'s kernels, for every pair."""
    found = []
    for known, unseen, label in pairs:
        gpu = GPU_OF[unseen.accelerator.name]
        rows = packing(tables.of(gpu, unseen.stack, unseen.version), unseen)
        if "linear.bf16" not in unseen.fits:
            continue
        own = as_toml(document(known, groups, "tables"))
        ours, naive = against(rows, gpu, own), against(rows, gpu, ideal())
        found += [
            Crossing(label=label, gpu=gpu, part=part, ours=errors, naive=naive[part])
            for part, errors in ours.items()
        ]
    return found


def packing(rows: KernelTables, group: Group) -> KernelTables:
    """The rows without attention that reads KV over again: no other version foretells such a
    fault."""
    if not rereads(group, "attention.bf16"):
        return rows
    none = np.zeros(len(rows.attention["seconds"]), dtype=np.bool_)
    return replace(rows, attention=where(rows.attention, none))


def versions(groups: list[Group]) -> Iterator[tuple[Group, Group, str]]:
    """Each version by the calibration of the version before."""
    for known, unseen in itertools.pairwise(groups):
        same = (known.accelerator.name, known.stack) == (unseen.accelerator.name, unseen.stack)
        if same and "linear.bf16" in known.fits:
            yield (
                known,
                unseen,
                f"{unseen.accelerator.name} {unseen.stack} {known.version} -> {unseen.version}",
            )


def strangers(groups: list[Group]) -> Iterator[tuple[Group, Group, str]]:
    """The newest calibrated version of each GPU by another family's part, as the rule goes."""
    newest = {(g.accelerator.name, g.stack): g for g in groups if "attention.bf16" in g.fits}
    for (gpu, stack), unseen in newest.items():
        giver = "a100-sxm-80gb" if gpu == "h100-sxm" else "h100-sxm"
        if (giver, stack) in newest:
            yield newest[giver, stack], unseen, f"{gpu} {stack} by {giver}"


def published_tables(outcomes: list[Outcome]) -> str:
    keys: dict[str, Callable[[Outcome], str]] = {
        "source": lambda o: o.case.source,
        "GPU": lambda o: str(o.case.ask["gpu"]),
        "model": lambda o: str(o.case.ask["model"]).split("/")[-1].lower(),
        "stack": lambda o: str(o.case.ask["stack"]),
        "batch": lambda o: _bin(o.case.ask["batch"], (8, 32, 128)),
        "context": lambda o: _bin(o.case.ask["ctx"], (2048, 8192, 32768)),
    }
    text = ""
    for name, key in keys.items():
        rows = []
        for (group, kind), s in summaries(outcomes, key).items():
            w = worst([o for o in outcomes if key(o) == group and o.kind == kind], 1)[0]
            rows.append(
                f"{group} | {kind} | {s.rows} | {s.mape:.1f} | {s.median:.1f} | {s.p95:.1f} | "
                f"{s.bias:+.1f} | {s.coverage:.0f} | {s.naive_mape:.1f} | "
                f"{w.case.id} {100 * w.error:+.0f} %"
            )
        header = f"{name} | of | n | MAPE | median | p95 | bias | in 80 % | naive MAPE | worst row"
        text += f"\n### By {name}\n\n" + table(header, rows)
    return text


def _bin(value: float, edges: tuple[int, ...]) -> str:
    low = [e for e in edges if value > e]
    return f"above {low[-1]}" if low else f"up to {edges[0]}"


def goals(
    outcomes: list[Outcome],
    groups: list[Group],
    older: list[Crossing],
    held: dict[str, tuple[float, float]],
    magic: list[Outcome],
) -> str:
    def of(kind: str, good: Callable[[Outcome], bool]) -> Summary:
        return Summary.of([o for o in outcomes if o.kind == kind and good(o)])

    dense = Summary.of(distinct(outcomes))
    served = of("step", lambda o: "serving" in o.case.source and o.case.dense)
    experts = of("step", lambda o: "serving" in o.case.source and not o.case.dense)
    speed = of("speedup", _magicdec)
    cross = Summary.of([o for o in magic if o.kind == "speedup"])
    share, count = sign_accuracy(magic)
    naive_share, _ = sign_accuracy(naive(magic))
    lost, naive_lost = (list(regrets(rows).values()) for rows in (outcomes, naive(outcomes)))
    rows = [
        *_kernel_goals(older),
        *_pooled_goals(groups),
        f"published steps, grade A, dense (median of {dense.rows} distinct) | 10 | "
        f"{dense.median:.1f} | {dense.naive_mape:.0f} | partly fitted",
        *(
            f"published steps of {stack} (median) | 10 | {ours:.1f} | {bare:.0f} | "
            "models and GPUs held out"
            for stack, (ours, bare) in held.items()
        ),
        f"serving, time per token, dense | 10 | {served.mape:.1f} | {served.naive_mape:.0f} | "
        "partly fitted",
        f"serving, time per token, experts (MAPE, median) | 20 | {experts.mape:.1f}, "
        f"{experts.median:.1f} | {experts.naive_mape:.0f} | partly fitted",
        f"MagicDec speedup | 5 | {speed.mape:.1f} | {speed.naive_mape:.0f} | fitted: six "
        "constants a GPU",
        f"MagicDec speedup, sets of rows held out | 5 | {cross.mape:.1f} | {cross.naive_mape:.0f} "
        f"| out of sample, {cross.rows} rows of 8xA100",
        f"MagicDec sign | 95 | {share:.0f} of {count} rows | {naive_share:.0f} | the same",
        f"regret of the draft length, median and worst | 2, 10 | {np.median(lost):.1f}, "
        f"{max(lost):.1f} | {np.median(naive_lost):.1f}, {max(naive_lost):.1f} | "
        f"{len(lost)} sweeps, partly fitted",
    ]
    return table("what | goal, % | found, % | naive, % | rests on", rows)


def _kernel_goals(older: list[Crossing]) -> list[str]:
    """Means over GPUs and stacks of the MAPE on an unseen version."""
    nvlink = {"a100_sxm", "h100_sxm", "b200_sxm"}
    wanted: tuple[tuple[str, float, str, set[str]], ...] = (
        ("decode step from kernels, TP1, bf16", 4, "step, TP1", nvlink | {"l40s"}),
        ("the same, TP8 over NVLink", 7, "step, TP8", nvlink),
        ("bf16 linear layers", 8, "linear", nvlink | {"l40s"}),
        ("cold bf16 attention", 6, "attention", nvlink | {"l40s"}),
        ("draft over decode, TP1", 4, "draft / decode, TP1", nvlink),
        ("speedup of a round of 1, TP1", 2.5, "round, gamma 1, TP1", nvlink),
        ("speedup of a round of 1, TP8", 2.5, "round, gamma 1, TP8", nvlink),
        ("speedup of a round of 3, TP8", 2.5, "round, gamma 3, TP8", nvlink),
    )
    rows = []
    for what, goal, part, gpus in wanted:
        chosen = [c for c in older if c.part == part and c.gpu in gpus]
        ours, bare = ([getattr(c, k).mape for c in chosen] for k in ("ours", "naive"))
        rows.append(
            f"{what} | {goal:g} | {np.mean(ours):.1f} | {np.mean(bare):.0f} | unseen version, "
            f"mean of {len(chosen)}"
        )
        if part == "step, TP1":
            ours, bare = ([getattr(c, k).p95 for c in chosen] for k in ("ours", "naive"))
            tail = f"{np.mean(ours):.1f} | {np.mean(bare):.0f} | mean of {len(chosen)}"
            rows.append(f"its 95th percentile | 9 | {tail}, worst {max(ours):.1f}")
    return rows


def _pooled_goals(groups: list[Group]) -> list[str]:
    """Means over GPUs and stacks of the MAPE on the half of a table that was not fitted."""
    nvlink = {"a100-sxm-80gb", "h100-sxm", "b200-sxm"}
    wanted: tuple[tuple[str, float, str, set[str]], ...] = (
        ("bf16 linear layers", 8, "linear.bf16", set(GPU_OF)),
        ("bf16 attention but A100's", 6, "attention.bf16", set(GPU_OF) - {"a100-sxm-80gb"}),
        ("bf16 attention of A100", 14, "attention.bf16", {"a100-sxm-80gb"}),
        ("all-reduce in graphs, NVLink", 15, "collective", nvlink),
        ("all-reduce launched by the host, NVLink", 15, "eager", nvlink),
    )
    rows = []
    for what, goal, part, gpus in wanted:
        kept = [g for g in groups if g.accelerator.name in gpus and not rereads(g, part)]
        fits = [g.fits[part] for g in kept if part in g.fits]
        ours, naive = (np.mean([getattr(f, k).mape for f in fits]) for k in ("held_out", "naive"))
        rows.append(
            f"{what} | {goal:g} | {ours:.1f} | {naive:.0f} | held-out halves, mean of {len(fits)}"
        )
    return rows


def first_tokens(rows: list[Served]) -> list[str]:
    """Errors of the mean time to first token: of steps alone, shipped, by constants of others."""
    lines = []
    for stack, of_stack in itertools.groupby(
        sorted(rows, key=lambda r: r.row["backend"]), lambda r: r.row["backend"]
    ):
        kept = [r for r in of_stack if np.isfinite(r.ttft)]
        host, rounds = stack_constants(stack)["host"]["request_seconds"], streamed_rounds(stack)
        bare = [
            replace(r, ttft_predicted=r.ttft_predicted - host - rounds * r.tpot_predicted)
            for r in kept
        ]
        ratios = (
            np.asarray([r.ttft_predicted / r.ttft for r in bare]),
            np.asarray([r.ttft_predicted / r.ttft for r in kept]),
            fit_request(stack, bare).held_out,
        )
        errors = " | ".join(
            f"{100 * np.median(np.abs(ratio - 1)):.1f}" if len(ratio) else "one set"
            for ratio in ratios
        )
        lines.append(f"{stack} | {len(kept)} | {1e3 * host:.0f} ms, {rounds:.1f} | {errors}")
    return lines


def magicdec_held_out(cases: list[Case]) -> list[Outcome]:
    """MagicDec rows of 8xA100, each predicted by constants fitted without its (target, context)."""
    own = [
        c for c in cases
        if c.engine == "MagicDec" and c.step_seconds and c.ask["gpu"] == "a100-sxm-80gb"
    ]  # fmt: skip
    base = read_calibration(CALIBRATIONS / "a100-sxm-80gb_vllm_0.14.0.toml")
    shipped = read_calibration(CALIBRATIONS / "a100-sxm-80gb_magicdec_1.0.toml")
    found: list[Outcome] = []
    for unseen, calibration in held_out(own, base):
        found += replay_with(
            unseen,
            replace(
                calibration,
                step_residual=shipped.step_residual,
                speedup_residual=shipped.speedup_residual,
            ),
        )
    return found


def _magic_inside(cases: list[Case]) -> str:
    own = [
        c for c in cases
        if c.engine == "MagicDec" and c.step_seconds and c.ask["gpu"] == "a100-sxm-80gb"
    ]  # fmt: skip
    base = read_calibration(CALIBRATIONS / "a100-sxm-80gb_vllm_0.14.0.toml")
    step, speedup = magicdec_coverage(held_out(own, base))
    return (
        f"{100 * step:.0f} % of steps and {100 * speedup:.0f} % of speedups inside the 80 % "
        "interval that the other sets give"
    )


def _runs(stack: str, o: Outcome) -> bool:
    return o.case.ask["stack"] == stack


def naive(outcomes: list[Outcome]) -> list[Outcome]:
    """The same rows as the datasheet's roofline predicts them."""
    return [replace(o, predicted=o.naive) for o in outcomes]


def distinct(outcomes: list[Outcome]) -> list[Outcome]:
    """Steps of grade A of dense models, each measurement once: a sweep of drafts repeats its
    baseline in every row."""
    found: dict[tuple[object, ...], Outcome] = {}
    for o in outcomes:
        if o.kind == "step" and o.case.grade == "A" and o.case.dense and not _magicdec(o):
            ask = o.case.ask
            key = (ask["gpu"], ask["model"], ask["batch"], ask["gpus"], o.measured)
            found.setdefault(key, o)
    return list(found.values())


def _magicdec(o: Outcome) -> bool:
    return o.case.engine == "MagicDec"


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    tables = kernel_tables.read(Path(sys.argv[1]))
    groups = fit_groups(tables)
    names = ("plain_decode", "speculation", "serving", "magicdec")
    cases = published.read([Path(sys.argv[2]) / f"{name}.csv" for name in names]).cases
    outcomes, _ = replay(cases)
    halves = [
        f"{g.name} | {part} | {cells(f.held_out)} | {f.naive.mape:.1f}"
        for g in groups for part, f in g.fits.items()
    ]  # fmt: skip
    older = crossings(tables, groups, versions(groups))
    foreign = crossings(tables, groups, strangers(groups))
    magic = magicdec_held_out(cases)
    held, spread = {}, []
    for stack in ("vllm", "sglang", "trtllm"):
        try:
            fit = fit_host(stack, cases)
        except UsageError:
            continue
        if not len(fit.held_out):
            spread.append(f"{stack} | {fit.residual.basis} | - | -")
            continue
        median = 100 * float(np.median(np.abs(1 / fit.held_out - 1)))
        seen = [o for o in outcomes if o.kind == "step" and o.case.dense and _runs(stack, o)]
        held[stack] = median, 100 * float(np.median([abs(o.naive / o.measured - 1) for o in seen]))
        ends = f"{fit.residual.low:.2f} to {fit.residual.high:.2f}, {100 * fit.coverage:.0f}"
        spread.append(f"{stack} | {len(fit.held_out)} | {median:.1f} | {ends}")
    magic_inside = _magic_inside(cases)
    summary = goals(outcomes, groups, older, held, magic)
    firsts = first_tokens(served(Path(sys.argv[2]) / "serving.csv")[0])
    header = "| part | n | MAPE | p95 | bias | naive MAPE"
    PAGE.write_text(
        INTRO + summary
        + "\n## Kernels, held-out halves\n\n" + table("calibration " + header, halves)
        + "\n## A version by the calibration of the version before\n\n"
        + table("GPU, stack, versions " + header, [c.line for c in older])
        + "\n## A GPU by the calibration of another family\n\n"
        "What an accelerator of an unknown family gets. Launch times are kept, rates are the\n"
        "datasheet's. Between parts of one family no public pair was at hand.\n\n"
        + table("GPU and stack " + header, [c.line for c in foreign])
        + "\n## Query rows a KV head\n\n"
        "Verification packs query tokens with query heads. The tables' nearest proxy: time with\n"
        "many query heads a KV head over that with four, cold; seen / predicted (rows).\n\n"
        + table("calibration | 8 | 16 | 32 | 64", query_rows(tables, groups, GPU_OF))
        + "\n## Element-wise ops of a layer\n\n"
        "Microseconds by tokens of a pass: Vidur's profiles (microsoft/vidur, MIT, commit\n"
        "7d47513; an older stack, nothing fused) / ours, which engines fuse.\n\n"
        + table("GPU and model | 1 | 64 | 256 | 1024",
                element_wise(Path(sys.argv[1]) / "vidur_layer_ops.parquet"))
        + "\n## Published steps, constants fitted on other models and GPUs\n\n"
        "The 80 % interval, and the share of rows inside one that the other folds set.\n\n"
        + table("stack | n | median error | interval, % inside", spread)
        + f"\nMagicDec on 8xA100, sets held out: {magic_inside}\n"
        + "\n## Time to first token of serving runs\n\n"
        "Median errors. Beside its steps a first token waits at the host, and for the tokens sent\n"
        "with it, of which published runs do not say how many: plans leave those out.\n\n"
        + table("stack | n | host, rounds | steps alone | shipped | held out", firsts)
        + "\n## Published results, shipped calibrations\n\n"
        "Constants were fitted on parts of these rows: this shows where the model bends, not how\n"
        "it predicts. Steps of experts fitted three constants a stack.\n"
        + published_tables(outcomes),
        encoding="utf-8",
    )  # fmt: skip
    print(summary)
    print(f"written: {PAGE.name}, {len(outcomes)} published values")


INTRO = """\
# Accuracy

Written by `python scripts/accuracy.py KERNELS PUBLISHED`; errors are predicted over measured minus
1, in percent. Tables of kernel times come from aiconfigurator (NVIDIA, Apache-2.0, commit 095f58a,
without the newest version of each GPU and stack), published results from the sources that their
rows name. Mismatches are explained, or left open, in [residuals.md](residuals.md).

## Goals

"""

if __name__ == "__main__":
    main()
