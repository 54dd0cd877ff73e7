"""The families of tasks in the benchmark, a file each."""
