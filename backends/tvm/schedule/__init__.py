"""Schedules for whatever has no template."""
