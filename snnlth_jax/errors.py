"""Bad input, told apart from bugs: what the command line turns into one line and exit status 2."""


class InputError(ValueError):
    """What the user asked for cannot be done. The message is one line: what is wrong, and what is allowed."""
