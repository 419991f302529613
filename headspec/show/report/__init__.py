"""Draws a results folder as one page that works offline: what every head does, and what treating heads costs.

`parts` is what a page is drawn from, `headspec.results` finds it. Computes nothing; needs no torch.
"""
