"""What all operations share: the context, locks, and how an operation runs to its end."""
