"""The embedded store: one SQLite file, its copies and its recovery."""
