"""What tickets are like: layers that are left, neurons that fire, operations that remain."""
