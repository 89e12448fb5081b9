"""What networks cost and how they look inside: counting, tables, figures."""
