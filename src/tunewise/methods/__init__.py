"""How to find an adaptation: one file each, discovered in this folder and through entry points."""
