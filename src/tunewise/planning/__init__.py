"""What a run will cost, before it starts: token passes, operations, seconds, memory of each fit."""
