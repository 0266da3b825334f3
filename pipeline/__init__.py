"""The workflow: events in, a published release out. Steps are plain functions over files."""
