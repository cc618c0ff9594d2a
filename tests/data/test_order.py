from __future__ import annotations

import itertools

import pytest
import torch

from timestepper.data.order import generator, permutation, shares


def test_permutation_is_a_function_of_seed_and_epoch():
    first = permutation(100, 1, 2)
    assert torch.equal(first, permutation(100, 1, 2))
    assert sorted(first.tolist()) == list(range(100))
    others = [permutation(100, seed, epoch) for seed, epoch in ((1, 3), (2, 2), (2, 1), (-1, 2))]
    for one, other in itertools.combinations([first, *others], 2):
        assert not torch.equal(one, other)


def test_generators_of_different_purpose_differ():
    draws = {torch.rand(1, generator=generator(0, 0, purpose)).item() for purpose in range(10)}
    assert len(draws) == 10


@pytest.mark.parametrize("count", [1, 7, 24, 25, 29, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("even", [False, True])
def test_ranks_share_each_global_batch(count, world_size, even):
    batch = 4
    ranks = [
        shares(count, batch, rank, world_size, even=even, drop_last=False)
        for rank in range(world_size)
    ]
    whole = shares(count, batch * world_size, 0, 1, even=even, drop_last=False)
    order = list(range(count))
    seen = []
    for number, one in enumerate(whole):
        together = [i for rank in ranks for s in rank[number : number + 1] for i in order[s]]
        seen += together
        if even:
            assert set(together) <= set(order[one])
        else:
            assert together == order[one]
    if even:
        assert len({tuple(s.stop - s.start for s in rank) for rank in ranks}) == 1
        full, rest = divmod(count, batch * world_size)
        single = full > 0 and rest // world_size == 1
        assert count - len(seen) == (rest if single else rest % world_size)
        assert len(set(seen)) == len(seen)
    else:
        assert seen == order


def test_last_batch_of_one_image():
    assert [s.stop - s.start for s in shares(9, 4, 0, 1, even=True, drop_last=False)] == [4, 4]
    assert [s.stop - s.start for s in shares(9, 4, 0, 1, even=False, drop_last=False)] == [4, 4, 1]
    assert [s.stop - s.start for s in shares(3, 1, 0, 1, even=True, drop_last=False)] == [1, 1, 1]
    assert [s.stop - s.start for s in shares(1, 4, 0, 1, even=True, drop_last=False)] == [1]


@pytest.mark.parametrize(("rest", "last"), [(1, []), (2, []), (3, []), (4, [2]), (5, [2])])
def test_last_batch_of_one_image_for_each_rank(rest, last):
    for rank in range(2):
        cut = shares(12 + rest, 3, rank, 2, even=True, drop_last=False)
        assert [s.stop - s.start for s in cut] == [3, 3, *last]


def test_drop_last():
    assert len(shares(10, 4, 0, 1, even=False, drop_last=True)) == 2
    assert len(shares(10, 4, 0, 1, even=False, drop_last=False)) == 3
    assert len(shares(8, 4, 0, 1, even=False, drop_last=False)) == 2
