"""The twenty prompts that `make demo` draws, written down before `aurora-openglyphs-32` was trained.

The scenes are of combinations of colour and shape that no training scene contains, one object each as the
shipped model draws them; no shape and no colour comes more than twice. The glyphs are things that Open Glyphs
shows in training, in the style that the model knows.
"""

SCENE_PROMPTS: tuple[str, ...] = (
    "a red triangle",
    "a yellow circle on a black background",
    "a large orange star on a white background",
    "a cyan heart on a gray background",
    "a blue square",
    "a purple cross on a white background",
    "a green diamond",
    "a pink ring on a beige background",
    "a large red triangle on a black background",
    "a blue square on a white background",
)
GLYPH_PROMPTS: tuple[str, ...] = (
    "a red apple, noto style",
    "a red heart, noto style",
    "a pizza, noto style",
    "a sun, noto style",
    "a rocket, noto style",
    "a grinning face, noto style",
    "a cat face, noto style",
    "a house, noto style",
    "a strawberry, noto style",
    "a ghost, noto style",
)
