"""Small trainable layers added to frozen ones."""
