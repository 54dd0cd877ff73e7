"""The two towers of a network: what a backbone gives, and what of it is not trained."""
