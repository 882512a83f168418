"""One page, and what writes it: terminal, Markdown and HTML."""
