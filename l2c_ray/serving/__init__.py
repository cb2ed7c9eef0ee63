"""Images over HTTP: request schema, engine, and the Ray Serve application."""
