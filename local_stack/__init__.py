"""The whole stack on one machine: for the demo, for development, for tests and measurements."""
