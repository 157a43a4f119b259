"""Several processes, usually one on each host."""
