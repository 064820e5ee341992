"""The sections of a classifier's page: one file each, from values alone, without torch."""
