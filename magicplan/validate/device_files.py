"""This device as TOMLs: an accelerator for `--gpu`, a calibration for `--stack`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magicplan.errors import MissingExtra, UsageError
from magicplan.hardware_specs.fields import accelerator_from
from magicplan.validate.calibrate import write
from magicplan.validate.device_fit import accelerator_data
from magicplan.validate.run_file import Run


def write_tomls(folder: Path, run: Run, calibration: dict[str, Any] | None = None) -> list[Path]:
    """The TOMLs of a run; of a GPU that has a datasheet, the calibration alone.

    Raises UsageError where they cannot be written, MissingExtra without tomli-w.
    """
    if calibration is None:
        assert run.prediction is not None
        calibration = run.prediction["content"]["calibration"]
    paths = write(folder, [calibration])
    data = accelerator_data(run.header["device"], run.peaks())
    if not calibration["name"].startswith(data["name"]):
        return paths
    accelerator_from(data, where=data["name"])
    try:
        import tomli_w

        path = folder / f"{data['name']}.toml"
        path.write_text(tomli_w.dumps(data), encoding="utf-8")
    except ImportError:
        raise MissingExtra("writing an accelerator", "data") from None
    except OSError as problem:
        raise UsageError(f"{folder}: cannot be written ({problem.strerror})") from None
    return [*paths, path]
