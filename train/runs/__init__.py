"""One run in its folder: its record, its session, its loop, its checkpoints and what it leaves to see."""
