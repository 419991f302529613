"""What a model is worth: how well it predicts, next to the original."""
