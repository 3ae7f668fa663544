"""The lessons of `python -m launch.course`, each a file of this folder, in the order of the course."""

LESSONS = ("next_token",)
