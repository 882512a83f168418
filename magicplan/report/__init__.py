"""The only code that formats: terminal, JSON, CSV, pictures."""
