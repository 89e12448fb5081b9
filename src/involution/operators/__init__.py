"""The operators as PyTorch knows them: schemas, fakes, derivatives, rules for vmap, operation counts."""
