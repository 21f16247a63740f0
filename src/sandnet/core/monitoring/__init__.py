"""Watch processes and backends, and remove sandboxes whose containers have exited."""
