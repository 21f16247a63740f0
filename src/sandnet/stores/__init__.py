"""Stores of the records: one interface, several implementations."""
