"""Address arithmetic: pure functions that decide which address or subnet comes next."""
