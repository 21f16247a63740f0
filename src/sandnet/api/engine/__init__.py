"""The dialect of Docker's Engine API, for networks."""
