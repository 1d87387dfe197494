"""Where the data comes from: sources, readers of the official formats, and what writes MDS."""
