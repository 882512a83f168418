"""From bytes and FLOP to seconds: the roofline itself, and the only maximum in the package.

The forms were chosen on public kernel tables of four GPUs and three serving stacks: four
parameters bring bf16 linear layers from 36 % to 9 % error, and six bring nothing more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.calibration import (
    AttentionFit,
    Calibration,
    CollectiveFit,
    ExpertFit,
    LinearFit,
    PrefillFit,
)
from magicplan.hardware_specs.spread import combined_spread
from magicplan.roofline.deployment import Namespace, Num
from magicplan.roofline.traffic import Op

SMALLEST = np.finfo(np.float64).tiny


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Machine:
    """A datasheet and what was seen of it: everything a time depends on besides the work."""

    accelerator: Accelerator
    calibration: Calibration
    eager: bool = False
    """Whether the host launches collectives one by one, outside CUDA graphs."""

    @property
    def bytes_per_s(self) -> float:
        """Datasheet memory bandwidth."""
        return self.accelerator.memory_bytes_per_s

    def flops_per_s(self, dtype: str) -> float:
        """Datasheet dense peak; a format the part does not multiply runs at its 16-bit rate."""
        peaks = self.accelerator.dense_flops_per_s
        return peaks.get(dtype, peaks[self.accelerator.math_dtype])

    def link_bytes_per_s(self, ranks: Num, xp: Namespace = np) -> Num:
        """One-way rate between `ranks` GPUs: the fast link inside its domain, else PCIe."""
        a = self.accelerator
        fallback = a.pcie_bytes_per_s or a.link_bytes_per_s or math.inf
        fast = a.link_bytes_per_s or fallback
        return xp.where(ranks <= a.link_domain, fast, fallback)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepCost:
    """Seconds of one forward pass of one replica, and the traffic of one of its GPUs.

    Times are medians; the calibration's residual gives their interval.
    """

    linear_seconds: Num = 0.0
    attention_seconds: Num = 0.0
    collective_seconds: Num = 0.0
    elementwise_seconds: Num = 0.0
    host_seconds: Num = 0.0
    weight_bytes: Num = 0.0
    kv_bytes: Num = 0.0
    activation_bytes: Num = 0.0
    flops: Num = 0.0

    @property
    def seconds(self) -> Num:
        """The whole step: kernels run one after another."""
        return (
            self.linear_seconds
            + self.attention_seconds
            + self.collective_seconds
            + self.elementwise_seconds
            + self.host_seconds
        )


def memory_seconds(op: Op, machine: Machine) -> Num:
    """Bytes of one run of a local op over datasheet bandwidth."""
    return op.bytes / machine.bytes_per_s


def compute_seconds(op: Op, machine: Machine) -> Num:
    """FLOP of one run of an op over the datasheet's dense peak."""
    return op.flops / machine.flops_per_s(op.dtype)


def prompt_seconds(op: Op, machine: Machine) -> Num:
    """Products and softmax of a prompt's attention over the datasheet's dense peak."""
    fit = machine.calibration.prefill_fit(op.dtype)
    extra = fit.score_flops * op.scores if fit else 0.0
    return (op.flops + extra) / machine.flops_per_s(op.dtype)


def op_seconds(op: Op, machine: Machine, xp: Namespace = np) -> Num:
    """Seconds of one run of an op, never less than the datasheet's roofline."""
    if op.kind == "linear":
        return (_expert_seconds if op.grouped else _linear_seconds)(op, machine, xp)
    if op.kind == "attention":
        return _attention_seconds(op, machine, xp)
    if op.kind == "collective":
        return _collective_seconds(op, machine, xp)
    return machine.calibration.host.kernel_seconds + memory_seconds(op, machine)


def _linear_seconds(op: Op, machine: Machine, xp: Namespace) -> Num:
    fit = machine.calibration.linear_fit(op.dtype)
    return linear_time(fit, memory_seconds(op, machine), compute_seconds(op, machine), xp)


def _expert_seconds(op: Op, machine: Machine, xp: Namespace) -> Num:
    fit = machine.calibration.expert_fit(op.weight_format, op.dtype)
    passing = op.activation_bytes + fit.idle_share * op.idle_bytes
    return expert_time(
        fit,
        op.units,
        op.weight_bytes / machine.bytes_per_s,
        passing / machine.bytes_per_s,
        compute_seconds(op, machine),
        xp,
    )


def _attention_seconds(op: Op, machine: Machine, xp: Namespace) -> Num:
    own = machine.calibration.layers.get(op.layer)
    if own is not None:
        return linear_time(own, memory_seconds(op, machine), compute_seconds(op, machine), xp)
    whole = machine.calibration.prefill_fit(op.dtype) if op.prefill else None
    if whole is not None:
        return prefill_time(whole, memory_seconds(op, machine), prompt_seconds(op, machine), xp)
    fit = machine.calibration.attention_fit(op.dtype)
    waves, moving = op.units / machine.accelerator.units, memory_seconds(op, machine)
    if fit.reread_share:
        moving = moving + fit.reread_share * op.reread_bytes / machine.bytes_per_s
    return attention_time(fit, moving, compute_seconds(op, machine), waves, xp)


def _collective_seconds(op: Op, machine: Machine, xp: Namespace) -> Num:
    """All-reduce as the faster of one-shot and two-shot; all-to-all as one pass over the link."""
    fit, link = machine.calibration.collective, machine.link_bytes_per_s(op.ranks, xp)
    if op.pattern == "all-to-all":
        share = (op.ranks - 1) / op.ranks * op.payload_bytes
        shot = fit.two_shot_seconds + share / (fit.two_shot_efficiency * link)
    else:
        shot = all_reduce_time(fit, op.ranks, op.payload_bytes / link, xp)
    if machine.eager:
        shot = eager_time(fit, shot, xp)
    return xp.where(op.ranks > 1, shot, 0.0)


def step_interval(cost: StepCost, calibration: Calibration) -> tuple[Num, Num]:
    """Measured over predicted seconds of a step, low and high end of 80 %.

    Published steps set the ends; where collectives take much of a step, as over PCIe, what they
    miss by adds to it (`combined_spread`).
    """
    found, whole = calibration.step_residual, np.maximum(cost.seconds, cost.collective_seconds)
    share = np.where(np.isfinite(whole) & (whole > 0), cost.collective_seconds, 0.0)
    missed = share / np.where(share > 0, whole, 1.0) * math.log1p(calibration.collective.spread)
    low, high = min(found.low, 1.0), max(found.high, 1.0)
    return 1 / combined_spread(low, np.exp(missed)), combined_spread(high, np.exp(missed))


def linear_time(fit: LinearFit, moving: Num, computing: Num, xp: Namespace = np) -> Num:
    """Seconds of a linear layer from its ideal times at datasheet rates (see `LinearFit`)."""
    busy = _p_norm(
        moving / fit.memory_efficiency, computing / fit.compute_efficiency, fit.sharpness, xp
    )
    return fit.launch_seconds + busy


def expert_time(
    fit: ExpertFit, touched: Num, reading: Num, passing: Num, computing: Num, xp: Namespace = np
) -> Num:
    """Seconds of a layer's experts, of which `touched` are met, from the ideal times of their
    weights, activations and products at datasheet rates (see `ExpertFit`)."""
    moving = reading / fit.memory_efficiency + fit.activation_passes * passing
    busy = _p_norm(moving, computing / fit.compute_efficiency, fit.sharpness, xp)
    return fit.launch_seconds + fit.expert_seconds * touched + busy


def prefill_time(fit: PrefillFit, moving: Num, computing: Num, xp: Namespace = np) -> Num:
    """Seconds of a prompt's attention from its ideal times at datasheet rates (`PrefillFit`)."""
    busy = _p_norm(
        moving / fit.memory_efficiency, computing / fit.compute_efficiency, fit.sharpness, xp
    )
    return fit.launch_seconds + busy


def attention_time(
    fit: AttentionFit, moving: Num, computing: Num, waves: Num, xp: Namespace = np
) -> Num:
    """Seconds of decode attention from its ideal times and its waves (see `AttentionFit`)."""
    efficiency = fit.memory_efficiency
    if fit.split_share < 1:
        kept = fit.split_share + (1 - fit.split_share) * xp.minimum(waves, 1.0)
        efficiency = efficiency * kept
    busy = _p_norm(moving / efficiency, computing / fit.compute_efficiency, fit.roof_sharpness, xp)
    if fit.wave_seconds:
        busy = _p_norm(busy, fit.wave_seconds * waves, fit.sharpness, xp)
    return fit.launch_seconds + busy


def all_reduce_time(fit: CollectiveFit, ranks: Num, sending: Num, xp: Namespace = np) -> Num:
    """Seconds of an all-reduce whose payload takes `sending` over one link (`CollectiveFit`)."""
    others = ranks - 1
    one = fit.one_shot_seconds + others * sending / fit.one_shot_efficiency
    hops = fit.two_shot_seconds + fit.hop_seconds * others
    two = hops + 2 * others / ranks * sending / fit.two_shot_efficiency
    return xp.minimum(one, two)


def eager_time(fit: CollectiveFit, seconds: Num, xp: Namespace = np) -> Num:
    """Seconds of a collective outside a CUDA graph, from those inside (`CollectiveFit`)."""
    return xp.maximum(seconds, fit.eager_seconds)


def _p_norm(a: Num, b: Num, p: float, xp: Namespace) -> Num:
    """(a^p + b^p)^(1/p), scaled by the larger so that nothing underflows; the larger at p = inf."""
    larger = xp.maximum(a, b)
    if math.isinf(p):
        return larger
    return larger * _power(1 + _power(xp.minimum(a, b) / larger, p, xp), 1 / p, xp)


def _power(base: Num, exponent: float, xp: Namespace) -> Num:
    """`base ** exponent`; of arrays by logarithms, twice as fast as NumPy's own, and the smallest
    number counts as 0."""
    if xp is not np:
        return base**exponent
    return np.exp(exponent * np.log(np.maximum(base, SMALLEST)))


def step_cost(
    ops: Iterable[Op], machine: Machine, host_seconds: Num = 0.0, xp: Namespace = np
) -> StepCost:
    """Time and traffic of a whole pass, with what the host adds to it."""
    seconds: dict[str, Num] = dict.fromkeys(
        ("linear", "attention", "collective", "elementwise"), 0.0
    )
    weight = kv = activation = flops = 0.0
    for op in ops:
        seconds[op.kind] = seconds[op.kind] + op.count * op_seconds(op, machine, xp)
        weight = weight + op.count * op.weight_bytes
        kv = kv + op.count * op.kv_bytes
        activation = activation + op.count * op.activation_bytes
        flops = flops + op.count * op.flops
    return StepCost(
        linear_seconds=seconds["linear"],
        attention_seconds=seconds["attention"],
        collective_seconds=seconds["collective"],
        elementwise_seconds=seconds["elementwise"],
        host_seconds=host_seconds,
        weight_bytes=weight,
        kv_bytes=kv,
        activation_bytes=activation,
        flops=flops,
    )


BOUNDS = ("weights", "kv", "compute", "overhead", "communication")


def bound_shares(ops: Iterable[Op], machine: Machine, host_seconds: Num = 0.0) -> dict[str, Num]:
    """Seconds of a step that each of `BOUNDS` accounts for.

    An op's launch is overhead. Its time above that belongs to compute where FLOP decide, else to
    the bytes that it moves; activations count as overhead, for neither weights nor KV cause them.
    """
    shares: dict[str, Num] = dict.fromkeys(BOUNDS, 0.0)
    shares["overhead"] = host_seconds
    for op in ops:
        total = op.count * op_seconds(op, machine)
        if op.kind == "collective":
            shares["communication"] = shares["communication"] + total
            continue
        busy = np.maximum(total - op.count * _launch_seconds(op, machine), 0.0)
        decides = compute_seconds(op, machine) > memory_seconds(op, machine)
        moved = np.where(decides, 0.0, busy) / op.bytes
        for name, part in (("weights", op.weight_bytes), ("kv", op.kv_bytes)):
            shares[name] = shares[name] + moved * part
        shares["compute"] = shares["compute"] + np.where(decides, busy, 0.0)
        rest = total - busy + moved * op.activation_bytes
        shares["overhead"] = shares["overhead"] + rest
    return shares


def _launch_seconds(op: Op, machine: Machine) -> Num:
    """Seconds that one run of an op takes however little it moves."""
    calibration = machine.calibration
    if op.grouped:
        experts = calibration.expert_fit(op.weight_format, op.dtype)
        return experts.launch_seconds + experts.expert_seconds * op.units
    if op.kind == "linear":
        return calibration.linear_fit(op.dtype).launch_seconds
    if op.layer in calibration.layers:
        return calibration.layers[op.layer].launch_seconds
    if op.prefill and (prompts := calibration.prefill_fit(op.dtype)):
        return prompts.launch_seconds
    if op.kind == "attention":
        return calibration.attention_fit(op.dtype).launch_seconds
    return calibration.host.kernel_seconds
