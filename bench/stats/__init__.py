"""Statistics of samples: intervals, resampling, A/A noise, subspaces."""
