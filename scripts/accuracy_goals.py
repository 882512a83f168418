"""The goals of accuracy, each with what was found and the naive roofline's figure beside it."""

from __future__ import annotations

import numpy as np
from accuracy_kernels import Crossing
from accuracy_layout import table
from accuracy_published import Unseen, distinct, is_magicdec, naive
from calibrations import believed

from magicplan.calibrate.groups import Group, rereads
from magicplan.replay.outcomes import Outcome, Summary, regrets, sign_accuracy

WORDS = {"dense": "steps of dense models", "experts": "steps of experts", "chains": "speedups"}
GOALS = {"dense": "6", "experts": "10", "chains": "-"}


def goals(
    outcomes: list[Outcome],
    groups: list[Group],
    older: list[Crossing],
    unseen: list[Unseen],
    magic: list[Outcome],
) -> str:
    """The table, in the order of the goals."""
    rows = [
        *_kernel_goals(older),
        *_pooled_goals(groups),
        *_engine_goals(outcomes, unseen),
        *_magicdec_goals(outcomes, magic),
    ]
    return table("what | goal, % | found, % | naive, % | rests on", rows)


def _engine_goals(outcomes: list[Outcome], unseen: list[Unseen]) -> list[str]:
    """Decode steps of whole engines, those held out before those that were fitted."""

    def tests(what: str, goal: int, rests: str, kind: str, *, dense: bool) -> str:
        rows = [
            o for o in outcomes
            if o.kind == kind and "serving" in o.case.source and o.case.dense == dense
            and believed(o.case)
        ]  # fmt: skip
        s = Summary.of(rows)
        return (
            f"{what} (MAPE, median) | {goal} | {s.mape:.1f}, {s.median:.1f} | {s.naive_mape:.0f} | "
            f"{s.rows} rows, {rests}; {s.coverage:.0f} % inside"
        )

    once = distinct(outcomes)
    alone = [Summary.of([o for o in once if o.fitted == was]) for was in (False, True)]
    held = [
        f"{WORDS.get(u.of, u.of)} of {u.stack} (median, MAPE) | {GOALS.get(u.of, '20')} | "
        f"{np.median(u.errors):.1f}, {u.errors.mean():.1f} | {u.naive:.0f} | {len(u.errors)} rows, "
        f"fitted without {u.without}"
        for u in unseen
    ]
    return [
        *(
            f"published steps, grade A, dense (median) | 10 | {s.median:.1f} | {s.naive_mape:.0f} "
            f"| {s.rows} distinct, {'fitted' if was else 'not fitted'}"
            for s, was in zip(alone, (False, True), strict=True)
        ),
        *held,
        tests("serving, time per token, dense", 8, "host constants fitted", "tpot", dense=True),
        tests("serving, time per token, experts", 15, "nothing fitted", "tpot", dense=False),
        tests("serving, first token, dense", 15, "two constants fitted", "ttft", dense=True),
        tests("serving, first token, experts", 25, "two constants fitted", "ttft", dense=False),
    ]


def _magicdec_goals(outcomes: list[Outcome], magic: list[Outcome]) -> list[str]:
    """MagicDec's rows, held out and fitted; and draft lengths over the published sweeps."""
    cross, speed = (
        Summary.of([o for o in rows if o.kind == "speedup" and is_magicdec(o)])
        for rows in (magic, outcomes)
    )
    share, count = sign_accuracy(magic)
    naive_share, _ = sign_accuracy(naive(magic))
    lost, naive_lost = (list(regrets(rows).values()) for rows in (outcomes, naive(outcomes)))
    return [
        f"MagicDec speedup | 5 | {cross.mape:.1f} | {cross.naive_mape:.0f} | {cross.rows} rows of "
        "three GPUs, their sets held out",
        f"MagicDec sign | 95 | {share:.0f} of {count} rows | {naive_share:.0f} | the same",
        f"MagicDec speedup | 5 | {speed.mape:.1f} | {speed.naive_mape:.0f} | fitted: six "
        "constants a GPU",
        f"regret of the draft length, median and worst | 2, 10 | {np.median(lost):.1f}, "
        f"{max(lost):.1f} | {np.median(naive_lost):.1f}, {max(naive_lost):.1f} | "
        f"{len(lost)} sweeps, partly fitted",
    ]


def _kernel_goals(older: list[Crossing]) -> list[str]:
    """Means over GPUs and stacks of the MAPE on an unseen version."""
    nvlink = {"a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm"}
    wanted: tuple[tuple[str, float, str, set[str]], ...] = (
        ("decode step from kernels, TP1, bf16", 3.5, "step, TP1", nvlink | {"l40s"}),
        ("the same, TP8 over NVLink", 5, "step, TP8", nvlink),
        ("bf16 linear layers", 8, "linear", nvlink | {"l40s"}),
        ("cold bf16 attention", 6, "attention", nvlink | {"l40s"}),
        ("draft over decode, TP1", 4, "draft / decode, TP1", nvlink | {"l40s"}),
        ("speedup of a round of 1, TP1", 2.5, "round, gamma 1, TP1", nvlink | {"l40s"}),
        ("speedup of a round of 1, TP8", 2.5, "round, gamma 1, TP8", nvlink),
        ("speedup of a round of 3, TP8", 2.5, "round, gamma 3, TP8", nvlink),
        *(
            (f"grouped experts, {name}", 10, f"experts, {name}", nvlink | {"l40s"})
            for name in ("bf16", "fp8", "fp4")
        ),
        ("attention of prompts, bf16", 10, "prompts, bf16", nvlink | {"l40s"}),
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
    nvlink = {"a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200-sxm"}
    everywhere = {g.accelerator.name for g in groups}
    wanted: tuple[tuple[str, float, str, set[str]], ...] = (
        ("bf16 linear layers", 8, "linear.bf16", everywhere),
        ("bf16 attention but A100's", 6, "attention.bf16", everywhere - {"a100-sxm-80gb"}),
        ("bf16 attention of A100", 14, "attention.bf16", {"a100-sxm-80gb"}),
        ("all-reduce in graphs, NVLink", 15, "collective", nvlink),
        ("all-reduce launched by the host, NVLink", 15, "eager", nvlink),
        ("grouped experts, bf16", 10, "experts.bf16", everywhere),
        ("grouped experts, 8 bits", 10, "experts.fp8", everywhere),
        ("grouped experts, 4 bits", 10, "experts.fp4", everywhere),
        ("grouped experts, 4-bit weights alone", 10, "experts.int4", everywhere),
        ("attention of prompts, bf16", 10, "prefill.bf16", everywhere),
        ("attention of prompts, 8-bit cache", 10, "prefill.fp8", everywhere),
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
