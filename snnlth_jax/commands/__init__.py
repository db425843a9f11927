"""The commands of `snnlth`: what each takes, as a dataclass, and what it does."""
