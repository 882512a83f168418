"""From a question to an answer: requests are resolved, placed on GPUs, predicted."""
