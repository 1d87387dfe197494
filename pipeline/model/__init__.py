"""The decoder, its vision input and the two together."""
