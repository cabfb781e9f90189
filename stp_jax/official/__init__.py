"""Everything that exists only to match SpaceTimePilot's release."""
