"""The embedded store: one SQLite file, its backups and its recovery."""
