"""Control groups, by which container engines mark the processes of their containers."""
