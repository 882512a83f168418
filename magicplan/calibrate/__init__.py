"""From kernel tables and measured device steps to fitted constants."""
