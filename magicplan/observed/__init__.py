"""What a running server reports of a benchmark, beside the prediction of it."""
