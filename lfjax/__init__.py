"""lfjax: align language models from language feedback in JAX. Importing it loads nothing heavy."""

__version__ = "0.1.0"
