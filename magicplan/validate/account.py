"""The account of a validation: what it shows, its flags and its verdict in words, and its JSON."""

from __future__ import annotations

from statistics import mean
from typing import Any

from magicplan.units import human_bytes, human_rate, human_seconds, human_tokens
from magicplan.validate.compare import PointVerdict, RunComparison, rule, summary

DEVICE = ("name", "device", "driver", "torch", "triton", "magicplan", "commit", "dtype", "threads")
SCHEMA = "magicplan.validation/1"


def flagged(c: RunComparison) -> list[str]:
    """Doubts about points, one line a kind of doubt with its worst case."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for p in c.points:
        for flag in p.flags:
            kinds.setdefault(flag.split()[0], []).append((flag, name_of(p)))
    return [
        f"{flag} ({name}{f', and {len(found) - 1} more points' if found[1:] else ''})"
        for found in kinds.values()
        for flag, name in [max(found)]
    ]


def headline(c: RunComparison) -> str:
    """Model, draft and device in one line."""
    device = c.run.header["device"]
    kind = " (random weights)" if _weights(c) == "random" else ""
    return (
        f"{c.content['model']}{kind}, draft {c.content['draft']}, acceptance "
        f"{c.content['acceptance_origin']}, {c.run.header['settings'].get('backend')} backend on "
        f"{'' if _ranks(c) == 1 else f'{_ranks(c)} x '}{device['name']} ({device['device']})"
    )


def _weights(c: RunComparison) -> str:
    """checkpoint or random; '' in a run file that did not store it."""
    stored, source = c.run.header["settings"].get("weights"), c.content["acceptance_origin"]
    told = {"checkpoint": "checkpoint", "dialled": "random"}.get(source.partition(":")[0], "")
    return str(stored or told)


def _weights_told(c: RunComparison) -> str:
    """A clause on the origin of the target's weights, and of a draft model's if there is one."""
    settings, seed = c.run.header["settings"], c.run.header["device"]["seed"]

    def told(kind: str, name: Any) -> str:
        return f"the checkpoint {name}" if kind == "checkpoint" else f"random weights, seed {seed}"

    if not (kind := _weights(c)):
        return "weights: this run file does not say whether they were random or a checkpoint's"
    draft = settings.get("draft_weights")
    behind = f"; of the draft: {told(draft, settings.get('draft'))}" if draft else ""
    return f"weights: {told(kind, settings.get('model'))}{behind}"


def _ranks(c: RunComparison) -> int:
    return int(c.run.header["settings"].get("ranks", 1))


def _length(p: PointVerdict) -> str:
    return p.draft_length if "tree" in p.what else f"gamma {p.draft_length}"


def name_of(p: PointVerdict) -> str:
    """A point in words."""
    return f"batch {p.batch}, {human_tokens(p.ctx_tokens)}, {_length(p)}"


def shown(c: RunComparison) -> list[str]:
    """The largest gain, the largest loss, the draft length, and whether signs were right."""
    measured = [p for p in c.points if p.measured]
    if not measured:
        return ["nothing was measured"]
    best = max(measured, key=lambda p: p.measured["speedup"])
    worst = min(measured, key=lambda p: p.measured["speedup"])
    lines = [_gain("largest", best), _gain("smallest", worst)]
    clear = [p for p in measured if _decided(p)]
    right = sum((p.measured["speedup"] > 1) == (p.predicted["speedup"] > 1) for p in clear)
    if clear:
        lines.append(
            f"faster or slower as predicted in {right} of {len(clear)} points whose interval does "
            "not hold 1"
        )
    for cell, lost in c.regrets.items():
        lines.append(f"predicted best draft length at {cell}: {lost:.1f} % below the measured best")
    return lines


def _decided(p: PointVerdict) -> bool:
    """Is speculation measured to be faster, or slower, beyond its 95 % interval?"""
    return not p.measured["speedup_low"] <= 1 <= p.measured["speedup_high"]


def _gain(which: str, p: PointVerdict) -> str:
    m = p.measured
    kind = (
        "not decided, the interval holds 1" if not _decided(p)
        else "speculation wins" if m["speedup"] > 1
        else "speculation loses"
    )  # fmt: skip
    return (
        f"{which} speedup {m['speedup']:.2f}x [{m['speedup_low']:.2f}, {m['speedup_high']:.2f}] at "
        f"{name_of(p)}: {kind}; predicted {p.predicted['speedup']:.2f}x, ideal "
        f"{p.ideal['speedup']:.2f}x"
    )


def _sums(sums: list[dict[str, float]], ranks: int) -> str:
    """Sums over ranks, measured beside fitted and beside the link alone."""
    error = 100 * mean(abs(s["fitted"] / s["seconds"] - 1) for s in sums)
    naive = 100 * mean(abs(s["ideal"] / s["seconds"] - 1) for s in sums)
    ends = "; ".join(
        f"{human_bytes(s['bytes'])} {human_seconds(s['seconds'])}, fitted "
        f"{human_seconds(s['fitted'])}"
        for s in (sums[0], sums[len(sums) // 2], sums[-1])
    )
    return (
        f"all-reduce over {ranks} ranks, {len(sums)} sizes: {ends}; MAPE {error:.0f} %, of the "
        f"link alone {naive:.0f} %"
    )


def basis(c: RunComparison) -> list[str]:
    """What every number rests on."""
    device, ceilings, content = c.run.header["device"], c.run.ceilings or {}, c.content
    exact = c.run.exactness or {}
    equal = "equals" if exact.get("greedy_equal") else "DIFFERS from"
    versions = ", ".join(f"{k} {device[k]}" for k in DEVICE[2:] if device.get(k) is not None)
    passes = ", ".join(f"{k}: {v:.2f}" for k, v in content["verify_kv_passes"].items())
    lines = [
        f"exactness: greedy output with drafts {equal} plain decoding "
        f"({', '.join(exact.get('drafts', {}))}; in fp32, before any timing)",
        _weights_told(c),
        f"device: {versions}, seed {device['seed']}, load {device['load_average']}",
    ]
    if ceilings:
        peaks = ", ".join(
            f"{k} {v / 1e9:.0f} GFLOP/s" for k, v in ceilings["matrix_flops_per_s"].items()
        )
        lines.append(
            f"ceilings, best of three: read {human_rate(ceilings['read_bytes_per_s'])}, copy "
            f"{human_rate(ceilings['copy_bytes_per_s'])}, {peaks}, launch "
            f"{1e6 * ceilings['launch_seconds']:.2g} us"
        )
    if sums := content.get("all_reduce"):
        lines.append(_sums(sums, int(ceilings["ranks"])))
    fit = content["fit_percent"]
    lines += [
        f"calibrated on {len(content['calibrated_on'])} other points, {fit['rows']} steps: MAPE "
        f"{fit['mape']:.1f} % there",
        f"attention over that of one query token: {passes}",
        f"prediction sha256 {c.digest[:16]}, written before the first point",
        _timing(device, _ranks(c)),
        _acceptance(content["acceptance_origin"], c.run.header["settings"].get("text")),
    ]
    return lines


def _timing(device: dict[str, Any], ranks: int) -> str:
    if device["device"] == "cuda":
        return "times: medians of CUDA-graph replays between events, 95 % bootstrap intervals"
    what = "the thread's own time" if device["threads"] == ranks == 1 else "wall time"
    return f"times: medians of {what}, 95 % bootstrap intervals, {device['threads']} thread(s)"


def _acceptance(origin: str, text: str | None) -> str:
    if origin.startswith("simulated"):
        return f"acceptance {origin}: accepted tokens are drawn at random; no real model"
    if origin.startswith("dialled"):
        return f"acceptance {origin}: the real accept path on scaled random weights; no real model"
    return f"acceptance {origin}: the real accept path on {text or 'Python source code'}"


def verdict(c: RunComparison) -> str:
    """The last sentences: the outcome, the rule, and the error of what follows from it."""
    share = f"{c.count('pass')} of {c.judged} judged points pass"
    skipped = f", {c.count('skipped')} skipped" if c.count("skipped") else ""
    impossible = f", {c.count('impossible')} faster than possible" if c.count("impossible") else ""
    speedup = c.errors.get("speedup")
    error = (
        f" Speedup, which follows from them, is not judged: MAPE {speedup.mape:.1f} %, bias "
        f"{speedup.bias:+.1f} %." if speedup else ""
    )  # fmt: skip
    return (
        f"Verdict: {'pass' if c.passed else 'fail'}. {share}{impossible}{skipped}; a point passes "
        f"where the 95 % intervals of its times reach {rule(c.tolerance)}.{error}"
    )


def as_dict(c: RunComparison) -> dict[str, Any]:
    """The contract's document."""
    content = c.content
    return {
        "schema": SCHEMA,
        "device": c.run.header["device"],
        "settings": c.run.header["settings"],
        "ceilings": {k: v for k, v in (c.run.ceilings or {}).items() if k != "kind"},
        "points": [
            {
                "id": p.id,
                "batch": p.batch,
                "ctx_tokens": p.ctx_tokens,
                "draft": content["draft"],
                **p.what,
                "acceptance_origin": content["acceptance_origin"],
                "measured": p.measured or None,
                "predicted": p.predicted,
                "ideal": p.ideal,
                "verdict": p.verdict,
                "reason": p.reason,
                "flags": list(p.flags),
            }
            for p in c.points
        ],
        "summary": summary(c) | {"verdict_text": verdict(c)},
        "headline": headline(c),
        "shown": shown(c),
        "flags": flagged(c),
        "basis": basis(c),
        "regrets_percent": c.regrets,
        "exactness": {k: v for k, v in (c.run.exactness or {}).items() if k != "kind"},
        "prediction_sha256": c.digest,
        "calibration": content["calibration"],
        "verify_kv_passes": content["verify_kv_passes"],
    }
