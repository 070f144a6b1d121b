"""Command line: options in, one call into a layer below, exit statuses and JSON out."""
