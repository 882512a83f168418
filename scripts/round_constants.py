"""Fit what rounds of speculation pay the host anew, everything else of a stack left as it is.

    python scripts/round_constants.py PUBLISHED

PUBLISHED holds speculation.csv. Rewrites the round constants in hardware_specs/stacks.toml and in
the calibrations of every serving stack.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from calibrations import HEADER, STACKS

from magicplan.hardware_specs.calibration_files import CALIBRATIONS
from magicplan.hardware_specs.stacks import stack_tables
from magicplan.replay import published
from tools.stack_constants.round_tables import FORGOTTEN, with_rounds


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    cases = published.read([Path(sys.argv[1]) / "speculation.csv"]).cases
    tables = with_rounds(dict(stack_tables()), cases)
    STACKS.write_text(HEADER + tomli_w.dumps(tables), encoding="utf-8")
    for stack, table in tables.items():
        for path in CALIBRATIONS.glob(f"*_{stack}_*.toml"):
            path.write_text(_changed(path, table), encoding="utf-8")
        told = {name: table["host"][name] for name in FORGOTTEN}
        print(stack, told, table["speedup_residual"])


def _changed(path: Path, table: dict[str, Any]) -> str:
    """A calibration with a stack's round constants, their residual and what they rest on."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    document["host"] |= {name: table["host"][name] for name in FORGOTTEN}
    document["speedup_residual"] = table["speedup_residual"]
    rounds = [entry for entry in table["evidence"] if entry["part"] == "stack rounds"]
    others = [entry for entry in document["evidence"] if entry["part"] != "stack rounds"]
    document["evidence"] = [*others, *rounds]
    return tomli_w.dumps(document)


if __name__ == "__main__":
    main()
