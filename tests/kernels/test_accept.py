"""Acceptance of every backend against the slow twin, with the same random numbers."""

from __future__ import annotations

import pytest
import torch

from magicplan.errors import UsageError
from magicplan.kernels import reference, torch_accept
from magicplan.kernels.backend import Accepted, Noise, Topology
from tests.kernels.cases import BACKENDS, DEVICE, backend_or_skip, generator, noise, randn

VOCAB = 37
TREE = (-1, 0, 0, 0, 1, 1, 2, 4, 4)


def moved(noise: Noise) -> Noise:
    return Noise(
        seed=noise.seed, request=noise.request.to(DEVICE), step=noise.step.to(DEVICE)
    )  # fmt: skip


def same(mine: Accepted, twin: Accepted) -> None:
    assert mine.count.dtype == torch.int32
    assert mine.token.dtype == torch.int64
    assert mine.count.tolist() == twin.count.tolist()
    assert mine.token.tolist() == twin.token.tolist()
    if twin.nodes is None:
        assert mine.nodes is None
    else:
        assert mine.nodes is not None
        assert mine.nodes.dtype == torch.int32
        assert mine.nodes.tolist() == twin.nodes.tolist()


def tokens(seed: int, *size: int, vocab: int = VOCAB) -> torch.Tensor:
    return torch.randint(0, vocab, size, generator=generator(seed))


def distinct_siblings(batch: int, size: int) -> torch.Tensor:
    """[batch, size] tokens that differ within a sequence."""
    order = [torch.randperm(VOCAB, generator=generator(b))[:size] for b in range(batch)]
    return torch.stack(order)


@pytest.mark.parametrize("gamma", [1, 4, 7])
@pytest.mark.parametrize("name", BACKENDS)
def test_greedy_accepts_up_to_the_first_difference(name: str, gamma: int) -> None:
    backend = backend_or_skip(name)
    batch = gamma + 1
    logits = randn(gamma, batch, gamma + 1, VOCAB)
    draft = logits.argmax(-1)[:, :gamma].clone()
    for b in range(gamma):
        draft[b, b] = (draft[b, b] + 1) % VOCAB
    twin = reference.accept_greedy(draft, logits)
    assert twin.count.tolist() == [*range(gamma), gamma]
    same(backend.accept_greedy(draft.to(DEVICE), logits.to(DEVICE)), twin)
    same(backend.accept_greedy(draft.to(DEVICE), logits.argmax(-1).to(DEVICE)), twin)


@pytest.mark.parametrize("name", BACKENDS)
def test_the_lowest_of_equal_logits_is_chosen(name: str) -> None:
    logits = torch.zeros(1, 2, 5000)
    logits[0, 0, [4999, 2100, 7]] = 1.0
    logits[0, 1, [2049, 4097]] = 1.0
    draft = torch.tensor([[7]], device=DEVICE)
    out = backend_or_skip(name).accept_greedy(draft, logits.to(DEVICE))
    assert (out.count.tolist(), out.token.tolist()) == ([1], [2049])


@pytest.mark.parametrize("closeness", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("name", BACKENDS)
def test_sampled_chains_are_the_twins(name: str, closeness: float) -> None:
    """From a draft that equals the target (all accepted) to one that is another law."""
    backend = backend_or_skip(name)
    batch, gamma = 24, 3
    target = 2 * randn(1, batch, gamma + 1, VOCAB)
    guess = target[:, :gamma] + closeness * randn(2, batch, gamma, VOCAB)
    guess[:, :, 5] = -torch.inf
    laws = guess.softmax(-1).flatten(0, 1)
    draft = torch.multinomial(laws, 1, generator=generator(6)).view(batch, gamma)
    twin = reference.accept_sampled(draft, guess, target, noise(batch))
    if closeness == 1.0:
        assert set(twin.count.tolist()) == {0, 1, 2, 3}
    mine = backend.accept_sampled(
        draft.to(DEVICE), guess.to(DEVICE), target.to(DEVICE), moved(noise(batch))
    )
    same(mine, twin)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_draft_that_the_target_excludes_is_rejected(name: str) -> None:
    target = randn(1, 4, 2, VOCAB)
    target[:, 0, 3] = -torch.inf
    guess = torch.full((4, 1, VOCAB), -torch.inf)
    guess[:, :, 3] = 0.0
    draft = torch.full((4, 1), 3)
    out = backend_or_skip(name).accept_sampled(
        draft.to(DEVICE), guess.to(DEVICE), target.to(DEVICE), moved(noise(4))
    )
    same(out, reference.accept_sampled(draft, guess, target, noise(4)))
    assert out.count.tolist() == [0] * 4
    assert 3 not in out.token.tolist()


@pytest.mark.parametrize("parents", [(-1,), (-1, 0, 1, 2), TREE], ids=["root", "chain", "tree"])
@pytest.mark.parametrize("name", BACKENDS)
def test_trees_are_the_twins(name: str, parents: tuple[int, ...]) -> None:
    backend = backend_or_skip(name)
    batch, size = 24, len(parents)
    tree, on_device = Topology.of(parents), Topology.of(parents, DEVICE)
    drafted = distinct_siblings(batch, size)
    logits = randn(3, batch, size, VOCAB)
    for b in range(batch):  # what is drafted is likely, so that walks go deep
        for node, parent in enumerate(parents[1:], 1):
            logits[b, parent, drafted[b, node]] += 3.0
    twin = reference.accept_tree_greedy(tree, drafted, logits)
    mine = backend.accept_tree_greedy(on_device, drafted.to(DEVICE), logits.to(DEVICE))
    same(mine, twin)
    sampled = reference.accept_tree_sampled(tree, drafted, logits, noise(batch))
    if parents == TREE:
        assert set(twin.count.tolist()) == {0, 1, 2, 3}
        assert set(sampled.count.tolist()) == {0, 1, 2, 3}
    same(
        backend.accept_tree_sampled(
            on_device, drafted.to(DEVICE), logits.to(DEVICE), moved(noise(batch))
        ),
        sampled,
    )


@pytest.mark.parametrize("name", BACKENDS)
def test_samples_are_the_twins(name: str) -> None:
    backend = backend_or_skip(name)
    logits = randn(4, 16, VOCAB)
    for node in (0, 3):
        twin = reference.sample(logits, noise(16), node=node)
        mine = backend.sample(logits.to(DEVICE), moved(noise(16)), node=node)
        assert mine.tolist() == twin.tolist()


@pytest.mark.parametrize("name", BACKENDS)
def test_half_precision_logits_and_a_vocabulary_of_several_blocks(name: str) -> None:
    """Against the vectorised torch twin: 5,000 tokens in the slow one would take seconds."""
    backend, twin = backend_or_skip(name), backend_or_skip("torch")
    target, guess = (2 * randn(s, 3, 3, 5000, dtype=torch.float16) for s in (1, 2))
    draft = tokens(3, 3, 2, vocab=5000)
    guess = guess[:, :2]
    expected = twin.accept_sampled(draft, guess, target, noise(3))
    mine = backend.accept_sampled(
        draft.to(DEVICE), guess.to(DEVICE), target.to(DEVICE), moved(noise(3))
    )
    same(mine, expected)


def test_the_generator_is_philox() -> None:
    """Random123's known answers for philox4x32-10: zero counter and key, and all ones."""
    ones = 0xFFFFFFFF
    assert reference.philox(0, (0, 0, 0, 0)) == 0x6627E8D5
    assert reference.philox(ones << 32 | ones, (ones,) * 4) == 0x408F276D
    counter = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    assert reference.philox(0x299F31D0 << 32 | 0xA4093822, counter) == 0xD16CFE09
    a, b, c, d = (torch.tensor([c]) for c in counter)
    assert torch_accept.philox(0x299F31D0 << 32 | 0xA4093822, (a, b, c, d)).item() == 0xD16CFE09


def test_numbers_differ_by_request_step_node_stream_and_token() -> None:
    base = noise(2, step=1)
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    draws = [
        torch_accept.uniform(base, 0, zero, torch.arange(2)),
        torch_accept.uniform(base, 0, one, torch.arange(2)),
        torch_accept.uniform(base, 1, zero, torch.arange(2)),
        torch_accept.uniform(noise(2, step=2), 0, zero, torch.arange(2)),
        torch_accept.uniform(noise(2, step=1, seed=8), 0, zero, torch.arange(2)),
    ]
    assert torch.cat(draws).unique().numel() == 20


def test_a_race_draws_by_weight() -> None:
    """100,000 requests, five weights: chi-square of 4 degrees below its 99.9 % point."""
    batch = 100_000
    weights = torch.tensor([0.02, 0.5, 0.08, 0.3, 0.1]).expand(batch, -1)
    drawn = torch_accept.race(weights, noise(batch), 0, torch.zeros(1, 1))
    seen = drawn.bincount(minlength=5)
    expected = batch * weights[0]
    assert float(((seen - expected) ** 2 / expected).sum()) < 18.5


@pytest.mark.parametrize("parents", [(), (0,), (-1, -1), (-1, 1), (-1, 2, 0)])
def test_what_is_no_tree_is_refused(parents: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"tree|parent"):
        Topology.of(parents)


def test_a_topology_links_children_in_order() -> None:
    tree = Topology.of(TREE)
    assert tree.depths.tolist() == [0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert tree.first_child.tolist() == [1, 4, 6, -1, 7, -1, -1, -1, -1]
    assert tree.next_sibling.tolist() == [-1, 2, 3, -1, 5, -1, -1, 8, -1]
    assert tree.ancestors.tolist() == [1, 3, 5, 9, 19, 35, 69, 147, 275]
    assert tree.levels == 3
    wide = Topology.of((-1, *[0] * 64, 64))
    assert wide.ancestors.shape == (66, 2)
    assert wide.ancestors[65].tolist() == [1, 3]
    assert wide.ancestors[63].tolist() == [1 - 2**63, 0]
