"""What is trained, computed and drawn to answer one question each; no other room imports them."""
