"""A trained model as a folder that transformers loads."""
