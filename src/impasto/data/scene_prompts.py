"""Prompts that models of scenes are judged by. Every one asks for a combination of colour and shape that no
training scene contains; the list was fixed before any model was trained."""

HELD_OUT_PROMPTS: tuple[str, ...] = (
    "a red triangle",
    "a large orange star on a white background",
    "a yellow circle on a black background",
    "a green diamond and a red circle",
    "a cyan heart on a gray background",
    "a small blue square",
    "a purple cross above a yellow star",
    "a pink ring to the left of a green square",
    "a blue square to the right of an orange circle",
    "two red triangles on a beige background",
)
