"""TensorFlow Serving's configuration, and a stand-in server for machines without its image."""
