"""The families of tasks as the benchmark sees them, a file each."""
