"""Netfilter over netlink, and its subsystem nftables (``linux/netlink.h``, ``linux/netfilter/nfnetlink.h``)."""

from __future__ import annotations

from typing import Final

NETLINK_NETFILTER: Final = 12
NFNL_SUBSYS_NFTABLES: Final = 10 << 8
"""As it stands in the type of a message: in its upper byte."""
NFNL_MSG_BATCH_BEGIN: Final = 16
NFNL_MSG_BATCH_END: Final = 17
