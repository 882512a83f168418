"""Round constants of every serving stack as `stacks.toml` holds them: its own, or another's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from magicplan.errors import UsageError
from magicplan.hardware_specs.calibration import HostFit, Residual
from magicplan.replay.published import Case
from tools.stack_constants.evidence import borrowed
from tools.stack_constants.round_fit import (
    CONSTANTS,
    ROUND_CONSTANTS,
    SPREADS,
    RoundFit,
    fit_rounds,
)
from tools.stack_constants.stack_fit import constants, rounded

FROM = {"vllm": "sglang", "trtllm": "vllm"}
"""Whose constants a stack takes where its own rows say nothing."""
WIDER = 0.1
FORGOTTEN = {"draft_step_seconds": 0.0, "draft_step_spread": 0.0} | dict.fromkeys(
    (*CONSTANTS, *SPREADS.values()), 0.0
)
"""Everything a round pays the host, before it is fitted."""


def with_rounds(tables: dict[str, Any], cases: list[Case]) -> dict[str, Any]:
    """Stack tables with the constants, speedup residuals and evidence of rounds fitted anew."""
    fits: dict[str, RoundFit | UsageError] = {}
    for stack, table in tables.items():
        host = HostFit(**(table["host"] | FORGOTTEN))
        try:
            fits[stack] = fit_rounds(stack, cases, host)
        except UsageError as problem:
            fits[stack] = problem
    return {stack: table | _rounds(stack, table, fits) for stack, table in tables.items()}


def _rounds(
    stack: str, table: dict[str, Any], fits: dict[str, RoundFit | UsageError]
) -> dict[str, Any]:
    """What of a stack's table rests on rounds."""
    fit, kept = fits[stack], [e for e in table["evidence"] if e["part"] != "stack rounds"]
    if isinstance(fit, UsageError):
        other = FROM[stack]
        lent = fits[other]
        assert isinstance(lent, RoundFit)
        host = HostFit(**(table["host"] | FORGOTTEN))
        given = {name: getattr(lent.host, name) for name in FORGOTTEN}
        whole = replace(host, **(given | _lent(other, lent, fits)))
        residual = Residual(
            low=lent.residual.low * (1 - WIDER),
            high=lent.residual.high * (1 + WIDER),
            basis=f"{other}'s, widened by a tenth ({fit})",
        )
        notes = [borrowed("stack rounds", ROUND_CONSTANTS, f"{other}'s ({fit})")]
    else:
        whole = replace(fit.host, **_lent(stack, fit, fits))
        residual, notes = fit.residual, [fit.evidence]
        for name in _lent(stack, fit, fits):
            if name in CONSTANTS:
                told = f"{FROM[stack]}'s (no row of {stack} tells it)"
                notes.append(borrowed("stack rounds", (f"host.{name}",), told))
    return {
        "host": constants(whole),
        "speedup_residual": rounded(residual),
        "evidence": [*kept, *notes],
    }


def _lent(stack: str, fit: RoundFit, fits: dict[str, RoundFit | UsageError]) -> dict[str, float]:
    """Constants that a stack's rows cannot tell, from the stack they are taken from: they may be
    as much less or more as they are."""
    other = fits.get(FROM.get(stack, ""))
    if not isinstance(other, RoundFit):
        return {}
    found: dict[str, float] = {}
    for name in other.constants:
        if name not in fit.constants and name not in fit.told and name in SPREADS:
            found |= {name: getattr(other.host, name), SPREADS[name]: 1.0}
    return found
