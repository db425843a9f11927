"""How a run lies on disk, and the types of what is in it."""
