"""Tunewise: fine-tune the weights or tune the prompt? Measured on your own task.

Importing this package does nothing else: no torch, no seeds, no settings.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
