"""Human judgement: how well a model's scores of pairs agree with grades that people gave."""
