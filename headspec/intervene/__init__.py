"""Changes what heads do in a live model, and undoes it."""
