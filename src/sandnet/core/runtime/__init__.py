"""Shared by all operations: the context, the locks, and the execution of operations."""
