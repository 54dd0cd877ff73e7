"""The ablation: the same recipe with and without its parts, over several seeds."""
