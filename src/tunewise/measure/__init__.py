"""How good is it: one file per question."""
