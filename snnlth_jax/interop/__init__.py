"""Conversion of networks to and from other libraries."""
