"""The capacity plan: which GPUs, how many, laid out how, at what cost, and how sure that is."""
