"""What is trained, computed and drawn to answer one question each; only commands, tools and benchmarks import them."""
