"""Fetches and checks models and texts."""
