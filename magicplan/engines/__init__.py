"""The words of serving engines: their settings of speculation and their launch commands."""
