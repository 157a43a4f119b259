"""One run in its folder: record, session, loop, checkpoints and reports."""
