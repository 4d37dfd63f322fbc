"""Which settings predict best, split by split, and what so few splits can tell."""
