"""The embedded text: English documents, and text tasks made from them."""
