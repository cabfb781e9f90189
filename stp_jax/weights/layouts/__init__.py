"""How published models name and store their parameters, as tables of rules."""
