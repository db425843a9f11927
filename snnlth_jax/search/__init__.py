"""The searches for winning tickets: one search, one file."""
