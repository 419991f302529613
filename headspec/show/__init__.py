"""Makes figures of records; computes nothing."""
