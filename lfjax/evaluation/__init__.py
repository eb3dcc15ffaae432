"""Comparing systems on the same prompts: pure functions on arrays and Records. No model, no I/O."""
