"""The web page, mounted in the server of the API. It loads nothing from elsewhere and reports nothing."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from fastapi import FastAPI

from impasto.serve.engine import Engine
from impasto.serve.limits import MOST_PICTURES
from impasto.serve.page_queue import PageError
from impasto.serve.page_work import STEPS, PageWork
from impasto.serve.served import Served

HISTORY = 60  # pictures of one visit
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
CSS = """
gradio-app, .gradio-container, .gradio-container .app, .gradio-container main {
  min-width: 0 !important; max-width: 100vw !important; width: 100%; box-sizing: border-box}
.gradio-container .app {padding: 12px !important}
.gradio-container main {padding: 0 !important; max-width: 1100px !important; margin: 0 auto !important}
#levels .grid-container {max-width: 420px}
.pictures img {image-rendering: pixelated}
.pictures .grid-wrap {max-height: none !important; min-height: 0 !important; height: auto !important}
.pictures.block {min-height: 0 !important}
.files button[aria-label*="emove"] {display: none}
.quiet {opacity: .75; font-size: .9em}
.shares {overflow-x: auto; font-size: .85em}
.shares td, .shares th {white-space: nowrap; padding: 4px 8px !important}
"""
EXAMPLES = ["a red circle", "a blue square on a gray background", "a green triangle on a white background"]


def mount_page(app: FastAPI, engine: Engine, most_characters: int) -> FastAPI:
    """The page at / of an application; every address that is there already stays."""
    page = build_page(PageWork(engine, most_characters))
    page.queue(default_concurrency_limit=8, max_size=64, api_open=False)
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        max_file_size="16mb",
        ssr_mode=False,
        show_error=True,
        enable_monitoring=False,
        mcp_server=False,
        theme=gr.themes.Default(font=SYSTEM_FONTS, font_mono=("ui-monospace", "monospace")),
        css=CSS,
    )


def build_page(work: PageWork) -> gr.Blocks:
    """Tabs for what the served models can do."""
    families = {served.family for served in work.engine.models.values()}
    with gr.Blocks(title="Impasto", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("# Impasto\nPictures from words, by sparse experts.")
        with gr.Tabs():
            with gr.Tab("Draw", id="draw"):
                _draw_tab(work)
            if "aurora" in families:
                with gr.Tab("Walk", id="walk"):
                    _walk_tab(work)
                with gr.Tab("Inside", id="inside"):
                    _inside_tab(work)
            if work.engine.upscalers:
                with gr.Tab("Enlarge", id="enlarge"):
                    _enlarge_tab(work)
            if "mars" in families:
                with gr.Tab("Describe", id="describe"):
                    _describe_tab(work)
    return page


def _draw_tab(work: PageWork) -> None:
    history = gr.State([])
    with gr.Row(equal_height=True):
        prompt = gr.Textbox(
            EXAMPLES[0], label="Prompt", lines=1, max_lines=4, autofocus=True, elem_id="prompt", scale=4,
            max_length=work.most_characters,
        )  # fmt: skip
        button = gr.Button("Draw", variant="primary", elem_id="draw-button", min_width=120)
    with gr.Row():
        with gr.Column(scale=3, min_width=280):
            gallery = gr.Gallery(
                show_label=False, columns=2, object_fit="contain", height="auto", elem_classes="pictures",
                elem_id="gallery", interactive=False, buttons=["download", "fullscreen"],
            )  # fmt: skip
            files = gr.Files(
                label="Download, with the settings inside", visible=False, interactive=False,
                elem_classes="files",
            )  # fmt: skip
        with gr.Column(scale=2, min_width=280):
            gr.Examples([[text] for text in EXAMPLES], inputs=[prompt], label="For example")
            settings = _draw_settings(work)
    with gr.Accordion("Earlier pictures of this visit", open=False):
        earlier = gr.Gallery(
            show_label=False, columns=6, height="auto", object_fit="contain", elem_classes="pictures",
            interactive=False, buttons=["download", "fullscreen"],
        )  # fmt: skip

    def drawn(
        name: str, text: str, number: int, start: int, anew: bool, size: str, psi: float, follow: float,
        heat: float, past: list,
    ) -> Iterator[tuple]:  # fmt: skip
        start = secrets.randbelow(2**31) if anew else int(start or 0)
        options = {
            **({} if psi == 1 else {"truncation": psi}),
            **({} if follow == 0 else {"guidance": follow}),
            **({} if heat == 1 else {"temperature": heat}),
        }
        shown: list[Any] = []
        for shown in _told(work.draw(name, text, int(number), start, size, options)):
            yield shown, gr.skip(), start, gr.skip(), gr.skip()
        past = ([(file, f"{text} · {label}") for file, label in shown] + past)[:HISTORY]
        yield shown, gr.Files([file for file, _ in shown], visible=True), start, past, past

    model, seed = settings[0], settings[2]
    inputs = [model, prompt, *settings[1:], history]
    outputs = [gallery, files, seed, history, earlier]
    for event in (button.click, prompt.submit):
        event(drawn, inputs, outputs, show_progress="minimal")


def _draw_settings(work: PageWork) -> list[Any]:
    """Model, count, seed, another seed, size, truncation, guidance, temperature."""
    models = list(work.engine.models)
    model = gr.Radio(models, value=models[0], label="Model", visible=len(models) > 1)
    count = gr.Slider(1, MOST_PICTURES, value=4, step=1, label="How many")
    seed = gr.Number(7, label="Seed", precision=0, minimum=0, maximum=2**32 - 1)
    other = gr.Checkbox(False, label="another seed each time")
    size = gr.Radio(**_sizes(work.engine.default), label="Size")
    family = work.engine.default.family
    truncation = gr.Slider(
        0, 1, value=1, step=0.05, label="Truncation: 1 is none, 0 the mean picture",
        visible=family == "aurora",
    )  # fmt: skip
    guidance = gr.Slider(
        0, 10, value=0, step=0.5, label="Guidance by the prompt; 0: the model's own",
        visible=family == "mars",
    )  # fmt: skip
    temperature = gr.Slider(0, 2, value=1, step=0.05, label="Temperature", visible=family == "mars")

    def chosen(name: str) -> tuple[Any, ...]:
        served = work.engine.models[name]
        aurora = gr.update(visible=served.family == "aurora")
        mars = gr.update(visible=served.family == "mars")
        return gr.update(**_sizes(served)), aurora, mars, mars

    model.change(chosen, [model], [size, truncation, guidance, temperature], show_progress="hidden")
    return [model, count, seed, other, size, truncation, guidance, temperature]


def _walk_tab(work: PageWork) -> None:
    gr.Markdown("From one prompt to another, or from one noise to the next.", elem_classes="quiet")
    frames = gr.State([])
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            model = _aurora_choice(work)
            first = gr.Textbox(EXAMPLES[0], label="From", elem_id="walk-from")
            second = gr.Textbox(EXAMPLES[1], label="To", elem_id="walk-to")
            through = gr.Radio(
                [("between the two prompts", "text"), ("between two noises, first prompt", "z")],
                value="text", label="Walk",
            )  # fmt: skip
            seed = gr.Number(7, label="Seed", precision=0, minimum=0, maximum=2**32 - 1)
            truncation = gr.Slider(0, 1, value=1, step=0.05, label="Truncation")
            button = gr.Button("Walk", variant="primary", elem_id="walk-button")
        with gr.Column(scale=3, min_width=280):
            step = gr.Slider(
                0,
                STEPS - 1,
                value=0,
                step=1,
                label="Where on the way",
                elem_id="walk-step",
                interactive=False,
            )
            picture = gr.Image(
                show_label=False, type="filepath", interactive=False, elem_id="walk-picture", height=280,
                buttons=["download", "fullscreen"],
            )  # fmt: skip
            strip = gr.Image(show_label=False, type="filepath", interactive=False, buttons=["download"])
            moving = gr.File(label="There and back, as GIF", visible=False, interactive=False)

    def walked(name: str, one: str, two: str, start: float, psi: float, way: str) -> tuple:
        made, gif, row = _saying(lambda: work.walk(name, one, two, int(start or 0), psi, way))
        return made, gr.update(value=0, interactive=True), made[0], row, gr.update(value=gif, visible=True)

    button.click(
        walked, [model, first, second, seed, truncation, through], [frames, step, picture, strip, moving]
    )
    step.change(
        lambda at, made: made[min(int(at), len(made) - 1)] if made else None,
        [step, frames], [picture], queue=False, show_progress="hidden",
    )  # fmt: skip


def _inside_tab(work: PageWork) -> None:
    gr.Markdown(
        "Every level of the picture as it grows, and which expert made which point of it.",
        elem_classes="quiet",
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            model = _aurora_choice(work)
            prompt = gr.Textbox(EXAMPLES[0], label="Prompt", elem_id="inside-prompt")
            seed = gr.Number(7, label="Seed", precision=0, minimum=0, maximum=2**32 - 1)
            truncation = gr.Slider(0, 1, value=1, step=0.05, label="Truncation")
            button = gr.Button("Look inside", variant="primary", elem_id="inside-button")
        with gr.Column(scale=3, min_width=280):
            levels = gr.Gallery(
                show_label=False, columns=2, object_fit="contain", height="auto", elem_classes="pictures",
                interactive=False, elem_id="levels",
            )  # fmt: skip
            experts = gr.Image(
                show_label=False, type="filepath", interactive=False, elem_id="experts",
                buttons=["download", "fullscreen"],
            )  # fmt: skip
            table = gr.Markdown(elem_classes="shares")

    def looked(name: str, text: str, start: float, psi: float) -> tuple:
        return _saying(lambda: work.inside(name, text, int(start or 0), psi))

    for event in (button.click, prompt.submit):
        event(looked, [model, prompt, seed, truncation], [levels, experts, table])


def _enlarge_tab(work: PageWork) -> None:
    with gr.Row():
        with gr.Column(min_width=280):
            source = gr.Image(label="Picture", type="filepath", sources=["upload", "clipboard"], height=280)
            scales = [(f"{scale} times as large", scale) for scale in work.engine.upscalers]
            scale = gr.Radio(scales, value=scales[-1][1], label="How large")
            button = gr.Button("Enlarge", variant="primary", elem_id="enlarge-button")
        with gr.Column(min_width=280):
            result = gr.Image(
                label="Larger", type="filepath", interactive=False, buttons=["download"], elem_id="enlarged",
            )  # fmt: skip
    button.click(
        lambda file, times: _saying(lambda: work.enlarge(file, int(times))), [source, scale], [result]
    )


def _describe_tab(work: PageWork) -> None:
    with gr.Row():
        with gr.Column(min_width=280):
            source = gr.Image(label="Picture", type="filepath", sources=["upload", "clipboard"], height=280)
            language = gr.Radio([("English", "en"), ("中文", "zh")], value="en", label="Language")
            button = gr.Button("Describe", variant="primary", elem_id="describe-button")
        with gr.Column(min_width=280):
            text = gr.Textbox(label="What is in it", lines=3, interactive=False, elem_id="description")
    button.click(
        lambda file, spoken: _saying(lambda: work.describe(file, spoken)), [source, language], [text]
    )


def _aurora_choice(work: PageWork) -> gr.Radio:
    names = [name for name, served in work.engine.models.items() if served.family == "aurora"]
    return gr.Radio(names, value=names[0], label="Model", visible=len(names) > 1)


def _sizes(served: Served) -> dict[str, Any]:
    """Choices of a radio, and what is chosen at first: as the model draws by itself."""
    names = list(served.sizes)
    return {"choices": names, "value": names[0], "visible": len(names) > 1}


def _saying(function: Callable[[], Any]) -> Any:
    """Its result, or its sentence in a corner of the page."""
    try:
        return function()
    except PageError as error:
        raise gr.Error(str(error), print_exception=False) from None


def _told(steps: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from steps
    except PageError as error:
        raise gr.Error(str(error), print_exception=False) from None
