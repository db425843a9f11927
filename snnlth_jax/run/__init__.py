"""The files of a run, and the types of their contents."""
