"""Says of every figure of a report what its unit is and how it is measured; METHODOLOGY.md explains each."""

HOW = (
    ("trained", "parameters", "unique tensors that need a gradient; the task head is counted apart"),
    ("stored per task", "bytes", "what inference needs beside the backbone and the head"),
    ("FLOPs", "floating point operations", "matrix products and attention of one step, counted; exact on any machine"),
    ("saved activations", "bytes", "tensors that autograd keeps for backward, by storage, parameters left out; exact"),
    ("predicted peak", "bytes", "largest sum of live tensors in the second step of the model on tensors without data"),
    ("peak memory (counted)", "bytes", "largest sum of live tensors in the second training step; exact"),
    ("peak GPU memory", "bytes", "`max_memory_allocated` of each phase of a training step"),
    ("grows as", "polynomial", "least squares in x, the swept quantity; ≈: it misses a counted point by over 0.1 %"),
    ("exponent", "power", "d log(figure) / d log(x) of that polynomial at the largest x"),
    ("times", "seconds", "median over interleaved blocks; ratios are paired with the baseline round by round"),
    ("ratio interval", "ratio", "95 %: hull of the block bootstrap of the median and Student's t over block medians"),
    ("latency", "seconds", "inference of one batch, against the bare backbone with the same head, interleaved"),
    ("switch", "seconds", "median time to load another task's delta into the running model"),
    ("A/A control", "ratio", "the baseline against itself in the same rounds; beyond 3 % only wide margins hold"),
    ("score", "points of 100", "main metric of the task on rows that training never saw; ± is 95 % over seeds"),
    ("difference", "points of 100", "paired by task and seed, pairs that both have; 95 % Student t"),
    ("learning rates", "", "the search that gave them, the same for every method of a fair table, or that none did"),
    ("over test rows", "points of 100", "the same trained models, paired by row and seed; 95 % bootstrap over rows"),
    ("McNemar p", "p-value", "exact, of rows that only one side gets right; twice the median over seeds, Holm"),
    (
        "on the front",
        "probability",
        "share of bootstrap draws: no method is cheaper and as good, or as cheap and better",
    ),
    ("the best", "probability", "share of the same draws in which its mean score is the highest; equals share a draw"),
    ("average rank", "1 the best", "by score in each (task, seed) that all compared methods have; 95 % Student t"),
    ("score on the way", "points of 100", "the test score after equal shares of the steps; nothing is chosen by it"),
    (
        "training FLOPs",
        "floating point operations",
        "forward and backward of all batches, from counts",
    ),
    (
        "cost to reach",
        "steps, time, FLOPs",
        "to the first reading at 99 % of the baseline's mean; median of seeds",
    ),
    (
        "rank at searched rates",
        "1 the best",
        "by mean score, beside that at default rates; Kendall's tau-b",
    ),
    ("bag of words", "points of 100", "logistic regression on word counts, same rows: what needs no language model"),
)
"""Figure, unit, how it is measured."""
