"""Is the model right on a real H200: decode, draft, verify, rounds, trees, over batch and context?

8B- and 1B-shaped models of random weights in CUDA graphs, acceptance simulated (timing only) or
dialled, each labelled. One calibration is fitted on workloads of its own; the prediction of every
other one (calibrated, transferred from the H100's public calibration, naive) is written with its
sha256 before the first of them is measured. Fewer than nine minutes a call on a bare machine with
torch and triton; a second call with the same file continues.

    python benchmarks/h200_model.py --out model.jsonl [--seconds 470]
    python benchmarks/h200_model.py --table model.jsonl     reprints all tables from the data
    python benchmarks/h200_model.py --rehearse --out r.jsonl  tiny models on the CPU: no measurement

Run from the root of the checkout. What is measured is in h200_suites.py and h200_choose.py, the
tables in h200_tables.py.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch
from h200_choose import adaptive_tree, fixed_tree, points_of, restored, transfer
from h200_suites import CALIBRATED, CALIBRATION, SUITES, Cells, Suite, rehearsal
from h200_tables import print_tables

from magicplan.calibrate.device_fit import fit_device
from magicplan.hardware_specs.calibration import Calibration
from magicplan.validate.device_files import accelerator_of
from magicplan.validate.forecast import Forecaster
from magicplan.validate.measure.bench import DecoderBench
from magicplan.validate.measure.ceilings import Probe, ceilings
from magicplan.validate.measure.cells import calibrate_at, end_to_end, measure_cell
from magicplan.validate.measure.clock import Clock, Effort, clock_of
from magicplan.validate.measure.environment import environment
from magicplan.validate.measure.exactness import exactness_gate
from magicplan.validate.measure.grid import CalibrationPoint, MeasuringGrid, Point
from magicplan.validate.prepare import loaded
from magicplan.validate.question import Question, question
from magicplan.validate.run_file import RunFile, RunSettings, digest

EFFORT = Effort(least=10, most=40, seconds=0.25)
"""Of one step; a cell of n steps takes n times as long."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Suites, where they are calibrated, and the device."""

    suites: tuple[Suite, ...]
    calibration: Cells
    device: str
    backend: str
    effort: Effort
    models: dict[str, str]
    """Name of a model -> what loads it: itself, or a config of the rehearsal."""

    def question(self, suite: Suite, points: Sequence[Point] = ()) -> Question:
        """The suite as `validate` would be asked for it, at some of its points."""
        settings = RunSettings(
            device=self.device,
            model=self.models.get(suite.model, suite.model),
            grid=suite.name,
            acceptance=suite.acceptance,
            draft=self.models.get(suite.draft, suite.draft),
            draft_kv=suite.draft_kv,
            dtype="bf16",
            backend=self.backend,
            threads=1,
            seed=0,
        )
        return question(settings, MeasuringGrid(calibration=(), points=tuple(points)))

    @property
    def calibrated(self) -> list[Suite]:
        return [suite for suite in self.suites if suite.name in CALIBRATED]


def study(*, rehearse: bool) -> Study:
    """On a CUDA device, or tiny on the CPU."""
    if not rehearse:
        return Study(suites=SUITES, calibration=CALIBRATION, device="cuda", backend="triton",
                     effort=EFFORT, models={})  # fmt: skip
    suites, calibration = rehearsal()
    folder = Path(tempfile.mkdtemp(prefix="rehearsal-"))
    models = {}
    for name, layers in (("rehearsal-large", 2), ("rehearsal-small", 1)):
        (folder / name).mkdir()
        config = {
            "model_type": "llama", "hidden_size": 64, "num_hidden_layers": layers,
            "vocab_size": 128, "num_attention_heads": 1, "num_key_value_heads": 1,
            "intermediate_size": 64, "max_position_embeddings": 8192,
            "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16",
        }  # fmt: skip
        (folder / name / "config.json").write_text(json.dumps(config))
        models[name] = str(folder / name / "config.json")
    brief = Effort(least=3, most=3, seconds=0.0)
    return Study(suites=suites, calibration=calibration, device="cpu", backend="torch",
                 effort=brief, models=models)  # fmt: skip


class Measuring:
    """One call: does what the file lacks until time is up."""

    def __init__(self, plan: Study, file: RunFile, deadline: float) -> None:
        self.plan, self.file, self.deadline = plan, file, deadline
        self.clock: Clock = clock_of(plan.device)
        self._bench: tuple[Suite, DecoderBench] | None = None

    def late(self) -> bool:
        return time.monotonic() > self.deadline

    def bench(self, suite: Suite, points: Sequence[Point]) -> DecoderBench:
        """The suite's models, kept until another suite's are wanted."""
        if self._bench is None or self._bench[0] != suite:
            self._bench = None
            gc.collect()
            if self.plan.device == "cuda":
                torch.cuda.empty_cache()
            self._bench = suite, loaded(self.plan.question(suite, points))[0]
        return self._bench[1]

    def run(self) -> bool:
        """True when nothing is left."""
        run = self.file.run
        if run.exactness is None:
            from magicplan.kernels import load

            self.file.append(
                "exactness", **exactness_gate(load(self.plan.backend), self.plan.device)
            )
        if run.exactness is None or not run.exactness["greedy_equal"]:
            raise SystemExit(f"speculative output differs from plain decoding: {run.exactness}")
        if run.ceilings is None:
            self.file.append("ceilings", **ceilings(self.plan.device, ("bf16",)).as_dict())
        if run.prediction is None:
            if not self.calibrate():
                return False
            content = self.predict()
            self.file.append("prediction", content=content, sha256=digest(content))
        return self.measure()

    def calibrate(self) -> bool:
        known = {line["id"] for line in self.file.run.calibration}
        probe = Probe(self.plan.device)
        for suite in self.plan.calibrated:
            for batch, ctx in self.plan.calibration:
                at = CalibrationPoint(batch=batch, ctx=ctx)
                name = f"{suite.name}: {at.id}"
                if name in known:
                    continue
                if self.late():
                    return False
                widest = [Point(batch=batch, ctx=ctx, gamma=max(at.query_tokens))]
                effort = replace(self.plan.effort, seconds=8 * self.plan.effort.seconds)
                line = calibrate_at(self.bench(suite, widest), self.clock, at, effort, probe)
                self.file.append("calibration", **(line | {"id": name, "suite": suite.name}))
                print(name, file=sys.stderr)
        return True

    def fit(self) -> tuple[Any, Any]:
        run = self.file.run
        accelerator = accelerator_of(run.header["device"], run.peaks())
        measured = []
        for suite in self.plan.calibrated:
            lines = [line for line in run.calibration if line["suite"] == suite.name]
            records = [record for line in lines for record in line["records"]]
            measured.append((self.plan.question(suite).subject, records))
        launch = (run.ceilings or {})["replay_seconds"] or (run.ceilings or {})["launch_seconds"]
        name = f"{accelerator.name}_magicplan_{run.header['device']['magicplan']}"
        origin = f"{len(run.calibration)} points of {', '.join(CALIBRATED)}, in CUDA graphs"
        return accelerator, fit_device(name, origin, measured, accelerator, launch)

    def predict(self) -> dict[str, Any]:
        """Every suite by three calibrations. `points` are those of all suites."""
        run = self.file.run
        accelerator, fitted = self.fit()
        transferred = transfer(accelerator)
        suites, points = {}, []
        for suite in self.plan.suites:
            about = self.predict_suite(suite, accelerator, fitted.build(), transferred)
            suites[suite.name] = about
            points += about["points"]
        return {
            "rehearsal": self.plan.device == "cpu",
            "accelerator": {
                "name": accelerator.name,
                "memory_bytes_per_s": accelerator.memory_bytes_per_s,
                "dense_flops_per_s": dict(accelerator.dense_flops_per_s),
            },
            "calibration": fitted.calibration,
            "fit_percent": asdict(fitted.errors),
            "verify_kv_passes": {str(k): v for k, v in fitted.kv_passes.items()},
            "transfer": {
                "name": transferred.name,
                "origin": transferred.origin,
                "step_residual": asdict(transferred.step_residual),
            },
            "calibrated_on": [
                {name: line[name] for name in ("id", "batch", "ctx_tokens")}
                for line in run.calibration
            ],
            "suites": suites,
            "points": points,
        }

    def predict_suite(
        self, suite: Suite, accelerator: Any, calibrated: Calibration, transferred: Calibration
    ) -> dict[str, Any]:
        asked = self.plan.question(suite)
        assert asked.law is not None
        forecaster = Forecaster(
            subject=asked.subject,
            accelerator=accelerator,
            calibration=calibrated,
            acceptance=asked.law,
        )
        cells = [*suite.cells, *self.largest(suite)]
        points, adaptive = [], {}
        for batch, ctx in dict.fromkeys(cells):
            chosen = adaptive_tree(forecaster, batch, ctx) if suite.trees else None
            cell = list(points_of(suite, forecaster, batch, ctx, chosen))
            points += cell
            if suite.trees:
                # no tree at all where none pays
                adaptive[f"{batch} x {ctx}"] = f"{suite.name}: {cell[-1].id}" if chosen else None
        told = forecaster.points(points)
        other = replace(forecaster, calibration=transferred).points(points)
        for line, also in zip(told, other, strict=True):
            line |= {"id": f"{suite.name}: {line['id']}", "transfer": also["predicted"]}
        s = forecaster.subject
        return {
            "model": s.model.name,
            "draft": s.draft.name if s.draft else "none",
            "acceptance_origin": suite.acceptance,
            "adaptive": adaptive,
            "fixed": [list(fixed_tree(forecaster, size).parents) for size in suite.trees],
            "largest": [list(cell) for cell in cells[len(suite.cells) :]],
            "step_bytes": {"weights": 2.0 * (s.model.parameters - s.model.head_parameters),
                           "kv_token": 2.0 * s.model.layers * s.model.kv_numbers_per_token_layer},
            "points": told,
        }  # fmt: skip

    def largest(self, suite: Suite) -> Iterator[tuple[int, int]]:
        """The largest batch that this device holds at some contexts."""
        for ctx in suite.largest_at:
            gammas = [Point(batch=1, ctx=ctx, gamma=g) for g in suite.gammas]
            bench = self.bench(suite, gammas)
            from magicplan.validate.measure.environment import memory_bytes

            free, batch = memory_bytes(self.plan.device), 1
            while bench.needed_bytes(batch + 1, ctx, gammas) < free:
                batch += 1
            yield batch, ctx

    def measure(self) -> bool:
        """Suites in their order, cell by cell, until time is up."""
        content = (self.file.run.prediction or {})["content"]
        probe = Probe(self.plan.device)
        known = {line["id"] for line in self.file.run.points}
        left = 0
        for suite in self.plan.suites:
            told = [p for p in content["suites"][suite.name]["points"] if p["id"] not in known]
            cells: dict[tuple[int, int], list[dict[str, Any]]] = {}
            for point in told:
                cells.setdefault((point["batch"], point["ctx_tokens"]), []).append(point)
            for cell, lines in cells.items():
                if self.late():
                    left += 1
                    continue
                self.measure_cell(suite, cell, [restored(line) for line in lines], probe)
        if left:
            print(f"{left} cells are left: call again with the same --out", file=sys.stderr)
        return not left

    def measure_cell(
        self, suite: Suite, cell: tuple[int, int], points: list[Point], probe: Probe
    ) -> None:
        bench = self.bench(suite, points)
        largest = list(cell) in (self.file.run.prediction or {})["content"]["suites"][suite.name][
            "largest"
        ]  # fmt: skip
        groups = [points] if bench.simulated else [[point] for point in points]
        for some in groups:
            steps = 1 + 3 * len(some)
            effort = replace(self.plan.effort, seconds=steps * self.plan.effort.seconds)
            for point, line in zip(
                some, measure_cell(bench, self.clock, some, effort, probe), strict=True
            ):
                if largest and suite.end_to_end and "skipped" not in line:
                    line["end_to_end"] = end_to_end(bench, self.clock, point, 2.0)
                self.file.append("point", **(line | {"id": f"{suite.name}: {line['id']}"}))
        print(f"{suite.name}: batch {cell[0]}, {cell[1]} tokens", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON lines; continued if it exists")
    parser.add_argument("--seconds", type=float, default=470.0, help="begin no cell after this")
    parser.add_argument("--table", type=Path, help="print the tables of a file and stop")
    parser.add_argument("--rehearse", action="store_true", help="tiny models on the CPU")
    asked = parser.parse_args()
    if asked.table:
        print_tables(asked.table)
        return
    if asked.out is None:
        parser.error("--out FILE is needed, or --table FILE")
    deadline = time.monotonic() + asked.seconds
    if not asked.rehearse and not torch.cuda.is_available():
        raise SystemExit(
            "no CUDA device: on one, this would measure\n"
            + "\n".join(
                f"  {s.name}: {len(s.cells)} workloads, gammas {s.gammas}, trees {s.trees}, "
                f"{s.acceptance}"
                for s in SUITES
            )
        )
    torch.set_num_threads(1)
    plan = study(rehearse=asked.rehearse)
    device = environment(plan.device, threads=1, seed=0, dtype="bf16")
    settings = {"script": "h200_model", "rehearsal": asked.rehearse}
    file = RunFile.start(asked.out, {"settings": settings, "device": device})
    if Measuring(plan, file, deadline).run():
        print_tables(asked.out)


if __name__ == "__main__":
    main()
