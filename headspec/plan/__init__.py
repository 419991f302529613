"""What shall happen to each head: a treatment per head, from a head map or by hand."""
