"""Both stages on any model: encoded galleries, candidates, scores of pairs."""
