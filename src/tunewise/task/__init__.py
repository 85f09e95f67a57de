"""What the user wants: load, clean, split, render, score."""
