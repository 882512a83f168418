"""Prompts and outputs of a benchmark run, from lists, totals or statistics of a result file."""

from __future__ import annotations

import numpy as np

from magicplan.errors import SpecError
from magicplan.fields import Table
from magicplan.observed.run import from_zero, numbers, positive
from magicplan.roofline.deployment import Array
from magicplan.serving.lengths import MAX_LENGTH, POINTS, STEP, Lengths

RANKS = {"min": 0.0, "p1": 0.01, "p5": 0.05, "p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75,
         "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}  # fmt: skip
Tokens = tuple[Array, str]
"""Tokens of one or more requests, and the field that says so."""


def lengths_of(path: str, prompt: Tokens, output: Tokens) -> Lengths:
    """Requests of these prompts and outputs: pairs where a file lists both, else combined as if
    they knew nothing of each other.

    Raises SpecError naming the field: lengths that no request has, or outputs of one token, which
    leave no time per token.
    """
    for values, field in (prompt, output):
        if not 1 <= values.mean() <= MAX_LENGTH:
            raise SpecError(
                path,
                f"{field} makes {values.mean():g} tokens a request, expected 1 to {MAX_LENGTH:.0f}",
            )
    if np.rint(output[0].max()) < 2:
        raise SpecError(
            path,
            f"{output[1]} makes outputs of one token: nothing decodes after the first, so there is "
            "no time per token to compare or to fit; run with longer outputs",
        )
    prompts, outputs = prompt[0].astype(np.float64), output[0].astype(np.float64)
    place = np.arange(POINTS)
    if prompts.size == outputs.size > 1:
        order = np.lexsort((outputs, prompts))[place * prompts.size // POINTS]
        found = Lengths(prompt=prompts[order], output=outputs[order])
    else:
        other = place * STEP % POINTS
        found = Lengths(
            prompt=np.sort(prompts)[place * prompts.size // POINTS],
            output=np.sort(outputs)[other * outputs.size // POINTS],
        )
    return found.scaled(
        prompt=prompts.mean() / found.prompt.mean(), output=outputs.mean() / found.output.mean()
    )


def listed(doc: Table, stated: dict[str, float]) -> tuple[Tokens, Tokens] | None:
    """Prompts and outputs request by request; None where the file or the user says otherwise.

    Requests of which either is zero failed and are left out.
    """
    prompts, outputs = numbers(doc, "input_lens"), numbers(doc, "output_lens")
    if {"prompt", "output"} & set(stated) or not prompts or not outputs:
        return None
    if len(prompts) != len(outputs):
        raise SpecError(
            doc.file, f"input_lens has {len(prompts)} entries and output_lens {len(outputs)}"
        )
    pairs = np.asarray([(p, o) for p, o in zip(prompts, outputs, strict=True) if p and o])
    if not pairs.size:
        raise SpecError(doc.file, "output_lens: no request has any output")
    return (pairs[:, 0], "input_lens"), (pairs[:, 1], "output_lens")


def spread(doc: Table, field: str) -> Tokens:
    """A metric's mean and percentiles as `POINTS` tokens, straight lines between percentiles."""
    block = doc.table(field)
    mean = positive(block, "avg")
    known = {word: from_zero(block, word) for word in RANKS if block.data.get(word) is not None}
    tokens = list(known.values())
    if tokens != sorted(tokens):
        doc.fail(field, ": its percentiles fall")
    if len(tokens) < 2 or tokens[-1] <= 0:
        return np.asarray([mean]), field
    share = (np.arange(POINTS) + 0.5) / POINTS
    found = np.interp(share, [RANKS[word] for word in known], tokens)
    return np.asarray(found * mean / found.mean()), field


def uniform(mean: float, ratio: float) -> Array:
    """Lengths from `ratio` times the longest to the longest, equally likely, of this mean."""
    found = np.linspace(ratio, 1.0, POINTS)
    return np.asarray(found * mean / found.mean())
