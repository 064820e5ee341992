"""Everything that is fetched, cached or bundled, and the only place that touches the network."""
