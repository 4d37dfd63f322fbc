"""DiffPool message passing for chemprop."""
