"""Measurements and predictions meet here: sessions on a device, run files, comparisons."""
