"""What exists only to match SpaceTimePilot's release."""
