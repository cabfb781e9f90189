"""Devices, processes, and how arrays are spread over them."""
