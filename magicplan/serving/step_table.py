"""Seconds of any step of one engine, as straight lines in the total context of its batch.

Both simulations ask nothing else of the roofline. For a batch of n the full model is sampled at
`CONTEXTS` mean contexts and `SIZES` batches; lines between the samples stay within 0.5 % of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from magicplan.roofline.deployment import Array
from magicplan.serving.replica import Replica, Speculation, one_of, prompts_of, rounds_of
from magicplan.serving.step_time import decode_seconds, row_table

CONTEXTS = 25
SIZES = 97
SMALL = 32
"""Batches up to which every size is sampled: there, one request more changes a step most."""

Chunk = tuple[float, float]
"""Prompt tokens computed in a step, and tokens of the same request that were there before."""
Line = tuple[list[float], list[float], list[float]]
"""A batch's step time in linear pieces over total context: the tokens at which each begins, its
seconds at 0 and its seconds a token."""


@dataclass(slots=True, kw_only=True, eq=False)
class StepTable:
    """Step times of one engine with one draft length; `width` tokens are verified a request.

    A chunk costs its linear layers on top of the rows decoded beside it, its attention to what was
    there before, and the host's work for one more sequence.
    """

    width: float
    shared_tokens: float
    """Prefix that all requests hold together, read once a step."""
    sizes: list[float]
    contexts: list[float]
    seconds: list[list[float]] = field(repr=False)
    """[size][context] of a step that only decodes."""
    rows: list[float] = field(repr=False)
    row_slope: list[float] = field(repr=False)
    row_start: list[float] = field(repr=False)
    """Straight lines of the work that depends on the tokens of a step alone."""
    overhead: float
    """Seconds of a step beside that work: launches, sampling, the host."""
    pair_seconds: float
    window_pair_seconds: float
    window_tokens: float
    prompt_token_seconds: float
    """Seconds a prompt token beside linear layers and attention: recurrent layers, and a draft that
    reads the prompt itself."""
    sequence_seconds: float
    lines: dict[int, Line] = field(default_factory=dict, repr=False)

    def line(self, batch: int) -> Line:
        """Pieces of the step of a batch, over total context."""
        if batch not in self.lines:
            self.lines[batch] = self._line(batch)
        return self.lines[batch]

    def _line(self, batch: int) -> Line:
        at = min(max(bisect_right(self.sizes, batch) - 1, 0), len(self.sizes) - 2)
        low, high = self.sizes[at], self.sizes[at + 1]
        part = (batch - low) / (high - low)
        saved = self.shared_tokens * (batch - 1)
        begin = [ctx * batch + saved for ctx in self.contexts]
        heights = [
            a + part * (b - a) for a, b in zip(self.seconds[at], self.seconds[at + 1], strict=True)
        ]
        slopes = [
            (heights[i + 1] - heights[i]) / (begin[i + 1] - begin[i])
            for i in range(len(begin) - 1)
        ]  # fmt: skip
        starts = [height - slope * c for height, slope, c in zip(heights, slopes, begin)]  # noqa: B905
        return begin[:-1], starts, slopes

    def decode(self, batch: int, total_context: float) -> float:
        """Seconds of a step in which `batch` requests decode, and nothing else."""
        begin, starts, slopes = self.line(batch)
        piece = max(bisect_right(begin, total_context) - 1, 0)
        return starts[piece] + slopes[piece] * total_context

    def step(self, batch: int, total_context: float, chunks: Sequence[Chunk]) -> float:
        """Seconds of a step with prompt chunks beside `batch` decoding requests, or alone."""
        rows = batch * self.width
        tokens = chunks[0][0] if len(chunks) == 1 else sum(new for new, _ in chunks)
        seconds = self.decode(batch, total_context) if batch else self.overhead
        seconds += self._rows(rows + tokens) - (self._rows(rows) if batch else 0.0)
        for new, before in chunks:
            seconds += self._attention(new, before) + self.sequence_seconds
        return seconds

    def _rows(self, tokens: float) -> float:
        piece = min(max(bisect_right(self.rows, tokens) - 1, 0), len(self.row_slope) - 1)
        return self.row_start[piece] + self.row_slope[piece] * tokens

    def _attention(self, new: float, before: float) -> float:
        """A chunk's causal attention, each query to all before it, or to a window."""
        pairs = new * before + new * (new + 1) / 2
        growing = min(max(self.window_tokens - before, 0.0), new)
        short = growing * before + growing * (growing + 1) / 2
        short += (new - growing) * self.window_tokens
        return (
            self.pair_seconds * pairs
            + self.window_pair_seconds * short
            + self.prompt_token_seconds * new
        )

    def slower(self, factor: float) -> StepTable:
        """All times longer by a factor."""
        return StepTable(
            width=self.width, shared_tokens=self.shared_tokens, sizes=self.sizes,
            contexts=self.contexts, rows=self.rows,
            seconds=[[s * factor for s in row] for row in self.seconds],
            row_slope=[s * factor for s in self.row_slope],
            row_start=[s * factor for s in self.row_start],
            overhead=self.overhead * factor, pair_seconds=self.pair_seconds * factor,
            window_pair_seconds=self.window_pair_seconds * factor,
            window_tokens=self.window_tokens,
            prompt_token_seconds=self.prompt_token_seconds * factor,
            sequence_seconds=self.sequence_seconds * factor,
        )  # fmt: skip


def step_table(r: Replica, layout: int, spec: Speculation, gamma: float, depth: float) -> StepTable:
    """The steps of one layout of `r` drafting `gamma` tokens in `depth` levels.

    With pipeline stages it is that of one of as many micro-batches, each of its own requests.
    """
    one = one_of(r.layout, layout)
    stages = float(np.asarray(one.pp).reshape(-1)[0])
    sizes, contexts = _sizes(r.limits.max_sequences), _contexts(r)
    seen = np.broadcast_to(contexts, (sizes.size, contexts.size)).reshape(-1, 1)
    passes = decode_seconds(
        r.model, one, r.machine, np.repeat(sizes * stages, contexts.size), seen,
        np.asarray([gamma + 1.0]), r.limits.kv_passes,
    )  # fmt: skip
    seconds = passes[0, :, 0].reshape(sizes.size, contexts.size)
    seconds = seconds + _drafting(r, layout, spec, gamma, depth, sizes * stages)[:, None]
    table = row_table(r.model, one, r.machine, stages * 2 * r.limits.batched_tokens)
    prompts = prompts_of(r, spec)

    def own(values: Array) -> float:
        """A value [layout] or of all layouts, for this layout through all of its stages."""
        flat = np.atleast_1d(values)
        return float(flat[layout % flat.size]) * stages

    return StepTable(
        width=gamma + 1.0,
        shared_tokens=r.load.shared_prefix_tokens,
        sizes=sizes.tolist(),
        contexts=contexts.tolist(),
        seconds=seconds.tolist(),
        rows=(table.rows / stages).tolist(),
        row_slope=(table.slope[0] * stages).tolist(),
        row_start=table.start[0].tolist(),
        overhead=float(r.overhead[layout]),
        sequence_seconds=r.machine.calibration.host.sequence_seconds,
        pair_seconds=own(prompts.full_pair_seconds),
        window_pair_seconds=own(prompts.window_pair_seconds),
        window_tokens=prompts.window_tokens,
        prompt_token_seconds=own(prompts.draft_seconds + prompts.token_seconds),
    )


def _sizes(most: float) -> Array:
    """Every batch up to `SMALL`, then evenly on a logarithmic scale up to `most`."""
    high = max(most, SMALL + 1.0)
    more = np.geomspace(SMALL, high, SIZES - SMALL + 1)
    return np.unique(np.concatenate([np.arange(1.0, SMALL + 1.0), np.rint(more)]))


def _contexts(r: Replica) -> Array:
    """Mean contexts to sample: from 1 to the longest request, and the end of a window."""
    longest = float((r.load.lengths.prompt + r.load.lengths.output).max())
    window = float(r.model.window_tokens or 0)
    points = np.geomspace(16.0, max(longest, 64.0), CONTEXTS - 1)
    kept = [1.0, *points.tolist(), *([window] if 1 < window < longest else [])]
    return np.unique(np.asarray(kept))


def _drafting(
    r: Replica, layout: int, spec: Speculation, gamma: float, depth: float, batch: Array
) -> Array:
    """Seconds of drafting in a round of each batch: lines between those that `r` knows."""
    if not gamma:
        return np.zeros(batch.size)
    known = rounds_of(r, Speculation(
        draft=spec.draft, acceptance=spec.acceptance, gamma=int(gamma),
        depth=int(depth) if depth != gamma else None, trees=spec.trees,
    )).draft_seconds[layout]  # fmt: skip
    return np.asarray(np.interp(batch, r.batch, known))
