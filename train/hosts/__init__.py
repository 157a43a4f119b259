"""Training with several processes, usually one per host."""
