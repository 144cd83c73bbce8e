"""Metrics: forgetting along a stream, faithfulness and localisation of maps."""
