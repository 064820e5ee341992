"""Reading, checking and splitting of tables."""
