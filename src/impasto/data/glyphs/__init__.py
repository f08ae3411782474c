"""Open Glyphs: openly licensed emoji in several art styles, with captions in English and Chinese."""
