"""What the task ``classify`` reads, by stage. It has no section of its own: labelled tables are the run's sections."""

SECTION = None
TABLES = ("validation", "test", "encoding", "columns")
READS = {
    "download": TABLES,
    "prepare": (*TABLES, "ignore", "split", "max_length"),
    "train": ("train.class_weights",),
    "evaluate": ("evaluate",),
}
