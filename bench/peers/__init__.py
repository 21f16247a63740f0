"""Other programs that do the same, each measured beside sandnet where it is installed."""
