"""What is asked of every adaptation: one file per question, discovered."""
