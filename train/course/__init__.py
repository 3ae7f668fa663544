"""The course: its lessons, their work, numbers and pages."""
