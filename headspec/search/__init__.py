"""Compares and chooses plans: rankings, sweeps, the best plan within a budget."""
