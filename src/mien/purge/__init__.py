"""`mien purge`: a person who withdraws leaves datasets, caches, runs, reports and bundles."""
