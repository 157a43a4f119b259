"""What is trained: how a batch is read, the loss, the figures, predictions and pictures of one kind of work."""
