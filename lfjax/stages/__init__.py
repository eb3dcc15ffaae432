"""Stages: the steps of a recipe. Host loops, one function each."""
