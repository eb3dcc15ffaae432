"""The small world: makes Records and judges them perfectly. It trains nothing; recipes do."""
