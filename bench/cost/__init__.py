"""Cost of training and inference: exact counts, peak memory, interleaved times; it scores nothing, reads no data."""
