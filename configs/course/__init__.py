"""The lessons of `python -m launch.course`, each a file of this folder, in the order of the course."""

LESSONS = (
    "tokens",
    "embeddings",
    "positions",
    "attention",
    "heads",
    "feed_forward",
    "residual",
    "next_token",
    "architecture",
    "post_training",
)
