"""How changes of the ruleset are written: elements, transactions, and the flows to forget."""
