"""The decoder, the image encoders with their features, and the two together."""
