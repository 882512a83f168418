"""Constants of serving stacks, fitted on published rows."""
