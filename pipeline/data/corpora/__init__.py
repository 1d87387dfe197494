"""Real corpora, on disk or S3: their files are listed, hashed and converted to shards."""
