"""Address arithmetic: pure functions that choose the next free address or subnet."""
