"""A validation from start to end: exact first, then ceilings, calibration, prediction, measurement.

Every step is one line of the run file, and a step that the file already holds is not repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from magicplan.calibrate.device_fit import (
    DeviceFit,
    Subject,
    all_reduce_errors,
    fit_all_reduce,
    fit_device,
)
from magicplan.errors import UsageError
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.roofline.acceptance import Acceptance
from magicplan.validate.decoder.tensor_parallel import ALONE, RankGroup
from magicplan.validate.device_files import accelerator_of
from magicplan.validate.forecast import Forecaster
from magicplan.validate.measure.ceilings import Probe, ceilings
from magicplan.validate.measure.cells import DecoderSteps, calibrate_at, measure_cell, memory_for
from magicplan.validate.measure.clock import Clock, Effort, clock_of
from magicplan.validate.measure.environment import environment
from magicplan.validate.measure.grid import MeasuringGrid
from magicplan.validate.run_file import TOLERANCE, RecordedRun, RunFile, RunSettings, digest

Tell = Callable[[str], None]
"""A function that is told what was just finished."""


CALIBRATION_EFFORT = Effort(least=5, most=30, seconds=5.0)
CELL_EFFORT = Effort(least=8, most=40, seconds=1.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The two sides of one validation: a decoder to measure, and what it is for the model."""

    settings: RunSettings
    grid: MeasuringGrid
    bench: DecoderSteps
    subject: Subject
    acceptance: Acceptance
    exactness: Callable[[], dict[str, Any]]
    calibration_effort: Effort = CALIBRATION_EFFORT
    ranks: RankGroup = ALONE
    effort: Effort = CELL_EFFORT
    """The effort of one step in a cell: a cell of n steps takes n times as long."""

    def open(self, path: Path, tolerance: float = TOLERANCE) -> RunFile:
        """A new run file, or one that goes on. Raises UsageError, SpecError."""
        s = self.settings
        device = environment(s.device, threads=s.threads, seed=s.seed, dtype=s.dtype)
        header = {"settings": asdict(s), "device": device, "tolerance": tolerance}
        return RunFile.start(path, header, self.ranks)

    def clock(self) -> Clock:
        """The device's clock, agreed by rank 0 so that all ranks stop together."""
        if self.ranks.count == 1:
            return clock_of(self.settings.device)
        return clock_of(self.settings.device, agreed=self.ranks.first)

    @property
    def steps(self) -> int:
        """The number of times that `tell` will be called in a whole run."""
        return 1 + self.calibration_steps + len(list(self.grid.cells))

    @property
    def calibration_steps(self) -> int:
        """The number of times that `tell` will be called up to the last calibration point."""
        return 2 + len(self.grid.calibration)

    def run(self, file: RunFile, tell: Tell = lambda _: None) -> RecordedRun:
        """Do what the file lacks. Raises UsageError where the file holds another grid."""
        run, clock = file.run, self.clock()
        self.check_exactness(file)
        tell("exactness")
        self.calibrate(file, clock, tell)
        if run.prediction is None:
            content = self.predict(run)
            file.append("prediction", content=content, sha256=digest(content))
        tell("prediction")
        self._measure(file, clock, tell)
        return run

    def check_exactness(self, file: RunFile) -> None:
        """Runs the exactness gate: nothing is timed before the output is known to be right."""
        if file.run.exactness is None:
            file.append("exactness", **self.exactness())
        assert file.run.exactness is not None
        if not file.run.exactness["greedy_equal"]:
            raise UsageError(
                "speculative output differs from plain decoding on this device: "
                f"{file.run.exactness}; times of a wrong decoder mean nothing"
            )

    def calibrate(self, file: RunFile, clock: Clock, tell: Tell) -> None:
        """Ceilings, and the calibration points that the file lacks."""
        if file.run.ceilings is None:
            kinds = tuple(dict.fromkeys(("bf16", self.settings.dtype)))
            with memory_for("measuring this device's peaks"):
                found = ceilings(self.settings.device, kinds, self.ranks)
            file.append("ceilings", **found.as_dict())
        tell("ceilings")
        known = {line["id"] for line in file.run.calibration}
        probe = Probe(self.settings.device)
        for point in self.grid.calibration:
            if point.id not in known and file.run.prediction is None:
                line = calibrate_at(self.bench, clock, point, self.calibration_effort, probe)
                file.append("calibration", **line)
            tell(f"calibration at batch {point.batch}, {point.ctx} tokens")

    def fit(self, run: RecordedRun) -> tuple[Accelerator, DeviceFit]:
        """The machine that the calibration lines describe."""
        assert run.ceilings is not None
        accelerator = accelerator_of(run.header["device"], run.peaks())
        launch = run.ceilings["replay_seconds"] or run.ceilings["launch_seconds"]
        records = [record for line in run.calibration for record in line["records"]]
        origin = (
            f"{len(run.calibration)} points of {self.subject.model.name} on "
            f"{run.header['device']['name']}, {self.settings.backend} backend"
        )
        name = f"{accelerator.name}_magicplan-{self.settings.backend}"
        measured = [(self.subject, records)]
        messages = run.ceilings.get("all_reduce", [])
        sums = fit_all_reduce(messages, self.settings.ranks, accelerator)
        return accelerator, fit_device(name, origin, measured, accelerator, launch, sums)

    def predict(self, run: RecordedRun) -> dict[str, Any]:
        """The content of the run file's prediction line."""
        accelerator, fitted = self.fit(run)
        forecaster = Forecaster(
            subject=self.subject,
            accelerator=accelerator,
            calibration=fitted.build(),
            acceptance=self.acceptance,
        )
        return {
            "model": self.subject.model.name,
            "draft": self.subject.draft.name if self.subject.draft else "none",
            "acceptance_origin": self.settings.acceptance,
            "accelerator": {
                "name": accelerator.name,
                "memory_bytes_per_s": accelerator.memory_bytes_per_s,
                "dense_flops_per_s": dict(accelerator.dense_flops_per_s),
            },
            "calibration": fitted.calibration,
            "fit_percent": asdict(fitted.errors),
            "verify_kv_passes": {str(k): v for k, v in fitted.kv_passes.items()},
            "all_reduce": all_reduce_errors(
                (run.ceilings or {}).get("all_reduce", []), self.settings.ranks, accelerator, fitted
            ),
            "calibrated_on": [
                {name: line[name] for name in ("id", "batch", "ctx_tokens")}
                for line in run.calibration
            ],
            "points": forecaster.points(self.grid.points),
        }

    def _measure(self, file: RunFile, clock: Clock, tell: Tell) -> None:
        assert file.run.prediction is not None
        told = [point["id"] for point in file.run.prediction["content"]["points"]]
        if told != [point.id for point in self.grid.points]:
            raise UsageError(
                f"{file.path}: its prediction is of another grid; choose another --out"
            )
        probe = Probe(self.settings.device)
        known = {line["id"] for line in file.run.points}
        for (batch, ctx), points in self.grid.cells:
            missing = [point for point in points if point.id not in known]
            together = [missing] if self.bench.simulated else [[point] for point in missing]
            for some in filter(None, together):
                effort = replace(self.effort, seconds=self.effort.seconds * (1 + 3 * len(some)))
                for line in measure_cell(self.bench, clock, some, effort, probe):
                    file.append("point", **line)
            tell(f"batch {batch}, {ctx} tokens")
