"""Small trainable layers beside frozen ones."""
