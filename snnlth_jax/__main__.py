"""`python -m snnlth_jax`: the `snnlth` command."""

import sys

from snnlth_jax._extra import command

if __name__ == "__main__":
    sys.exit(command())
