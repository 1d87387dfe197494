"""The configuration, typed and validated: params.yaml and the files of configs/ that it names."""
