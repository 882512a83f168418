"""What a measurement was taken on: device, clocks, versions, commit, seed; recorded, never typed.

NVML (`nvidia-ml-py`, imported as `pynvml`) is asked where it and a driver are present; settings of
a device are read and never changed.
"""

from __future__ import annotations

import os
import platform
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import magicplan

SAMPLE_SECONDS = 0.1
THROTTLED_SHARE = 0.05
"""The share of clock samples with a slowdown bit above which a point is flagged."""
CLOCK_SPREAD = 0.03
"""The relative spread of the SM clock during a point above which the point is flagged."""


def environment(device: str, *, threads: int, seed: int, dtype: str) -> dict[str, Any]:
    """Everything about this machine that a reader of the numbers needs, as JSON."""
    found: dict[str, Any] = {
        "device": device,
        "name": _cpu_name() if device == "cpu" else _gpu_name(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "magicplan": magicplan.__version__,
        "commit": _commit(),
        "torch": _version("torch"),
        "triton": _version("triton"),
        "cpu_count": os.cpu_count(),
        "load_average": _load(),
        "threads": threads,
        "dtype": dtype,
        "seed": seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "memory_bytes": memory_bytes(device),
    }
    if device == "cpu":
        found["last_level_cache_bytes"] = last_level_cache_bytes()
        found["cpu_capability"] = _capability()
    else:
        import torch

        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        found["units"] = properties.multi_processor_count
        found["last_level_cache_bytes"] = float(properties.L2_cache_size)
        found |= _nvml_facts()
    return found


def memory_bytes(device: str) -> float:
    """Bytes that may be allocated now: free GPU memory, or the machine's within its cgroup."""
    if device != "cpu":
        import torch

        free, _ = torch.cuda.mem_get_info()
        return float(free)
    limits = [_meminfo("MemAvailable")]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        most, now = _number(limit), _number(used)
        if most and now and most < 2.0**60:
            limits.append(most - now)
    return min(limit for limit in limits if limit > 0)


def last_level_cache_bytes() -> float | None:
    """The largest cache of the first core, from sysfs; None where it does not say."""
    sizes = []
    for entry in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = entry.read_text(encoding="ascii").strip()
        unit = {"K": 2.0**10, "M": 2.0**20}.get(text[-1:])
        if unit and text[:-1].isdigit():
            sizes.append(int(text[:-1]) * unit)
    return max(sizes, default=None)


@dataclass(slots=True)
class Watch:
    """Clocks, power, temperature and slowdown bits of a GPU while a point was measured."""

    sm_clock_hz: list[float] = field(default_factory=list)
    memory_clock_hz: list[float] = field(default_factory=list)
    power_watts: list[float] = field(default_factory=list)
    temperature_celsius: list[float] = field(default_factory=list)
    slowed: list[bool] = field(default_factory=list)

    @property
    def flag(self) -> str:
        """Why the point is doubtful, '' if it is not."""
        if not self.sm_clock_hz:
            return ""
        share = sum(self.slowed) / len(self.slowed)
        if share > THROTTLED_SHARE:
            return f"the GPU slowed itself in {100 * share:.0f} % of samples"
        spread = max(self.sm_clock_hz) / max(min(self.sm_clock_hz), 1.0) - 1
        return f"SM clock moved by {100 * spread:.0f} %" if spread > CLOCK_SPREAD else ""

    def as_dict(self) -> dict[str, Any]:
        """Lowest and highest of each, empty without NVML."""
        names = ("sm_clock_hz", "memory_clock_hz", "power_watts", "temperature_celsius")
        ranges = {name: getattr(self, name) for name in names}
        return {name: [min(values), max(values)] for name, values in ranges.items() if values}


@contextmanager
def watched(device: str) -> Iterator[Watch]:
    """Sample NVML ten times a second in a thread; does nothing on a CPU or without a driver."""
    watch, stop = Watch(), threading.Event()
    handle = None if device == "cpu" else _nvml_handle()
    if handle is None:
        yield watch
        return

    def sample() -> None:
        while not stop.is_set():
            _sample(handle, watch)
            stop.wait(SAMPLE_SECONDS)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()


def _sample(handle: Any, watch: Watch) -> None:
    import pynvml as nvml

    watch.sm_clock_hz.append(1e6 * nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
    watch.memory_clock_hz.append(1e6 * nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM))
    watch.power_watts.append(nvml.nvmlDeviceGetPowerUsage(handle) / 1e3)
    watch.temperature_celsius.append(
        float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
    )
    watch.slowed.append(bool(_slowdown_bits(handle)))


def _slowdown_bits(handle: Any) -> int:
    """Thermal, power-brake and software power-cap reasons; named anew in CUDA 12.3."""
    import pynvml as nvml

    new = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    reasons = new(handle) if new else nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    sw_power_cap, hw_slowdown, sw_thermal, hw_thermal, hw_brake = 0x4, 0x8, 0x20, 0x40, 0x80
    return int(reasons & (sw_power_cap | hw_slowdown | sw_thermal | hw_thermal | hw_brake))


def _nvml_handle() -> Any:
    """The handle of torch's current device, None without NVML or a driver."""
    try:
        import pynvml as nvml

        nvml.nvmlInit()
    except ImportError:
        return None
    except nvml.NVMLError:
        return None
    import torch

    # by UUID: NVML counts devices that CUDA_VISIBLE_DEVICES hides
    uuid = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    return nvml.nvmlDeviceGetHandleByUUID(uuid)


def _nvml_facts() -> dict[str, Any]:
    handle = _nvml_handle()
    if handle is None:
        return {"driver": None}
    import pynvml as nvml

    now = Watch()
    _sample(handle, now)
    facts = now.as_dict()
    facts["driver"] = _text(nvml.nvmlSystemGetDriverVersion())
    facts["power_limit_watts"] = nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1e3
    facts["slowdown_bits"] = _slowdown_bits(handle)
    try:
        facts["ecc"] = bool(nvml.nvmlDeviceGetEccMode(handle)[0])
    except nvml.NVMLError:
        facts["ecc"] = None
    return facts


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _capability() -> str:
    import torch

    return torch.backends.cpu.get_cpu_capability()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, '+' where files differ from it; None for an installed package."""
    root = Path(magicplan.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        told = [
            subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in (
                ("rev-parse", "--short=12", "HEAD"),
                ("status", "--porcelain", "-uno", "--", "magicplan"),
            )
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return told[0] + ("+" if told[1] else "")


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _meminfo(name: str) -> float:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith(name + ":"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return pages / 2  # where nobody says what is free, half of what is there


def _number(path: str) -> float | None:
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return float(text) if text.isdigit() else None
