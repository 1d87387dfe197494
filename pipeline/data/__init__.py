"""Where the data comes from: readers of the official formats, the embedded sources, and what packs sequences into shards."""
