"""Changes of the ruleset: elements, transactions, and the removal of stale conntrack entries."""
