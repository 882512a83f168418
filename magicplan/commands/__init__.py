"""One function a command: it parses, calls one function and hands to the report. No arithmetic."""
