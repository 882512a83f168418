"""What this device reaches at most, measured here: memory, matrix products, launches.

The best of three and more runs, because a neighbour can only take away. On a CPU these peaks are
the "ideal" machine.
"""

from __future__ import annotations

import functools
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from magicplan.validate.measure.clock import Clock, Samples, Step, clock_of

if TYPE_CHECKING:
    from magicplan.validate.decoder.tensor_parallel import RankGroup

BEST_OF = 3
PROBE_BYTES = 2**28
"""Bytes that a probe of memory bandwidth reads: many times a CPU's last-level cache."""
LAUNCHES = 200
MESSAGES = tuple(4**k for k in range(5, 13))
"""Bytes of the sums over ranks that are timed: 1 KiB to 16 MiB."""
EDGES = {"cpu": (256, 1024, 2048), "cuda": (4096, 8192)}
"""Edge lengths of the square products that give the matrix rate; a CPU's first one tells how long
the next ones take."""
MATRIX_SECONDS = 4.0
"""A larger product is not tried where its runs would take longer: 16-bit products of a CPU without
such instructions run at a thousandth of its rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """The highest rates of one device that this run measured."""

    read_bytes_per_s: float
    """Bandwidth of one stream of reads."""
    copy_bytes_per_s: float
    """Bandwidth of a copy, bytes read plus bytes written."""
    matrix_flops_per_s: dict[str, float]
    """Rate of dense matrix products, by dtype."""
    launch_seconds: float
    """Time of one empty operation, launched from Python."""
    replay_seconds: float | None
    """One empty kernel inside a CUDA graph; None on a CPU."""
    all_reduce: list[tuple[int, float]]
    """Bytes and seconds of a sum over `ranks`; empty alone."""
    ranks: int

    def as_dict(self) -> dict[str, Any]:
        """The ceilings as JSON holds them."""
        return asdict(self)


def ceilings(device: str, dtypes: tuple[str, ...], ranks: RankGroup | None = None) -> Ceilings:
    """Measure them; takes a few seconds and up to 2 GiB on a GPU, 0.5 GiB on a CPU."""
    import torch

    from magicplan.validate.decoder.tensor_parallel import all_reduce_seconds

    clock = clock_of(device)
    size = 2**30 if device == "cuda" else 2**28
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    read = best(clock, source.sum)
    copied = best(clock, functools.partial(target.copy_, source))
    del source, target
    launch, replay = _launches(device)
    sums = []
    if ranks is not None and ranks.count > 1:
        where, kind = torch.device(device), torch.float32
        seconds = all_reduce_seconds(ranks, MESSAGES, device=where, dtype=kind)
        sums = list(zip(MESSAGES, seconds, strict=True))
    return Ceilings(
        read_bytes_per_s=size / read,
        copy_bytes_per_s=2 * size / copied,
        matrix_flops_per_s={dtype: matrix_rate(device, dtype) for dtype in dtypes},
        launch_seconds=launch,
        replay_seconds=replay,
        all_reduce=sums,
        ranks=ranks.count if ranks is not None else 1,
    )


def best(clock: Clock, step: Step, seconds: float = 0.3) -> float:
    """Shortest of at least three runs after one that warms up, and of all within `seconds`."""
    ready = clock.prepared(step)
    ready()
    samples, end = Samples(), time.perf_counter() + seconds
    while len(samples.wall) < BEST_OF or time.perf_counter() < end:
        samples.add(clock.time(ready))
    return min(samples.judged)


def matrix_rate(device: str, dtype: str, edges: tuple[int, ...] = ()) -> float:
    """FLOP a second of the best square product of random numbers, of `edges` on a side.

    The edges grow as long as the rate so far lets the next one end within `MATRIX_SECONDS`.
    """
    import torch

    kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    clock, rates = clock_of(device), list[float]()
    for n in edges or EDGES[device]:
        if rates and (1 + BEST_OF) * 2 * n**3 > MATRIX_SECONDS * max(rates):
            break
        a, b = (torch.randn(n, n, device=device, dtype=torch.float32).to(kind) for _ in range(2))
        out = torch.empty(n, n, device=device, dtype=kind)

        def product(a: Any = a, b: Any = b, out: Any = out) -> None:
            torch.mm(a, b, out=out)

        rates.append(2 * n**3 / best(clock, product))
    return max(rates)


def _launches(device: str) -> tuple[float, float | None]:
    """Seconds of one empty operation from Python, and of one inside a replayed graph."""
    import torch

    one = torch.zeros(1, device=device)

    def many() -> None:
        for _ in range(LAUNCHES):
            one.add_(1.0)

    eager = best(clock_of(device, graphs=False), many) / LAUNCHES
    if device == "cpu":
        return eager, None
    return eager, best(clock_of(device), many) / LAUNCHES


class Probe:
    """A read of memory timed between points: a neighbour on the memory bus shows only here.

    `best_bytes_per_s` is the fastest seen so far: a ceiling measured beside a neighbour is raised.
    """

    def __init__(self, device: str) -> None:
        import torch

        self._clock = clock_of(device, graphs=False)
        self._data = torch.ones(PROBE_BYTES // 4, dtype=torch.float32, device=device)
        self.best_bytes_per_s = 0.0
        self.drift()

    def drift(self) -> float:
        """Best over now: 1 on a quiet machine, 2 where memory has become half as fast."""
        rate = PROBE_BYTES / best(self._clock, self._data.sum, seconds=0.05)
        self.best_bytes_per_s = max(self.best_bytes_per_s, rate)
        return self.best_bytes_per_s / rate
