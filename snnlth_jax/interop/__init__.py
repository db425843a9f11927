"""Networks carried to and from other libraries."""
