"""How maintainers make what the package ships; nothing here is in the wheel."""
