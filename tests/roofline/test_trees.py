"""Trees against brute force, the published vector's golden values, and the laws of the optimum."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magicplan.errors import UsageError
from magicplan.roofline.trees import (
    Tree,
    best_trees,
    fitted_power_law,
    non_increasing,
    power_law,
)

# acceptance-rate-vector.pt of the Sequoia repository (arXiv 2402.12374); multiples of 1/667
SEQUOIA = np.array([
    0.63418293, 0.1079460233, 0.0569715127, 0.0224887561, 0.019490255, 0.0149925034,
    0.0044977511, 0.0029985008, 0.0119940033, 0.0044977511, 0.0074962517, 0.0044977511,
    0.0059970017, 0.0029985008, 0.0014992504, 0.0029985008, 0.0014992504, 0.0029985008,
    0, 0.0029985008, 0.0029985008, 0.0029985008, 0, 0.0014992504,
    0, 0.0014992504, 0, 0, 0, 0.0014992504,
    0.0014992504, 0.0014992504,
])  # fmt: skip
GOLDEN_RAW = {16: 3.13029, 32: 3.50074, 64: 3.85231, 128: 4.19211, 256: 4.52908, 512: 4.85344}
GOLDEN_SORTED = {64: 3.857130, 128: 4.197757, 256: 4.534022, 512: 4.862148}


def ordered_trees(size: int) -> Iterator[tuple[int, ...]]:
    """Parents of every tree shape of `size` nodes, in any order that puts parents first."""
    for parents in product(*(range(node) for node in range(1, size))):
        yield (-1, *parents)


def brute_force(ranks: np.ndarray, size: int, depth: int) -> float:
    """Largest worth over all trees; -inf where the ranks allow none."""
    by_level = np.atleast_2d(ranks)
    best = -np.inf
    for parents in ordered_trees(size):
        worth, level, children = [1.0], [0], [0] * size
        for node in range(1, size):
            parent = parents[node]
            rank, at = children[parent], by_level[min(level[parent], len(by_level) - 1)]
            if rank >= at.size or level[parent] + 2 > depth:
                break
            children[parent] += 1
            level.append(level[parent] + 1)
            worth.append(worth[parent] * at[rank])
        else:
            best = max(best, sum(worth))
    return best


def vectors(size: int = 4) -> st.SearchStrategy[np.ndarray]:
    return (
        st.lists(st.floats(0, 1), min_size=1, max_size=size)
        .map(np.array)
        .map(lambda v: v / max(1.0, v.sum()))
    )


@pytest.mark.parametrize(("size", "tokens"), GOLDEN_RAW.items())
def test_golden_values_of_the_raw_vector(size: int, tokens: float) -> None:
    table = best_trees(SEQUOIA, 512, 10)
    assert table.expected_tokens[9, size - 1] == pytest.approx(tokens, abs=6e-6)


@pytest.mark.parametrize(("size", "tokens"), GOLDEN_SORTED.items())
def test_golden_values_of_the_sorted_vector(size: int, tokens: float) -> None:
    table = best_trees(np.sort(SEQUOIA)[::-1], 512, 10)
    assert table.expected_tokens[9, size - 1] == pytest.approx(tokens, abs=6e-7)


@given(ranks=vectors(), depth=st.integers(1, 5))
def test_any_ranks_equal_brute_force(ranks: np.ndarray, depth: int) -> None:
    table = best_trees(ranks, 6, depth)
    for size in range(1, 7):
        expected = brute_force(ranks, size, depth)
        assert table.expected_tokens[depth - 1, size - 1] == pytest.approx(expected, abs=1e-12)


@given(rows=st.lists(vectors(3), min_size=2, max_size=3))
def test_ranks_that_depend_on_depth_equal_brute_force(rows: list[np.ndarray]) -> None:
    ranks = np.zeros((len(rows), 3))
    for row, values in zip(ranks, rows, strict=True):
        row[: values.size] = values
    table = best_trees(ranks, 5, 4)
    for size in range(1, 6):
        expected = brute_force(ranks, size, 4)
        assert table.expected_tokens[3, size - 1] == pytest.approx(expected, abs=1e-12)


@given(ranks=vectors(6).map(non_increasing), depth=st.integers(2, 6))
def test_merging_levels_equals_the_dynamic_programme(ranks: np.ndarray, depth: int) -> None:
    merged = best_trees(ranks, 40, depth)
    # the same ranks, made to look unsorted by a worthless rank before a tiny one
    from magicplan.roofline.trees import _checked, _programme

    programme = _programme(_checked(ranks, 40, depth, None)[0], 40, depth)
    np.testing.assert_allclose(merged.expected_tokens, programme.expected_tokens, atol=1e-12)


def test_greedy_loses_where_ranks_increase() -> None:
    # the star takes ranks 1 to 3: 1 + .4 + .05 + .5; the chain has 1 + .4 + .16 + .064
    table = best_trees(np.array([0.4, 0.05, 0.5]), 4, 4)
    assert table.expected_tokens[3, 3] == pytest.approx(1.95)
    assert table.tree(4, 4).parents == (-1, 0, 0, 0)


@given(
    first=vectors(3).map(non_increasing),
    second=vectors(3).map(non_increasing),
    share=st.floats(0, 1),
)
def test_mixtures_equal_brute_force(first: np.ndarray, second: np.ndarray, share: float) -> None:
    ranks = np.zeros((2, 3))
    ranks[0, : first.size], ranks[1, : second.size] = first, second
    weights = np.array([share, 1 - share])
    table = best_trees(ranks, 5, 4, weights)
    best = max(
        float(weights @ [sum(_worth(parents, row)) for row in ranks])
        for parents in ordered_trees(5)
        if max(_children(parents)) <= 3 and Tree(parents=_sorted(parents)).depth <= 4
    )
    assert table.expected_tokens[3, 4] == pytest.approx(best, abs=1e-12)


def _children(parents: tuple[int, ...]) -> list[int]:
    return [parents.count(node) for node in range(len(parents))]


def _sorted(parents: tuple[int, ...]) -> tuple[int, ...]:
    """The same tree breadth first."""
    from magicplan.roofline.trees import _breadth_first

    return _breadth_first(list(parents)).parents


def _worth(parents: tuple[int, ...], ranks: np.ndarray) -> list[float]:
    worth, seen = [1.0], [0] * len(parents)
    for parent in parents[1:]:
        worth.append(worth[parent] * ranks[seen[parent]])
        seen[parent] += 1
    return worth


@given(ranks=vectors(6), size=st.integers(1, 40), depth=st.integers(1, 6))
def test_a_tree_is_worth_what_its_table_says(ranks: np.ndarray, size: int, depth: int) -> None:
    table = best_trees(ranks, 40, depth)
    tokens = table.expected_tokens[depth - 1, size - 1]
    if not np.isfinite(tokens):
        with pytest.raises(UsageError, match="no tree"):
            table.tree(size, depth)
        return
    tree = table.tree(size, depth)
    widths = table.widths[depth - 1, size - 1]
    assert tree.size == size
    assert tree.depth <= depth
    assert tree.expected_tokens(ranks) == pytest.approx(tokens, abs=1e-12)
    assert tuple(widths[: tree.depth]) == tree.level_widths
    assert widths.sum() == size


@given(ranks=vectors(6), size=st.integers(1, 30), depth=st.integers(1, 6))
def test_survival_by_level_is_the_worth_of_the_level(
    ranks: np.ndarray, size: int, depth: int
) -> None:
    table = best_trees(ranks, 30, depth)
    if not np.isfinite(table.expected_tokens[depth - 1, size - 1]):
        assert (table.survival[depth - 1, size - 1] == 0).all()
        return
    tree = table.tree(size, depth)
    by_level = np.bincount(tree.levels, weights=tree.weights(ranks))
    found = table.survival[depth - 1, size - 1]
    np.testing.assert_allclose(found[: by_level.size], by_level, atol=1e-12)
    # the tokens emitted are 1 + the deepest accepted level: their variance from the distribution
    reach = np.append(by_level, 0.0)
    chance, tokens = reach[:-1] - reach[1:], np.arange(1, reach.size)
    variance = chance @ tokens**2 - (chance @ tokens) ** 2
    assert table.variance[depth - 1, size - 1] == pytest.approx(variance, abs=1e-9)


def test_paths_name_every_node() -> None:
    tree = Tree(parents=(-1, 0, 0, 1, 1, 2, 4))
    assert tree.paths == ((0,), (1,), (0, 0), (0, 1), (1, 0), (0, 1, 0))


@given(
    first=vectors(3).map(non_increasing),
    second=vectors(3).map(non_increasing),
    share=st.floats(0, 1),
    size=st.integers(1, 20),
)
def test_a_mixture_s_tree_is_worth_what_its_table_says(
    first: np.ndarray, second: np.ndarray, share: float, size: int
) -> None:
    ranks = np.zeros((2, 1, 3))
    ranks[0, 0, : first.size], ranks[1, 0, : second.size] = first, second
    shares = np.array([share, 1 - share])
    table = best_trees(ranks, 20, 4, shares)
    if np.isfinite(table.expected_tokens[3, size - 1]):
        emitted = table.tree(size, 4).expected_tokens(ranks, shares)
        assert emitted == pytest.approx(table.expected_tokens[3, size - 1], abs=1e-12)


def test_a_chain_is_the_geometric_sum() -> None:
    table = best_trees(np.array([0.8]), 8, 8)
    assert table.expected_tokens[7, 7] == pytest.approx((1 - 0.8**8) / 0.2)
    assert table.tree(8, 8) == Tree.chain(7)


@given(ranks=vectors(8).map(non_increasing))
def test_smooth_tables_are_concave_and_nested(ranks: np.ndarray) -> None:
    table = best_trees(ranks, 30, 5)
    row = table.expected_tokens[4]
    gains = np.diff(row[np.isfinite(row)])
    assert (np.diff(gains) <= 1e-12).all()


def test_mask_is_the_ancestors() -> None:
    tree = Tree(parents=(-1, 0, 0, 1))
    assert tree.mask().astype(int).tolist() == [
        [1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1],
    ]  # fmt: skip


@given(first=st.floats(0.5, 0.95), decay=st.floats(0.05, 1.0))
def test_a_power_law_is_recovered(first: float, decay: float) -> None:
    ranks = power_law(first, decay, 16)
    np.testing.assert_allclose(fitted_power_law(ranks), ranks, atol=1e-12)


def test_the_published_vector_as_a_power_law() -> None:
    """Its trees lose less than .7 % on the raw vector, and promise 2 % less than it gives."""
    table = best_trees(fitted_power_law(SEQUOIA), 512, 10)
    for size, tokens in GOLDEN_RAW.items():
        assert table.tree(size, 10).expected_tokens(SEQUOIA) > 0.993 * tokens
        assert 0.98 < table.expected_tokens[9, size - 1] / tokens < 1


def test_power_law_and_pooling() -> None:
    ranks = power_law(0.6, 0.5, 4)
    assert 1 - ranks.sum() == pytest.approx(0.4 * 4**-0.5)
    assert non_increasing(np.array([0.4, 0.1, 0.3])).tolist() == pytest.approx([0.4, 0.2, 0.2])


@pytest.mark.parametrize(
    ("parents", "wrong"),
    [((), "root"), ((0,), "root"), ((-1, -1), "second root"), ((-1, 2, 1), "earlier node"),
     ((-1, 0, 1, 0), "breadth-first")],
)  # fmt: skip
def test_what_is_no_tree_is_refused(parents: tuple[int, ...], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        Tree(parents=parents)


@pytest.mark.parametrize(
    ("ranks", "size", "depth"),
    [([0.9, 0.9], 4, 4), ([1.2], 4, 4), ([-0.1], 4, 4), ([float("nan")], 4, 4), ([], 4, 4),
     ([0.5], 0, 4), ([0.5], 4, 0), ([0.5], 10**6, 4)],
)  # fmt: skip
def test_ranks_that_make_no_sense_are_refused(ranks: list[float], size: int, depth: int) -> None:
    with pytest.raises(UsageError):
        best_trees(np.array(ranks), size, depth)


def test_beams_of_a_table_are_those_of_its_trees() -> None:
    """By merging and by the dynamic programme; a beam holds every parent and every sibling."""
    rng = np.random.default_rng(5)
    for falling in (True, False):
        ranks = rng.dirichlet(np.ones(7))[:6]
        table = best_trees(np.sort(ranks)[::-1] if falling else ranks, 20, 5)
        for depth, size in np.argwhere(np.isfinite(table.expected_tokens)):
            tree = table.tree(int(size) + 1, int(depth) + 1)
            assert table.beams[depth, size] == tree.beam
            parents = [tree.levels[p] for p in set(tree.parents[1:])]
            assert all(parents.count(level) <= tree.beam for level in range(tree.depth))
            assert max(tree.ranks) < tree.beam
    assert Tree.chain(4).beam == Tree.chain(0).beam == 1
    assert Tree(parents=(-1, 0, 0, 0)).beam == 3
    assert Tree(parents=(-1, 0, 0, 1, 2)).beam == 2
