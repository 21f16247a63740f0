"""Watch processes and backends, and remove what has exited."""
