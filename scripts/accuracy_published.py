"""Published results beside predictions: by what they have in common, and held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from accuracy_layout import table
from calibrations import believed

from magicplan.hardware_specs.calibration_files import CALIBRATIONS
from magicplan.hardware_specs.calibration_files import read as read_calibration
from magicplan.hardware_specs.stacks import stack_constants
from magicplan.hardware_specs.transfer import AMD, CALIBRATED
from magicplan.replay.account import summaries, worst
from magicplan.replay.harnesses import streamed_rounds
from magicplan.replay.outcomes import Outcome, Summary, replay_with
from magicplan.replay.published import Case
from magicplan.roofline.deployment import Array
from tools.stack_constants.magicdec_fit import fit_each, magicdec_coverage
from tools.stack_constants.request_fit import Told, fit_request
from tools.stack_constants.round_fit import fit_rounds
from tools.stack_constants.stack_fit import StackFit, fit_host, runs_of


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


def transferred(outcomes: list[Outcome]) -> list[str]:
    """Published values of GPUs that no calibration was fitted to, by the one they are lent."""
    own = {name for parts in CALIBRATED.values() for name in parts} | {AMD}
    rows = [o for o in outcomes if o.case.ask["gpu"] not in own]
    lines = []
    for (gpu, kind), s in summaries(rows, lambda o: str(o.case.ask["gpu"])).items():
        w = worst([o for o in rows if o.case.ask["gpu"] == gpu and o.kind == kind], 1)[0]
        lines.append(
            f"{gpu} | {kind} | {s.rows} | {s.mape:.1f} | {s.bias:+.1f} | {s.coverage:.0f} | "
            f"{s.naive_mape:.1f} | {w.case.id} {100 * w.error:+.0f} %"
        )
    return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """Published values of one stack by constants fitted without them, errors in percent."""

    stack: str
    of: str
    """Steps of dense models, steps of experts, or speedups of chains."""
    without: str
    """What the constants were fitted without."""
    errors: Array
    naive: float
    """Median of the naive roofline's errors."""
    inside: str
    """The 80 % interval, and how many lie inside one that the other folds set."""

    @property
    def line(self) -> str:
        """A row of the page."""
        median, mape = np.median(self.errors), self.errors.mean()
        return (
            f"{self.stack} | {self.of} | {self.without} | {len(self.errors)} | {median:.1f} | "
            f"{mape:.1f} | {self.naive:.1f} | {self.inside}"
        )


def unseen(outcomes: list[Outcome], cases: list[Case]) -> list[Unseen]:
    """Steps of whole engines, a model on a GPU or a GPU held out, times per token of experts,
    which fit no constant, and speedups of chains.

    Of SGLang's dense models one was published: none can be held out.
    """
    found = []
    for stack in ("vllm", "sglang", "trtllm"):
        host = fit_host(stack, cases)
        dense, experts, chains = (
            [o for o in outcomes if o.kind == kind and runs_of(stack, o.case, dense=plain)]
            for kind, plain in (("tpot", True), ("tpot", False), ("speedup", True))
        )
        parts = [
            ("dense", "the model on the GPU", host.held_out, _ends(host), dense),
            ("dense", "the GPU", host.gpu_held_out, "-", dense),
        ]
        told = [o for o in experts if believed(o.case)]
        for words, rows in (("experts", experts), ("experts, two versions left out,", told)):
            if rows and (rows is experts or len(told) < len(experts)):
                parts.append((words, "any of them", _ratios(rows), _inside(rows), rows))
        if chains:
            rounds = fit_rounds(stack, cases, host.host)
            parts.append(("chains", "the sweep", rounds.held_out, _inside(chains), chains))
        found += [
            Unseen(
                stack=stack, of=of, without=without, errors=100 * np.abs(1 / ratios - 1),
                naive=_naive_median(rows), inside=inside,
            )
            for of, without, ratios, inside, rows in parts if len(ratios)
        ]  # fmt: skip
    return found


def _ratios(rows: list[Outcome]) -> Array:
    return np.asarray([o.measured / o.predicted for o in rows])


def _ends(fit: StackFit) -> str:
    return f"{fit.residual.low:.2f} to {fit.residual.high:.2f}, {100 * fit.coverage:.0f}"


def _inside(rows: list[Outcome]) -> str:
    """How many lie inside the interval that ships, to whose constants they belong."""
    return f"{Summary.of(rows).coverage:.0f} shipped" if rows else "-"


def _naive_median(rows: list[Outcome]) -> float:
    return 100 * float(np.median([abs(o.naive / o.measured - 1) for o in rows]))


def first_tokens(rows: list[Told]) -> list[str]:
    """Errors of the mean time to first token: of steps alone, shipped, by constants of others."""
    lines = []
    for stack in sorted({r.case.engine for r in rows}):
        kept = [r for r in rows if r.case.engine == stack and "ttft" in r.measured]
        host, rounds = stack_constants(stack)["host"]["request_seconds"], streamed_rounds(stack)
        bare = [
            replace(
                r, predicted=r.predicted
                | {"ttft": r.predicted["ttft"] - host - rounds * r.predicted["tpot"]},
            )
            for r in kept
        ]  # fmt: skip
        ratios = (
            np.asarray([r.predicted["ttft"] / r.measured["ttft"] for r in bare]),
            np.asarray([r.predicted["ttft"] / r.measured["ttft"] for r in kept]),
            fit_request(stack, bare).held_out,
        )
        errors = " | ".join(f"{100 * np.median(np.abs(ratio - 1)):.1f}" for ratio in ratios)
        lines.append(f"{stack} | {len(kept)} | {1e3 * host:.0f} ms, {rounds:.1f} | {errors}")
    return lines


def magicdec_held_out(cases: list[Case]) -> tuple[list[Outcome], list[str]]:
    """MagicDec rows, each predicted by constants fitted without its (target, draft, context); and
    by GPU their errors, and how many lie inside the interval that the other sets give."""
    found: list[Outcome] = []
    lines = []
    for fit in fit_each(cases):
        shipped = read_calibration(CALIBRATIONS / f"{fit.gpu}_magicdec_1.0.toml")
        spread = {name: getattr(shipped, name) for name in ("step_residual", "speedup_residual")}
        own = [
            o for unseen, calibration in fit.folds
            for o in replay_with(unseen, replace(calibration, **spread))
        ]  # fmt: skip
        speed = Summary.of([o for o in own if o.kind == "speedup"])
        inside = " | ".join(f"{100 * share:.0f}" for share in magicdec_coverage(fit.folds))
        lines.append(
            f"{fit.gpu} | {speed.rows} | {speed.mape:.1f} | {speed.p95:.1f} | {speed.bias:+.1f} | "
            f"{speed.naive_mape:.1f} | {inside}"
        )
        found += own
    return found, lines


def naive(outcomes: list[Outcome]) -> list[Outcome]:
    """The same rows as the datasheet's roofline predicts them."""
    return [replace(o, predicted=o.naive) for o in outcomes]


def distinct(outcomes: list[Outcome]) -> list[Outcome]:
    """Steps of grade A of dense models, each measurement once: a sweep of drafts repeats its
    baseline in every row."""
    found: dict[tuple[object, ...], Outcome] = {}
    for o in outcomes:
        if o.kind == "step" and o.case.grade == "A" and o.case.dense and not is_magicdec(o):
            ask = o.case.ask
            key = (ask["gpu"], ask["model"], ask["batch"], ask["gpus"], o.measured)
            found.setdefault(key, o)
    return list(found.values())


def is_magicdec(o: Outcome) -> bool:
    return o.case.engine == "MagicDec"
