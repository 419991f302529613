"""What a benchmark compares: one small file a system, all read through the same few calls."""
