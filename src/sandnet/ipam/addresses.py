"""Allocate the addresses of one family of one network, as numbers in memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable
from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

from sandnet.errors import Error, Kind, invalid
from sandnet.model import Address, Prefix

MAC_BITS = 48


class _Runs:
    """A set of numbers, stored as runs without gaps: one search finds the next number outside, however large
    the set.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for number in sorted(numbers):
            self.add(number)

    def add(self, number: int) -> None:
        """Add ``number``, which is not in the set yet."""
        right = bisect_right(self._firsts, number)
        joins_left = right > 0 and self._lasts[right - 1] == number - 1
        joins_right = right < len(self._firsts) and self._firsts[right] == number + 1
        if joins_left and joins_right:
            self._lasts[right - 1] = self._lasts.pop(right)
            del self._firsts[right]
        elif joins_left:
            self._lasts[right - 1] = number
        elif joins_right:
            self._firsts[right] = number
        else:
            self._firsts.insert(right, number)
            self._lasts.insert(right, number)

    def remove(self, number: int) -> None:
        """Remove ``number``, which is in the set."""
        at = bisect_right(self._firsts, number) - 1
        first, last = self._firsts[at], self._lasts[at]
        rest = [run for run in ((first, number - 1), (number + 1, last)) if run[0] <= run[1]]
        self._firsts[at : at + 1] = [run[0] for run in rest]
        self._lasts[at : at + 1] = [run[1] for run in rest]

    def count(self, low: int, high: int) -> int:
        """Return how many numbers of the set are between two numbers, both included."""
        runs = zip(self._firsts, self._lasts, strict=True)
        return sum(max(0, min(last, high) - max(first, low) + 1) for first, last in runs)

    def next_outside(self, number: int) -> int:
        """Return the lowest number that is not in the set and not below ``number``."""
        at = bisect_right(self._firsts, number) - 1
        if at >= 0 and self._lasts[at] >= number:
            return self._lasts[at] + 1
        return number


class AddressUse(NamedTuple):
    """The use of a prefix."""

    in_use: int
    """Addresses of the prefix that are allocated, reserved, or never allocated."""
    available: int
    """Addresses that :meth:`Addresses.next` can still allocate."""


class Addresses:
    """The addresses that endpoints of one network may have, in one family.

    They are allocated in ascending order, wrapping round at the end, so a freed address is reused last. Some are never
    allocated: reserved ones; in IPv4 the first and last of the prefix and of the range, unless that is a /31 (RFC 3021)
    or /32; in IPv6 the first, which is the subnet-router anycast address (RFC 4291, 2.6.1), unless the prefix is a /127
    (RFC 6164) or /128.

    Args:
        prefix: the network's own prefix.
        range_: the part of the prefix from which ``next`` allocates; ``None``: all of it.
        reserved: addresses that are never allocated: the bridge's, the gateway's.
        taken: addresses that endpoints have already.
        last: the address that ``next`` allocated last, as recorded; ``None``: begin at the start of the range.
    """

    def __init__(
        self,
        prefix: Prefix,
        range_: Prefix | None = None,
        reserved: Iterable[Address] = (),
        taken: Iterable[Address] = (),
        last: Address | None = None,
    ) -> None:
        self._prefix = prefix
        self._range = range_ or prefix
        self._low, self._high = _usable(self._range)
        self._reserved = frozenset(map(int, reserved)) | _edges(prefix)
        self._taken = set(map(int, taken))
        self._unavailable = _Runs(self._reserved | self._taken)
        self._last = last

    @property
    def last(self) -> Address | None:
        """The address that ``next`` allocated last; ``None`` before the first."""
        return self._last

    def next(self, avoided: Collection[Address] = ()) -> Address:
        """Allocate the next free address after ``last``; after the end of the range, continue at its start.

        Args:
            avoided: free addresses that are allocated only when there is no other.

        Raises:
            Error: kind ``EXHAUSTED``, code ``pool_exhausted``.
        """
        start = self._low if self._last is None else int(self._last) + 1
        if not self._low <= start <= self._high:
            start = self._low
        number = self._search(start, avoided)
        if number > self._high and avoided:
            number = self._search(start, ())
        if number > self._high:
            raise self._exhausted()
        self._record_taken(number)
        self._last = self._address(number)
        return self._last

    def skip(self, count: int) -> None:
        """Let ``next`` begin so many addresses further on, wrapping round at the end of the range."""
        start = self._low - 1 if self._last is None else int(self._last)
        self._last = self._address(self._low + (start - self._low + count) % (self._high - self._low + 1))

    def _search(self, start: int, avoided: Collection[Address]) -> int:
        """Return the first free number from ``start`` on, or from the start of the range; above its end: none."""
        number = self._high + 1
        for begin in (start, self._low):
            number = self._unavailable.next_outside(begin)
            while avoided and number <= self._high and self._address(number) in avoided:
                number = self._unavailable.next_outside(number + 1)
            if number <= self._high:
                break
        return number

    def take(self, address: Address) -> None:
        """Allocate the given address, inside the range or not. This does not change where ``next`` continues.

        Raises:
            Error: kind ``INVALID`` when it is not a host address of the prefix; kind ``CONFLICT``, code
                ``address_taken``, when it is reserved or an endpoint has it.
        """
        number = int(address)
        if address.version != self._prefix.version or address not in self._prefix:
            raise invalid(f"address {address} is outside {self._prefix}", f"choose one in {self._prefix}")
        if number in _edges(self._prefix):
            raise invalid(f"address {address} stands for {self._prefix} itself", "choose another one of the subnet")
        if number in self._reserved or number in self._taken:
            holder = "reserved for the network" if number in self._reserved else "taken by another endpoint"
            hint = "choose another address, or none to get the next free one"
            raise Error(Kind.CONFLICT, f"address {address} of {self._prefix} is {holder}", hint, "address_taken")
        self._record_taken(number)

    def free(self, address: Address) -> None:
        """Release an address; do nothing when it is not taken."""
        number = int(address)
        if address.version != self._prefix.version or number not in self._taken:
            return
        self._taken.remove(number)
        if number not in self._reserved:
            self._unavailable.remove(number)

    def use(self) -> AddressUse:
        """Return how many addresses are in use, and how many are left."""
        in_range = self._unavailable.count(self._low, self._high)
        return AddressUse(self._unavailable.count(*_bounds(self._prefix)), self._high - self._low + 1 - in_range)

    def _record_taken(self, number: int) -> None:
        self._taken.add(number)
        self._unavailable.add(number)

    def _address(self, number: int) -> Address:
        return type(self._prefix.network_address)(number)

    def _exhausted(self) -> Error:
        used = sum(self._low <= number <= self._high for number in self._taken)
        hint = "delete endpoints that are not needed, or make a network with a larger subnet or range"
        return Error(
            Kind.EXHAUSTED, f"no free address in {self._range}: {used} are in use by endpoints", hint, "pool_exhausted"
        )


def embedded_ipv6(prefix: IPv6Network, mac: str) -> IPv6Address:
    """Return the address whose last six bytes are the MAC (libnetwork notes, C.3).

    Args:
        prefix: a /80 or shorter.
        mac: six bytes in hex with colons.

    Raises:
        ValueError: the prefix leaves less than six bytes, or ``mac`` is not six bytes.
    """
    octets = bytes.fromhex(mac.replace(":", ""))
    if prefix.prefixlen > prefix.max_prefixlen - MAC_BITS or len(octets) * 8 != MAC_BITS:
        raise ValueError(f"cannot embed the MAC {mac} in {prefix}")
    return prefix.network_address + int.from_bytes(octets)


def _bounds(prefix: Prefix) -> tuple[int, int]:
    first = int(prefix.network_address)
    return first, first + (1 << (prefix.max_prefixlen - prefix.prefixlen)) - 1


def _edges(prefix: Prefix) -> frozenset[int]:
    """Return the addresses of a prefix that no host may have."""
    first, last = _bounds(prefix)
    if prefix.prefixlen >= prefix.max_prefixlen - 1:
        return frozenset()
    return frozenset((first, last) if prefix.version == 4 else (first,))


def _usable(range_: Prefix) -> tuple[int, int]:
    """Return the first and last address of a range, without its edges, as in 2015 (libnetwork notes, C.3)."""
    first, last = _bounds(range_)
    edges = _edges(range_)
    return first + (first in edges), last - (last in edges)
