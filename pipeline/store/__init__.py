"""The artifacts on disk, their cards, and whether they are what today's study asks for."""
