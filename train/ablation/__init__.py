"""Ablations: training variants with several seeds, and the table of results."""
