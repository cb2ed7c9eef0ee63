"""Rules that make schedules without learning."""
