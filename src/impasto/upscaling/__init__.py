"""Super-resolution of pictures, whichever model made them; `loading.load_upscaler` gives one by name."""
