"""What a recipe would need on accelerators that are not here."""
