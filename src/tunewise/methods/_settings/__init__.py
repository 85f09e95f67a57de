"""The settings of every method: what can be asked before torch is loaded."""
