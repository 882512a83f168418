"""What each version of a serving engine can run: drafts, trees, formats, layouts."""
