"""The CNI dialect: one request for each call of the plugin, in which the core does all of it."""
