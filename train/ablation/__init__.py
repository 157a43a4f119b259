"""Variants and seeds: how they train, and the table of what came of them."""
