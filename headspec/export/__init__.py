"""From a head plan to a checkpoint: cutting weights and writing folders."""
