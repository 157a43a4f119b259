"""Tasks: how batches are read, losses, metrics, predictions and plots of one kind of training."""
