"""Claims of the networks' subnets: of those that overlap, all hosts together claim one, also at the same instant.

The key of a claim has the exact prefix, so two claims that overlap are two keys, and no comparison of a key finds that.
A host therefore compares with all claims that it knows, and the store compares that no other one came after these.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sandnet.core.cluster.attachment_claims import SharedTransaction
from sandnet.core.cluster.host_membership import HostMembership
from sandnet.core.cluster.shared_values import SUBNETS, claimed_subnet
from sandnet.core.cluster.transaction_outcome import holds
from sandnet.core.cluster.view import ClusterView
from sandnet.ipam.pools import overlapping
from sandnet.model import Prefix
from sandnet.stores.base import Entry, Put
from sandnet.stores.shared import SHOWN_OF_CHANGES, ConditionFailed, UnchangedRange

ROUNDS: Final = 16
"""How often a transaction is sent because other claims came, none of which overlaps. Each time another host got its."""


class SubnetClaims:
    """The part of the records that claims subnets.

    Args:
        membership: sends the transactions.
        view: what the store holds.
    """

    def __init__(self, membership: HostMembership, view: ClusterView) -> None:
        self._membership, self._view = membership, view

    async def transact(self, transaction: SharedTransaction) -> None:
        """Send a transaction that may claim subnets; it is applied only where none overlaps another network's.

        Claims that came after those which this host knows refuse it. The refusal shows them; if none overlaps, it is
        sent again at once.

        Raises:
            ConditionFailed: a condition of the transaction did not hold; or a claim overlaps, and is among what was
                found; or claims came all the time.
            Error: ``UNAVAILABLE``.
        """
        wanted = {prefix: put.value for put in transaction.changes
                  if isinstance(put, Put) and (prefix := claimed_subnet(put.key))}  # fmt: skip
        if not wanted:
            await self._membership.transact(*transaction)
            return
        seen = self._view.revision  # of the claims that are compared first: later ones are not among them
        claims = self._view.subnet_claims()
        for sent in range(1, ROUNDS + 1):
            if taken := _overlapping(wanted, claims):
                raise ConditionFailed(seen, taken)
            conditions = [*transaction.conditions, UnchangedRange(SUBNETS, seen)]
            try:
                await self._membership.transact(transaction.changes, conditions)
            except ConditionFailed as refused:
                claims = [each for each in refused.found if each.key.startswith(SUBNETS) and each.revision > seen]
                others_held = all(holds(each, refused) for each in transaction.conditions)
                if not others_held or len(claims) >= SHOWN_OF_CHANGES or sent == ROUNDS:
                    raise
                seen = refused.revision
            else:
                return


def _overlapping(wanted: dict[Prefix, bytes], claims: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return the claims of other networks that share an address with a wanted one."""
    known = {prefix: entry for entry in claims if (prefix := claimed_subnet(entry.key))}
    return tuple(
        known[found]
        for prefix, holder in wanted.items()
        for found in overlapping(prefix, known)
        if known[found].value != holder
    )
