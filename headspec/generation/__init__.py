"""Generates text in headspec's runtime, with heads as they are or treated live."""
