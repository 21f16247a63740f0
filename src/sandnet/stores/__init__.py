"""Where records live: one protocol, several implementations."""
