"""The HTTP API: the routes of each dialect, and the mapping between messages and the model."""
