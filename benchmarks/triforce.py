"""What do TriForce's published stage latencies promise, beside the speedup that it published?

One A100, Llama-2-7B-128K at 122K tokens (TriForce, arXiv 2404.11912): .45 ms a step of the 68M
draft, 14 ms a pass over the retrieval cache, 56 ms a target step. Of the small model's tokens .63
survive the middle pass, of the middle's .9649 the target. Published: 2.31x at gamma1 2, gamma2 6.
Nothing is fitted; docs/residuals.md says what is known of the difference.

    python benchmarks/triforce.py
"""

from __future__ import annotations

from magicplan.roofline.acceptance import Iid, tokens_per_round

DRAFT, RETRIEVAL, TARGET = 0.45e-3, 14e-3, 56e-3
PUBLISHED = {(1, 6): 2.30, (2, 6): 2.31}


def predicted(gamma1: int, gamma2: int) -> float:
    """Speedup over plain decoding, from the stages alone."""
    middle = tokens_per_round(Iid(alpha=0.63, origin="68M draft").survival(gamma1, 1.0))[-1]
    outer = tokens_per_round(Iid(alpha=0.9649, origin="retrieval").survival(gamma2, 1.0))[-1]
    token = (gamma1 * DRAFT + RETRIEVAL) / middle
    return float(TARGET * outer / (gamma2 * token + TARGET))


def main() -> None:
    for (gamma1, gamma2), seen in PUBLISHED.items():
        promised = predicted(gamma1, gamma2)
        emitted = tokens_per_round(Iid(alpha=0.9649, origin="retrieval").survival(gamma2, 1.0))[-1]
        missing = TARGET * float(emitted) * (1 / seen - 1 / promised)
        print(
            f"gamma1 {gamma1}, gamma2 {gamma2}: stages promise {promised:.2f}x, "
            f"published {seen:.2f}x, {missing * 1e3:.0f} ms a round unaccounted for"
        )
    best = max(((a, b) for a in range(1, 5) for b in range(1, 17)), key=lambda g: predicted(*g))
    print(f"best by the stages: gamma1 {best[0]}, gamma2 {best[1]}: {predicted(*best):.2f}x")


if __name__ == "__main__":
    main()
