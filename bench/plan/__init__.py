"""From a suite to a plan: selection, budgets, sweeps, searches for rates."""
