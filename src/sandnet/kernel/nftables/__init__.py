"""nftables over netlink: elements, transactions and the translation of scripts."""
