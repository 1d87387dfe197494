"""When should a language model first see images? A study as a pipeline."""
