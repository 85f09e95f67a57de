"""Use them all: one base model in memory, each request naming its own adaptation of it."""
