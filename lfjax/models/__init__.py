"""One decoder for all families, its attention, and the way from and to Hugging Face directories."""
