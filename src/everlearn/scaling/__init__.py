"""Scaling: one language model from a laptop to a cluster, and the planner that says what a layout will cost."""
