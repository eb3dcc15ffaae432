"""Generation: a sampler of fixed slots that requests enter and leave while the others go on."""
