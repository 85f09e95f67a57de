"""Instructions that a language model proposes, from training rows that go wrong: optional."""
