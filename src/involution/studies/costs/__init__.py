"""Parameters and multiply-adds beside the published figures."""
