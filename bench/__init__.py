"""The benchmarks: what sandnet promises about speed and size, measured (``make bench``)."""
