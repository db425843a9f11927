"""What the program must know of the machine that it is on, or of one that it is not on."""
