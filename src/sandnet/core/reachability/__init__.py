"""Whether and how this host reaches the others: probes by the way that overlay networks use, and what follows."""
