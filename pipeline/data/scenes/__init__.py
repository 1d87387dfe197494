"""The embedded images: scenes of emoji with captions, instructions and questions, written in the official formats."""
