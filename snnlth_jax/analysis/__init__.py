"""Analysis of tickets: sparsity and health of layers, spikes of neurons, number of operations."""
