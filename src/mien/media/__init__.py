"""Media: decoding by presentation time, faces and sound."""
