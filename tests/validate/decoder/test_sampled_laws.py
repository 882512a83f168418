"""Sampled verification yields exactly the target's law: by enumeration, not by statistics.

The acceptance rules themselves run (the slow twins that every backend is compared with, on equal
random numbers), but on scripted numbers. An outcome is a step function of each coin, so one value
inside every step, weighted by its width, integrates it exactly; a race yields every token, weighted
by its share. Deliberately broken rules go through the same enumeration and must fail.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from magicplan.kernels import reference
from magicplan.kernels.backend import Accepted, Noise, Topology

NOISE = Noise(
    seed=0, request=torch.zeros(1, dtype=torch.int32), step=torch.zeros(1, dtype=torch.int32)
)
Law = dict[tuple[int, ...], float]
Table = dict[tuple[int, ...], np.ndarray]
"""Law of the next token behind every text so far: the model."""


@dataclass
class Script:
    """Replaces the random numbers: each asked-for number goes through all its steps in turn.

    A run replays the digits chosen so far and takes the first step of whatever is asked newly;
    `weight` is the probability of the run's choices.
    """

    steps: dict[tuple[int, int], list[float]]
    digits: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    weight: float = 1.0

    def begin(self) -> None:
        self.sizes, self.weight = [], 1.0

    def advance(self) -> bool:
        """To the next run; False after the last."""
        self.digits = self.digits[: len(self.sizes)]
        while self.digits and self.digits[-1] + 1 == self.sizes[len(self.digits) - 1]:
            self.digits.pop()
        if not self.digits:
            return False
        self.digits[-1] += 1
        return True

    def choose(self, weights: list[float]) -> int:
        place = len(self.sizes)
        self.sizes.append(len(weights))
        if place == len(self.digits):
            self.digits.append(0)
        self.weight *= weights[self.digits[place]]
        return self.digits[place]

    def uniform(self, noise: Noise, b: int, *, stream: int, node: int, token: int = 0) -> float:
        edges = [0.0, *self.steps.get((stream, node), []), 1.0]
        widths = [high - low for low, high in itertools.pairwise(edges)]
        at = self.choose(widths)
        return (edges[at] + edges[at + 1]) / 2

    def race(self, weights: Tensor, noise: Noise, b: int, *, stream: int, node: int) -> int:
        shares = (weights / weights.sum()).tolist()
        return self.choose(shares)


def runs(
    monkeypatch: pytest.MonkeyPatch,
    rule: Callable[[], Accepted],
    steps: dict[tuple[int, int], list[float]],
) -> Iterator[tuple[float, Accepted]]:
    """Every outcome of a rule with its probability; impossible ones are left out."""
    script = Script(steps=steps)
    while True:
        script.begin()
        # set again before each run: enumerations may be nested
        monkeypatch.setattr(reference, "uniform", script.uniform)
        monkeypatch.setattr(reference, "race", script.race)
        accepted = rule()
        if script.weight > 0:
            yield script.weight, accepted
        if not script.advance():
            return


def logits(law: np.ndarray) -> Tensor:
    with np.errstate(divide="ignore"):
        return torch.tensor(np.log(law))


def random_law(rng: np.random.Generator, vocab: int) -> np.ndarray:
    """A law with zeros now and then."""
    weights = rng.random(vocab) * (rng.random(vocab) > 0.25)
    if not weights.any():
        weights[rng.integers(vocab)] = 1.0
    return np.asarray(weights / weights.sum())


def then_token_0(first: list[float]) -> Table:
    """A model of two tokens: the first by this law, the second always token 0."""
    vocab = len(first)
    model: Table = {(): np.array(first)}
    return model | {(token,): np.eye(vocab)[0] for token in range(vocab)}


def random_model(rng: np.random.Generator, vocab: int, length: int) -> Table:
    texts = (t for n in range(length) for t in itertools.product(range(vocab), repeat=n))
    return {text: random_law(rng, vocab) for text in texts}


def texts_of(model: Table, length: int, vocab: int) -> Law:
    """The model's own law of texts of a length."""
    law = {}
    for text in itertools.product(range(vocab), repeat=length):
        law[text] = math.prod(model[text[:i]][token] for i, token in enumerate(text))
    return law


def distance(left: Law, right: Law) -> float:
    """The largest difference between two laws."""
    keys = left.keys() | right.keys()
    return max(abs(left.get(key, 0.0) - right.get(key, 0.0)) for key in keys)


Rule = Callable[[Tensor, Tensor, Tensor], Accepted]


def leviathan(draft: Tensor, q: Tensor, p: Tensor) -> Accepted:
    return reference.accept_sampled(draft, q, p, NOISE)


def without_residual(draft: Tensor, q: Tensor, p: Tensor) -> Accepted:
    """Broken: what follows a rejection is drawn from the target, not from what is left of it."""
    right = leviathan(draft, q, p)
    count = int(right.count)
    token = reference.race(p[0, count].softmax(-1), NOISE, 0, stream=1, node=count)
    return Accepted(count=right.count, token=torch.tensor([token]))


def chain_block(
    monkeypatch: pytest.MonkeyPatch, rule: Rule, p: Table, q: Table, before: tuple[int, ...],
    gamma: int, vocab: int, drawn: bool = True,
) -> Iterator[tuple[float, tuple[int, ...]]]:  # fmt: skip
    """Every block that one round emits behind a text, with its probability.

    drawn: drafts are drawn from q; else q's most probable token is drafted with certainty.
    """
    for draft in itertools.product(range(vocab), repeat=gamma):
        laws = [q[before + draft[:i]] for i in range(gamma)]
        if drawn:
            probability = math.prod(law[token] for law, token in zip(laws, draft, strict=True))
        else:
            probability = float(draft == tuple(int(law.argmax()) for law in laws))
        if probability == 0:
            continue
        targets = [p[before + draft[:i]] for i in range(gamma + 1)]
        steps = {
            (reference.COIN, i): [targets[i][token] / laws[i][token]]
            for i, token in enumerate(draft)
            if 0 < targets[i][token] < laws[i][token]
        }
        arguments = (
            torch.tensor([draft]),
            logits(np.stack(laws))[None],
            logits(np.stack(targets))[None],
        )
        for weight, accepted in runs(monkeypatch, partial(rule, *arguments), steps):
            emitted = (*draft[: int(accepted.count)], int(accepted.token))
            yield probability * weight, emitted


def completed(blocks: Iterator[tuple[float, tuple[int, ...]]], p: Table, length: int,
              vocab: int) -> Law:  # fmt: skip
    """The law of texts of a length: blocks, cut or continued by plain decoding."""
    law: Law = defaultdict(float)
    for probability, block in blocks:
        missing = length - len(block)
        if missing <= 0:
            law[block[:length]] += probability
            continue
        for rest in itertools.product(range(vocab), repeat=missing):
            tail = math.prod(p[block + rest[:i]][token] for i, token in enumerate(rest))
            law[block + rest] += probability * tail
    return law


@pytest.mark.parametrize("vocab", [2, 3, 4])
def test_one_step_is_the_target_s_law(monkeypatch: pytest.MonkeyPatch, vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    for _ in range(25):
        p, q = random_model(rng, vocab, 2), random_model(rng, vocab, 2)
        blocks = list(chain_block(monkeypatch, leviathan, p, q, (), 1, vocab))
        assert distance(completed(iter(blocks), p, 2, vocab), texts_of(p, 2, vocab)) < 1e-12
        accepted = sum(weight for weight, block in blocks if len(block) == 2)
        assert accepted == pytest.approx(np.minimum(p[()], q[()]).sum(), abs=1e-12)


@pytest.mark.parametrize(("vocab", "gamma"), [(2, 3), (3, 2)])
def test_a_chain_s_joint_law_is_the_target_s(
    monkeypatch: pytest.MonkeyPatch, vocab: int, gamma: int
) -> None:
    rng = np.random.default_rng(17)
    for _ in range(4):
        p, q = random_model(rng, vocab, gamma + 1), random_model(rng, vocab, gamma)
        blocks = chain_block(monkeypatch, leviathan, p, q, (), gamma, vocab)
        law = completed(blocks, p, gamma + 1, vocab)
        assert distance(law, texts_of(p, gamma + 1, vocab)) < 1e-12


def test_consecutive_rounds_have_the_target_s_joint_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two speculative rounds after one another: independent, given the text."""
    vocab, gamma, rng = 2, 1, np.random.default_rng(5)
    p, q = random_model(rng, vocab, 4), random_model(rng, vocab, 4)
    blocks = [
        (first * second, one + two)
        for first, one in chain_block(monkeypatch, leviathan, p, q, (), gamma, vocab)
        for second, two in chain_block(monkeypatch, leviathan, p, q, one, gamma, vocab)
    ]
    assert distance(completed(iter(blocks), p, 4, vocab), texts_of(p, 4, vocab)) < 1e-12


def test_a_rule_without_residual_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    p = then_token_0([0.7, 0.2, 0.1])
    q = then_token_0([0.1, 0.3, 0.6])
    blocks = chain_block(monkeypatch, without_residual, p, q, (), 1, 3)
    assert distance(completed(blocks, p, 2, 3), texts_of(p, 2, 3)) > 0.1


def test_the_ratio_rule_on_a_deterministic_draft_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A most probable token is a point mass: comparing it with q accepts it too often."""
    p = then_token_0([0.5, 0.5])
    q = then_token_0([0.6, 0.4])
    blocks = chain_block(monkeypatch, leviathan, p, q, (), 1, 2, drawn=False)
    assert distance(completed(blocks, p, 2, 2), texts_of(p, 2, 2)) > 0.1


def test_a_point_mass_as_law_makes_a_deterministic_draft_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What TriForce pads a short chain with."""
    rng = np.random.default_rng(3)
    for _ in range(10):
        p = random_model(rng, 3, 2)
        q = then_token_0(np.eye(3)[rng.integers(3)].tolist())
        blocks = chain_block(monkeypatch, leviathan, p, q, (), 1, 3, drawn=False)
        assert distance(completed(blocks, p, 2, 3), texts_of(p, 2, 3)) < 1e-12


def test_reused_noise_fails_where_fresh_noise_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One coin and one race for two rounds: each token's own law is right, their joint law is not.

    The trap of drawing random numbers once a prompt: only consecutive tokens show it.
    """
    p = {t: np.array([0.7, 0.3]) for n in range(4) for t in itertools.product(range(2), repeat=n)}
    q = {t: np.array([0.4, 0.6]) for t in p}
    joint: dict[str, Law] = {"fresh": defaultdict(float), "reused": defaultdict(float)}
    # a round that drafts one token: everything random about it is (draft, coin, race)
    first = list(chain_block(monkeypatch, leviathan, p, q, (), 1, 2))
    for weight, block in first:
        joint["reused"][block[0], block[0]] += weight
        for again, other in first:
            joint["fresh"][block[0], other[0]] += weight * again
    expected = texts_of(p, 2, 2)
    single = {
        name: [sum(w for t, w in law.items() if t[0] == token) for token in range(2)]
        for name, law in joint.items()
    }
    assert single["reused"] == pytest.approx([0.7, 0.3]) == single["fresh"]
    assert distance(joint["fresh"], expected) < 1e-12
    assert distance(joint["reused"], expected) > 0.1


TREES = ((-1, 0), (-1, 0, 0), (-1, 0, 0, 1), (-1, 0, 0, 1, 1, 2), (-1, 0, 1, 2))


def tree_blocks(
    monkeypatch: pytest.MonkeyPatch, parents: tuple[int, ...], p: Table, tokens: dict[int, int],
) -> Iterator[tuple[float, tuple[int, ...]]]:  # fmt: skip
    """Every block of one round over a tree whose nodes carry `tokens`."""
    topology = Topology.of(parents)
    texts: list[tuple[int, ...]] = [()]
    for node in range(1, len(parents)):
        texts.append((*texts[parents[node]], tokens[node]))
    steps = {}
    for node in range(len(parents)):
        children = [c for c, parent in enumerate(parents) if parent == node]
        shares = np.cumsum([p[texts[node]][tokens[child]] for child in children])
        inside = sorted({float(s) for s in shares if 0 < s < 1 - 1e-15})
        steps[reference.COIN, node] = inside
    row = torch.tensor([[0, *(tokens[n] for n in range(1, len(parents)))]])
    targets = logits(np.stack([p[text] for text in texts]))[None]
    rule = partial(reference.accept_tree_sampled, topology, row, targets, NOISE)
    for weight, accepted in runs(monkeypatch, rule, steps):
        assert accepted.nodes is not None
        path = [n for n in accepted.nodes[0].tolist() if n >= 0]
        assert int(accepted.count) == len(path)
        yield weight, (*(tokens[n] for n in path), int(accepted.token))


@pytest.mark.parametrize("parents", TREES)
@pytest.mark.parametrize("vocab", [2, 3])
def test_a_whole_tree_s_joint_law_is_the_target_s(
    monkeypatch: pytest.MonkeyPatch, parents: tuple[int, ...], vocab: int
) -> None:
    """Whatever distinct tokens the children carry."""
    depth = int(Topology.of(parents).depths.max()) + 1
    rng = np.random.default_rng(len(parents))
    for _ in range(5):
        p = random_model(rng, vocab, depth)
        tokens: dict[int, int] = {}
        for node in range(len(parents)):
            children = [c for c, parent in enumerate(parents) if parent == node]
            tokens |= dict(zip(children, rng.permutation(vocab).tolist(), strict=False))
        blocks = list(tree_blocks(monkeypatch, parents, p, tokens))
        law = completed(iter(blocks), p, depth, vocab)
        assert distance(law, texts_of(p, depth, vocab)) < 1e-12
        if parents == (-1, 0, 0) and vocab == 2:  # all tokens are children
            assert sum(weight for weight, block in blocks if len(block) == 2) == pytest.approx(1)


def test_a_tree_with_equal_siblings_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule needs distinct siblings, and the enumeration sees it when they are not."""
    p = then_token_0([0.5, 0.3, 0.2])
    blocks = tree_blocks(monkeypatch, (-1, 0, 0), p, {1: 0, 2: 0})
    assert distance(completed(blocks, p, 2, 3), texts_of(p, 2, 3)) > 0.1
