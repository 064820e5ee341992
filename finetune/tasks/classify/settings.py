"""The settings that the task ``classify`` reads in each stage. It has no section of its own."""

SECTION = None
TABLES = ("validation", "test", "encoding", "columns")
READS = {
    "download": TABLES,
    "prepare": (*TABLES, "ignore", "split", "max_length"),
    "train": ("train.class_weights",),
    "evaluate": ("evaluate",),
}
