"""Commands that read and write single files: what each takes, as a dataclass, and what it does."""
