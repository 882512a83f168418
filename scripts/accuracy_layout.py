"""Tables of the page of accuracy, in Markdown."""

from __future__ import annotations

from magicplan.calibrate.kernel_fit import Errors

ERRORS = "part | n | MAPE | p95 | bias | naive MAPE | worst row"


def table(header: str, rows: list[str]) -> str:
    columns = header.count("|") + 1
    return "\n".join([f"| {header} |", "|---" * columns + "|", *(f"| {r} |" for r in rows)]) + "\n"


def cells(ours: Errors, naive: Errors) -> str:
    """The cells of `ERRORS` after the part."""
    return (
        f"{ours.rows} | {ours.mape:.1f} | {ours.p95:.1f} | {ours.bias:+.1f} | {naive.mape:.1f} | "
        f"{ours.worst}"
    )
