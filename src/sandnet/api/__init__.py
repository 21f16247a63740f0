"""HTTP: routes of each dialect, and their mapping to and from the model."""
