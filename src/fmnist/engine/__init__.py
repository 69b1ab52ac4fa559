"""Networks on the data set, many at once: from a run config to a trained run's figures."""
