"""End to end at the smallest size: four captions, four pictures, both directions, the language frozen."""

import torch

from impasto.mars.sampling import SamplingSettings, caption_images, generate_images
from impasto.mars.sequence import image_to_text, text_to_image
from tests.mars.models import random_codes, tiny_model

CAPTIONS = [[5, 6, 7], [5, 6, 8, 9], [10, 11], [12, 6, 7]]


def test_it_learns_to_draw_and_to_describe():
    model, codes = tiny_model(), random_codes(4)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    drawing = text_to_image(model.config, [*CAPTIONS, []], codes[[0, 1, 2, 3, 0]])  # a dropped caption too
    describing = image_to_text(model.config, CAPTIONS, codes)
    before = model.text_logits(torch.tensor(CAPTIONS[:1]))
    for _ in range(60):
        optimiser.zero_grad()
        (model.t2i_loss(drawing) + model.i2t_loss(describing)).backward()
        optimiser.step()
    settings = SamplingSettings(temperature=0.5)
    drawn = generate_images(model, CAPTIONS, range(4), guidance=2.0, settings=settings)
    assert torch.equal(drawn, codes)
    assert caption_images(model, codes, max_tokens=8) == CAPTIONS
    assert torch.equal(model.text_logits(torch.tensor(CAPTIONS[:1])), before)
