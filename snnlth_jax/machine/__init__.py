"""Facts about the machine that runs the program, or about one for which it only compiles."""
