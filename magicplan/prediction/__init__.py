"""One question about decoding, for one workload or a grid: step, drafts, trees, break-evens."""
