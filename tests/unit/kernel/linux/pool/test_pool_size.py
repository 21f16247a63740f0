"""The size of the pool of prepared sandboxes: it follows demand within its bounds."""

from __future__ import annotations

from sandnet.kernel.linux.pool.pool_size import IDLE, PoolLimits, PoolSize


def burst(size: PoolSize, misses: int, now: float) -> None:
    for _ in range(misses):
        size.missed(now)


def test_pool_without_demand_has_its_least_size() -> None:
    size = PoolSize(PoolLimits(8, 128))
    size.shrink(10 * IDLE)
    assert (size.target, size.most) == (8, 128)


def test_pool_grows_to_the_size_of_a_burst() -> None:
    size = PoolSize(PoolLimits(8, 128))
    burst(size, 42, 0)
    assert size.target == 50


def test_pool_does_not_grow_beyond_its_limit() -> None:
    size = PoolSize(PoolLimits(8, 20))
    burst(size, 100, 0)
    assert size.target == 20


def test_pool_halves_when_idle_down_to_its_least_size() -> None:
    size = PoolSize(PoolLimits(8, 128))
    burst(size, 56, 0)
    sizes = []
    for minute in range(1, 6):
        size.shrink(minute * IDLE - 0.1)
        size.shrink(minute * IDLE)
        sizes.append(size.target)
    assert sizes == [32, 16, 8, 8, 8]


def test_pool_in_use_does_not_shrink() -> None:
    size = PoolSize(PoolLimits(8, 128))
    burst(size, 32, 0)
    size.taken(left=19, now=IDLE / 2)
    size.shrink(IDLE)
    assert size.target == 40
    size.taken(left=20, now=IDLE)
    size.shrink(1.5 * IDLE)
    assert size.target == 20


def test_pool_of_size_zero_stays_off() -> None:
    size = PoolSize(PoolLimits(0, 128))
    burst(size, 5, 0)
    assert (size.target, size.most) == (0, 0)
