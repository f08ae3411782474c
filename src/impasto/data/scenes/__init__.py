from impasto.data.scenes.phrasing import caption
from impasto.data.scenes.render import render
from impasto.data.scenes.sampling import sample_scene
from impasto.data.scenes.score import score_image
