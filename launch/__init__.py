"""How runs are started on machines, see README.md."""
