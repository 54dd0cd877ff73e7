"""What families share: data sets, resampling, which images a model has seen."""
