"""The kernel room's protocols in memory, for tests."""
