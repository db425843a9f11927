"""The searches for winning tickets: a file for each search."""
