"""The ground floor: flat files that also travel with an exported checkpoint.

They import torch, transformers and each other only, raise plain `ValueError`, and give shapes in docstrings.
"""
