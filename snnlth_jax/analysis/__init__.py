"""Analysis of tickets: layers that are left, neurons that fire, operations that remain."""
