"""`mien serve`: a bundle over HTTP, with a page; nothing that is uploaded is kept."""
