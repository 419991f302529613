"""Turns activations into numbers per head."""
