"""Published measurements as questions, and what the predictions miss them by."""
